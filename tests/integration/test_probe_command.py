"""The command probe: with programs that answer, and with programs that do not."""

import json
import os
import sys
from pathlib import Path

import pytest

from deregister_agent.errors import ProbeError
from deregister_agent.model import Instance, Reading
from deregister_agent.probes.command import CommandProbe, Options, build
from tests.servers.child import Child, wait_until


def probe(program: str, *more: str, **keys: object) -> CommandProbe:
    command = [sys.executable, "-I", "-S", "-c", program, *more]
    table = {"kind": "command", "command": command, "timeout": 20.0} | keys
    options = Options.model_validate_json(json.dumps(table))
    return build(options, Instance("orders-1", "orders", "127.0.0.1", 8080))


ALIVE = """
import os, sys, time
if os.fork():
    open(sys.argv[1], "w").close()
while True:
    time.sleep(1)
"""
LEAVES_ONE_BEHIND = """
import os, sys, time
child = os.fork()
if not child:
    time.sleep(60)
    os._exit(0)
open(sys.argv[1], "w").write(str(child))
print(3)
"""
FAIL_CLOSED = {
    "failing": ("import sys; print(0); sys.exit(3)", "exit status 3"),
    "its last words": ("print(0); raise SystemExit('no broker')", "exit status 1: no broker"),
    "killed": ("import os; print(0, flush=True); os.kill(os.getpid(), 9)", "killed by signal 9"),
    "nothing": ("", "it printed nothing, not one whole number"),
    "negative": ("print(-1)", "it printed '-1'"),
    "fraction": ("print(0.5)", "it printed '0.5'"),
    "nan": ("print('NaN')", "it printed 'NaN'"),
    "words": ("print('0 tasks')", "it printed '0 tasks'"),
    "two numbers": ("print(0); print(1)", "it printed '0\\n1'"),
    "html": ("print('<html>0</html>')", "it printed '<html>0</html>'"),
    "a space inside": ("print('1 000')", "it printed '1 000'"),
    "an underscore inside": ("print('1_000')", "it printed '1_000'"),
    "spaces only": ("print('  ')", "it printed nothing, not one whole number"),
    "a nul": ("print('0\\0')", "it printed '0"),
    "asked to end": ("import os; print(0, flush=True); os.kill(os.getpid(), 15)", "by signal 15"),
    "plus": ("print('+1')", "it printed '+1'"),
    "digits of others": ("import sys; sys.stdout.buffer.write('٣'.encode())", "it printed"),
    "too many digits": ("print('9' * 99)", "it printed '999"),
    "huge": ("while True: print('0' * 9999)", "it printed more than 4096 bytes; killed"),
    "huge and done": ("print('0' * 60000)", "it printed more than 4096 bytes"),
}


class TestCommand:
    @pytest.mark.parametrize("case", FAIL_CLOSED)
    def test_fails_closed(self, case: str) -> None:
        """Only exit status 0 and one plain number tell anything."""
        program, why = FAIL_CLOSED[case]
        with pytest.raises(ProbeError, match=r"^command: cannot tell what is in flight") as caught:
            probe(program).read(0.0)
        assert why in str(caught.value)

    def test_no_such_program(self) -> None:
        """A program that is not there, or may not be run, tells nothing."""
        for command in ("/nonexistent/program", "/dev/null"):
            with pytest.raises(ProbeError, match="it cannot be started"):
                probe("", command=[command]).read(0.0)

    def test_a_slow_program_and_its_children_are_killed(self, tmp_path: Path) -> None:
        """At the timeout nothing of it is left over, also not what it has started."""
        mark = tmp_path / "started"
        slow = probe(ALIVE, str(mark), timeout=1.0)
        with pytest.raises(ProbeError, match="no end within 1 s; killed, with all it had started"):
            slow.read(0.0)
        assert mark.exists()
        wait_until(lambda: not running(str(mark)), "all of it has ended")

    def test_what_it_leaves_behind_is_not_waited_for(self, tmp_path: Path) -> None:
        """A child that keeps standard output open does not delay the answer."""
        left = tmp_path / "pid"
        try:
            assert probe(LEAVES_ONE_BEHIND, str(left)).read(0.0) == Reading({"tasks": 3})
            assert running(str(left))
        finally:
            os.kill(int(left.read_text()), 9)

    def test_what_it_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It learns which instance is meant and what env says, and no secret of the agent's."""
        monkeypatch.setenv("AGENT_TOKEN", "s3cret")
        monkeypatch.setenv("OTHER_SECRET", "inherited")
        program = f"""
import json, os
json.dump(dict(os.environ, folder=os.getcwd()), open({str(tmp_path / "told")!r}, "w"))
print(0)
"""
        probe(program, env={"A": "b", "C": {"env": "AGENT_TOKEN"}}, folder=str(tmp_path)).read(0.0)
        told = json.loads((tmp_path / "told").read_text())
        assert (told["A"], told["C"], told["DEREGISTER_INSTANCE"]) == ("b", "s3cret", "orders-1")
        assert (told["DEREGISTER_PORT"], told["folder"]) == ("8080", str(tmp_path))
        assert not {"AGENT_TOKEN", "OTHER_SECRET"} & told.keys()

    def test_a_secret_that_is_missing(self) -> None:
        """Without its secret the program is not run."""
        with pytest.raises(ProbeError, match="environment variable NOT_THERE is empty"):
            probe("print(0)", env={"C": {"env": "NOT_THERE"}}).read(0.0)

    def test_what_it_counts(self) -> None:
        """The number goes under the kind of work that the operator names."""
        assert probe("print(' 7 ')", counts="messages").read(0.0).in_flight == {"messages": 7}

    def test_work_held_open(self, tmp_path: Path) -> None:
        """Jobs of another program, counted by its files, are told up and down to nothing."""
        jobs = tmp_path / "jobs"
        jobs.mkdir()
        count = probe("import os, sys; print(len(os.listdir(sys.argv[1])))", str(jobs))
        worker = (
            "import os, sys, time\n"
            "for n in range(3): open(f'{sys.argv[1]}/{n}', 'w').close()\n"
            "while not os.path.exists(sys.argv[2]): time.sleep(0.01)\n"
            "for n in range(3): os.unlink(f'{sys.argv[1]}/{n}')\n"
        )
        release = tmp_path / "release"
        command = [sys.executable, "-c", worker, str(jobs), str(release)]
        with Child(command, tmp_path / "log"):
            wait_until(lambda: count.read(0.0).in_flight == {"tasks": 3}, "three jobs are told")
            release.touch()
            wait_until(lambda: count.read(0.0).idle, "it is idle")


def running(argument: str) -> bool:
    """Whether a process with this argument is there, zombies left out."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if argument.encode() in line.split(b"\0"):
            return True
    return False
