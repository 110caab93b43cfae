"""The tests' own surroundings: signals of children, failures that are hard to describe, guards."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import guard
from tests.servers.child import wait_until

ROOT = Path(__file__).parents[2]
LIMIT = 100.0


def pytest_on(folder: Path, text: str, *before: str) -> str:
    """Run a file of tests with our conftest, below guards of its own; return what it printed."""
    path = folder / "test_it.py"
    path.write_text(text)
    plugins = ("-p", "tests.conftest", "-p", "no:cacheprovider", "-n", "1")
    options = ("-q", "--tb=long", f"--rootdir={folder}", "-c", os.devnull)
    environment = {name: value for name, value in os.environ.items() if name != guard.UNDO}
    return subprocess.run(
        [*before, sys.executable, "-m", "pytest", *plugins, *options, path],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    ).stdout


CHILD = """
import signal, subprocess, sys
def test_it():
    code = "import signal; print([signal.getsignal(n) for n in (1, 2, 3, 15)])"
    shown = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True).stdout
    assert "SIG_IGN" not in shown, shown
    code = "import signal; print(signal.pthread_sigmask(0, []))"
    shown = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True).stdout
    assert shown == "set()\\n", shown
"""
BACKGROUND = """
import os, signal, sys
for number in (1, 2, 3):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_children_start_with_the_default_signals(tmp_path: Path) -> None:
    """Also where the run has inherited signals as ignored or blocked, as in the background."""
    said = pytest_on(tmp_path, CHILD, sys.executable, "-c", BACKGROUND)
    assert "1 passed" in said, said


FAILS = """
import ast, gc, pytest
class Cycle:
    def __init__(self):
        self.me = self
    def __del__(self):
        ast.parse("x = 1 + (2 * 3)")
@pytest.mark.parametrize("more", range(0, 4000, 200))
def test_with_garbage(more):
    gc.collect()
    gc.set_threshold(10**6)
    for _ in range(3000):
        Cycle()
    gc.set_threshold(gc.get_count()[0] + more)
    assert not more + 1
def test_that_cannot_be_described():
    def describe(*_):
        raise SystemError("no words")
    pytest.Function.repr_failure = describe
    raise ValueError
def test_next():
    pass
"""
LONG = "LONG = [1, (2, 3)]\n" * 1000  # so that most is allocated while this file is parsed


def test_a_failing_test_does_not_end_the_run(tmp_path: Path) -> None:
    """Whatever goes wrong while its failure is described, the next test runs."""
    said = pytest_on(tmp_path, FAILS + LONG)
    assert "21 failed, 1 passed" in said, said[-4000:]
    assert "INTERNALERROR" not in said
    assert "recursion depth mismatch" not in said
    assert "cannot be described: SystemError('no words')" in said


@pytest.fixture
def tree(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a shell below a guard, which starts a deaf orphan in a session of its own."""
    orphan = f"trap '' HUP INT TERM; echo \\$\\$ > {tmp_path}/orphan; sleep 600; :"
    script = f'(setsid sh -c "{orphan}" &) ; echo $$ > {tmp_path}/shell; sleep 600; :'
    environment = {**os.environ, guard.UNDO: str(tmp_path / "undo")}
    (tmp_path / "undo").mkdir()
    (tmp_path / "undo" / "one").write_text(f"echo > {tmp_path}/undone")
    with subprocess.Popen(guard.command("sh", "-c", script), env=environment) as process:
        wait_until(lambda: pid_in(tmp_path / "orphan"), "the orphan runs")
        wait_until(lambda: pid_in(tmp_path / "shell"), "the shell runs")
        yield process
        process.kill()


def pid_in(path: Path) -> int:
    return int(path.read_text() or 0) if path.exists() else 0


def test_orphans_end_with_a_program_that_is_killed(
    tmp_path: Path, tree: "subprocess.Popen[bytes]"
) -> None:
    """Nothing below a guard outlives the program, and what it had to undo is undone."""
    os.kill(pid_in(tmp_path / "shell"), signal.SIGKILL)
    assert tree.wait(LIMIT) == 128 + signal.SIGKILL
    assert not Path(f"/proc/{pid_in(tmp_path / 'orphan')}").exists()
    assert (tmp_path / "undone").exists()
