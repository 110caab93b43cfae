"""Programs: with real ones that answer, and with real ones that do all that they should not."""

import os
import sys
import time
from pathlib import Path

import pytest

from deregister_agent.host import pids, programs
from deregister_agent.host.programs import (
    Completed,
    Partner,
    ProgramError,
    Run,
    completed,
    output_of,
    plain_environment,
)

LONG = 20.0  # seconds: an end that a test never waits for


def python(code: str, **keys: object) -> Run:
    return Run((sys.executable, "-I", "-S", "-c", code), plain_environment(), **keys)  # type: ignore[arg-type]


def shell(script: str, **keys: object) -> Run:
    return Run(("/bin/sh", "-c", script), plain_environment(), **keys)  # type: ignore[arg-type]


def assert_dies(pid: int) -> None:
    end = time.monotonic() + LONG
    while pids.find(pid) is not None:
        assert time.monotonic() < end, f"process {pid} lives"
        time.sleep(0.01)


class TestCompleted:
    def test_how_it_ended_and_what_it_said(self) -> None:
        """Exit status, output and errors are told, each by its own."""
        ended = completed(shell("echo out; echo err >&2; echo last >&2; exit 3"), LONG)
        assert ended == Completed(3, b"out\n", b"err\nlast\n")
        assert ended.why == "exit status 3: last"

    def test_a_signal(self) -> None:
        """A program that was killed by somebody else is said to be."""
        assert completed(shell("kill -TERM $$"), LONG).why == "killed by signal 15"

    def test_merged(self) -> None:
        """Errors stand between the output, in the order in which they were printed."""
        run = shell("echo 1; echo 2 >&2; echo 3", merged=True)
        assert completed(run, LONG) == Completed(0, b"1\n2\n3\n", b"")

    def test_an_end_within_the_time_in_spite_of_closed_pipes(self) -> None:
        """A program that has closed its pipes is still waited for."""
        run = shell("exec >&- 2>&-; sleep 0.2; exit 7")
        assert completed(run, LONG).status == 7

    def test_closed_pipes_and_no_end(self) -> None:
        """A program that has closed its pipes and goes on is killed at its limit."""
        with pytest.raises(ProgramError, match=r"no end within 0\.2 s; killed"):
            completed(shell("exec >&- 2>&-; exec sleep 600"), 0.2)

    def test_children_of_children_end_at_the_limit(self, tmp_path: Path) -> None:
        """The whole group is killed, and the program leaves no zombie."""
        told = tmp_path / "pids"
        script = f"sh -c 'sleep 600 & echo $! >> {told}; wait' & echo $! >> {told}; wait"
        with pytest.raises(ProgramError, match="no end within 1 s; killed, with all"):
            completed(shell(f"echo $$ >> {told}; {script}"), 1.0)
        started = [int(pid) for pid in told.read_text().split()]
        assert len(started) == 3
        for pid in started:
            assert_dies(pid)
        with pytest.raises(ChildProcessError):
            os.waitpid(started[0], os.WNOHANG)

    def test_too_much(self) -> None:
        """A program that prints without an end is killed, and nothing of it is believed."""
        with pytest.raises(ProgramError, match="more than 1000 bytes; killed"):
            completed(shell("exec yes", output_limit=1000), LONG)

    def test_too_much_at_once(self) -> None:
        """What comes with the exit is bounded as well."""
        with pytest.raises(ProgramError, match="more than 4 bytes"):
            completed(shell("echo 12345", output_limit=4), LONG)

    def test_an_heir_that_fills_the_pipe(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A child that goes on complaining after the exit holds up nobody beyond the limit."""
        monkeypatch.setattr(programs, "PIPE", 1)  # so that the reader is the slower one
        with pytest.raises(ProgramError, match="no end within 1 s"):
            completed(shell("setsid timeout 20 yes >&2 & sleep 0.2"), 1.0)

    def test_an_heir_that_is_still(self) -> None:
        """What a program has left running is not waited for."""
        began = time.monotonic()
        ended = completed(shell("sleep 5 & echo $!"), LONG)
        assert ended.status == 0
        assert time.monotonic() - began < 4
        os.kill(int(ended.output), 15)

    def test_standard_input(self) -> None:
        """What is given can be read, and need not be."""
        given = b"x" * 300_000
        assert output_of(shell("wc -c", given=given), LONG).strip() == b"300000"
        assert output_of(shell("echo no", given=given), LONG) == b"no\n"
        assert output_of(shell("wc -c"), LONG).strip() == b"0"

    def test_an_exit_status_is_an_error_where_only_output_counts(self) -> None:
        """The error tells the status, and whether the program complained."""
        with pytest.raises(ProgramError) as caught:
            output_of(shell("echo hm >&2; exit 10"), LONG)
        assert (caught.value.status, caught.value.complained) == (10, True)

    def test_not_there(self) -> None:
        with pytest.raises(ProgramError, match="cannot be started"):
            completed(Run(("/nonexistent/program",), {}), LONG)


def test_the_environment_is_bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the agent's own environment goes to a program, but what is named."""
    monkeypatch.setenv("AGENT_TOKEN", "secret")
    monkeypatch.setenv("LANG", "C.UTF-8")
    assert set(plain_environment()) <= {"PATH", "HOME", "LANG"}
    assert plain_environment()["LANG"] == "C.UTF-8"
    assert plain_environment("AGENT_TOKEN")["AGENT_TOKEN"] == "secret"
    monkeypatch.delenv("PATH")
    assert plain_environment()["PATH"] == os.defpath


ECHO = """
import os, sys
for line in sys.stdin:
    print(os.getpid(), flush=True)
"""


class TestPartner:
    def test_is_kept(self) -> None:
        """One program answers question after question."""
        partner = Partner()
        first = partner.ask(python(ECHO), LONG)
        assert partner.ask(python(ECHO), LONG) == first

    def test_one_that_ended_is_replaced(self) -> None:
        """A program that was killed between two questions is started again, unnoticed."""
        partner = Partner()
        first = int(partner.ask(python(ECHO), LONG))
        os.kill(first, 9)
        assert int(partner.ask(python(ECHO), LONG)) != first

    def test_one_that_only_ends(self) -> None:
        """A program that ends instead of answering says why."""
        with pytest.raises(ProgramError, match="exit status 4: no luck"):
            Partner().ask(shell("echo no luck >&2; exit 4"), LONG)

    def test_one_that_hangs(self) -> None:
        """A program that does not answer is killed, and the next question starts another."""
        partner = Partner()
        with pytest.raises(ProgramError, match=r"no answer within 0\.2 s; killed"):
            partner.ask(shell("exec sleep 600"), 0.2)
        assert int(partner.ask(python(ECHO), LONG)) > 0

    def test_it_ends_with_its_owner(self) -> None:
        """Nobody's partner runs on."""
        partner = Partner()
        pid = int(partner.ask(python(ECHO), LONG))
        del partner
        assert_dies(pid)
