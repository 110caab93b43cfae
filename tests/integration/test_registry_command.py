"""The ``command`` registry: with programs that answer, crash, hang, and leave others behind."""

import json
import os
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from deregister_agent.errors import RegistryError
from deregister_agent.model import Instance, Listing, Look
from deregister_agent.registries.command import CommandRegistry, Options, build
from tests.servers.child import wait_until


def python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", program, *arguments]


def registry(**table: object) -> CommandRegistry:
    """Build it as from a configuration file; what is not given does nothing and says 0."""
    nothing = {key: ["true"] for key in ("withdraw", "restore", "lists")}
    options = Options.model_validate_json(json.dumps({"kind": "command"} | nothing | table))
    return build(options, Instance("orders-1", "orders", "127.0.0.1", 8080))


UNKNOWN = {
    "another status": ("raise SystemExit(2)", "exit status 2"),
    "a crash": ("raise ValueError('no broker')", "exit status 1: ValueError: no broker"),
    "last words": (
        "import sys; print('no broker', file=sys.stderr); sys.exit(10)",
        "complains on standard error.*no broker",
    ),
    "a signal": ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
    "too much": ("print('0' * 99999); raise SystemExit(10)", "printed more than 4096 bytes"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_unknown_is_not_withdrawn(case: str) -> None:
    """Only the one exit status, without a complaint, means "not listed"."""
    program, why = UNKNOWN[case]
    with pytest.raises(RegistryError, match=why):
        registry(lists=python(program)).lists()


def test_a_pipe_down_which_nothing_came() -> None:
    """What asks has failed without a word, and what searches its answer says 1: not known."""
    script = ["sh", "-c", "false | grep -q orders-1"]
    with pytest.raises(RegistryError, match="exit status 1"):
        registry(lists=script).lists()


def test_a_program_that_is_not_there() -> None:
    """It is an error for each operation, and names the program."""
    one = registry(lists=["/no/such"], withdraw=["/no/such"], restore=["/no/such"])
    for call in (one.lists, one.snapshot, one.withdraw, lambda: one.restore({"listed": True})):
        with pytest.raises(RegistryError, match=r"with /no/such: it cannot be started"):
            call()


@pytest.mark.parametrize(("status", "listed"), [(0, True), (10, False)])
def test_exit_status(status: int, *, listed: bool) -> None:
    """0 means listed, 10 means not."""
    assert registry(lists=python(f"raise SystemExit({status})")).lists() is listed


def test_a_status_of_ones_own() -> None:
    """With another status for "not listed", 10 is not known."""
    one = python("import sys; sys.exit(int(sys.argv[1]))", "10")
    assert not registry(lists=[*one[:-1], "1"], withdrawn_status=1).lists()
    with pytest.raises(RegistryError, match="exit status 10"):
        registry(lists=one, withdrawn_status=1).lists()
    with pytest.raises(ValidationError, match="withdrawn_status"):
        registry(withdrawn_status=0)


def test_absent_or_there_and_out() -> None:
    """With a status of its own, "out" is told from "not there", and so by a snapshot."""
    ends = python("import sys; sys.exit(int(sys.argv[1]))")
    found = {
        status: registry(lists=[*ends, str(status)], out_status=11, restore=["/no/such"])
        for status in (0, 10, 11, 12)
    }
    looks = {0: Listing.LISTED, 10: Listing.ABSENT, 11: Listing.OUT}
    snapshots = {0: {"listed": True}, 10: None, 11: {"listed": False}}
    for status, listing in looks.items():
        assert found[status].look() == Look(listing)
        assert found[status].lists() is (status == 0)
        assert found[status].snapshot() == snapshots[status]
        assert list(found[status].look_alikes()) == []
    with pytest.raises(RegistryError, match="exit status 12"):
        found[12].look()
    with pytest.raises(RegistryError, match="exit status 11"):
        registry(lists=[*ends, "11"]).look()
    with pytest.raises(RegistryError, match="it was out before the drain"):
        found[11].restore(snapshots[11])
    complains = python("import sys; print('no broker', file=sys.stderr); sys.exit(11)")
    with pytest.raises(RegistryError, match="complains on standard error"):
        registry(lists=complains, out_status=11).look()
    with pytest.raises(ValidationError, match="must differ"):
        registry(out_status=10)


def test_a_withdrawal_that_fails() -> None:
    """Any status but 0 is an error, with the last line of what it said."""
    failing = python("import sys; print('x'); sys.exit('no quorum')")
    with pytest.raises(RegistryError, match=r"cannot withdraw orders-1 with .*: no quorum"):
        registry(withdraw=failing).withdraw()


HANGS = """
import os, sys, time
child = os.fork()
if child:
    open(sys.argv[1], "w").write(str(child))
time.sleep(60)
"""


def test_one_that_hangs(tmp_path: Path) -> None:
    """It is killed when its time is over, with what it has started."""
    pid = tmp_path / "pid"
    one = registry(withdraw=python(HANGS, str(pid)), timeout=1.0)
    with pytest.raises(
        RegistryError, match=r"no end within [\d.]+ s; killed, with all it had started"
    ):
        one.withdraw()
    wait_until(lambda: not _runs(int(pid.read_text())), "its child has ended")


def _runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_no_shell(tmp_path: Path) -> None:
    """Arguments reach the program as they are; the environment says which instance is meant."""
    out = tmp_path / "out"
    program = (
        "import json, os, sys; json.dump([sys.argv[2:], dict(os.environ)], open(sys.argv[1], 'w'))"
    )
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    os.environ["NOT_FOR_PROGRAMS"] = "x"
    try:
        registry(
            withdraw=python(program, str(out), "$HOME; rm *", "a b"),
            env={"KEY": {"file": str(secret)}, "ZONE": "a"},
        ).withdraw()
    finally:
        del os.environ["NOT_FOR_PROGRAMS"]
    arguments, variables = json.loads(out.read_text())
    assert arguments == ["$HOME; rm *", "a b"]
    assert variables["DEREGISTER_INSTANCE"] == "orders-1"
    assert (variables["KEY"], variables["ZONE"]) == ("s3cret", "a")
    assert "NOT_FOR_PROGRAMS" not in variables


def test_a_secret_that_cannot_be_read(tmp_path: Path) -> None:
    """Nothing is run, and the error names the file."""
    one = registry(env={"KEY": {"file": str(tmp_path / "none")}})
    with pytest.raises(RegistryError, match=r"cannot read the secret in .*none"):
        one.withdraw()


@pytest.mark.parametrize("said", ["", "two", "-1", "1.5", "1 2"])
def test_others_that_are_no_number(said: str) -> None:
    """The guard gets a whole number or an error; nothing at all without a program."""
    assert registry().others() is None
    with pytest.raises(RegistryError, match="not one whole number"):
        registry(others=["echo", said]).others()


def test_restore_leaves_alone_what_was_out() -> None:
    """What it was out before the drain is not listed by it; what is listed is left as it is."""
    out = registry(lists=["false"], withdrawn_status=1, restore=["/no/such"])
    assert out.snapshot() is None
    with pytest.raises(RegistryError, match="it was out before the drain"):
        out.restore(None)
    registry(lists=["true"], restore=["/no/such"]).restore(None)
