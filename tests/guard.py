"""
Runs a program so that nothing of it is left when it has ended, however it ended.

``python tests/guard.py PARENT COMMAND ...`` takes in every orphan below it (man 2const
PR_SET_CHILD_SUBREAPER). When the command or the parent, whose pid is given, has ended, it kills
all that is left below it, and then runs what lies in the folder UNDO. The command has a session
of its own, so no signal to the group or terminal of one ends the other. Where the guard may, it
has a mount namespace of its own: mounts that tests make end with the last process in it.

conftest puts two guards above pytest, one above the other, so that each may be killed as well,
and one above each worker of xdist. The standard library is enough: there are many guards.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

UNDO = "TESTS_UNDO"
"""The variable that names a folder of shell scripts, which end what is not a process."""
UNDO_TIMEOUT = 120.0  # seconds for one script
REAP_EVERY = 0.2  # seconds
SUBREAPER, _NEW_MOUNTS, _RECURSIVE, _PRIVATE = 36, 0x20000, 0x4000, 1 << 18


def command(*program: str) -> list[str]:
    """Return what a process runs to have a program below a guard."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *program]


def run_guarded(program: Sequence[str]) -> int:
    """Run a program below a guard, and clean up if the guard is killed; return the status."""
    with tempfile.TemporaryDirectory(prefix="undo-") as undo:
        os.environ[UNDO] = undo
        return _run(command(*program))


@contextmanager
def undone_by(script: str) -> Iterator[None]:
    """Have a guard, if there is one, run a shell script where this process dies in the block."""
    folder = os.environ.get(UNDO)
    if folder is None:
        yield
        return
    descriptor, name = tempfile.mkstemp(dir=folder)
    with os.fdopen(descriptor, "w") as file:
        file.write(script)
    try:
        yield
    finally:
        Path(name).unlink()


def _run(program: Sequence[str], *parent: int) -> int:
    """Run a program until it, or the process of a descriptor, has ended; then clean up."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    child = subprocess.Popen(program, start_new_session=True)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: child.send_signal(signal.SIGINT))
    ends = [os.pidfd_open(child.pid), *parent]
    while not select.select(ends, [], [], REAP_EVERY)[0]:
        _reap_orphans(child.pid)
    status = child.poll()
    _end_all()
    _undo()
    return 128 - status if status and status < 0 else status or 0


def _children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def _reap_orphans(own: int) -> None:
    """Do what init does for orphans: one that nobody waits for stays a zombie, and seems alive."""
    for pid in _children():
        if pid != own:
            os.waitpid(pid, os.WNOHANG)


def _end_all() -> None:
    """Kill the children until there is none: theirs come to this process when they are gone."""
    while True:
        for pid in _children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def _undo() -> None:
    for script in Path(os.environ.get(UNDO, "/nonexistent")).glob("*"):
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(["sh", script], timeout=UNDO_TIMEOUT, check=False)
        script.unlink(missing_ok=True)


def main() -> int:
    """Run the command of the arguments until it or the parent has ended."""
    parent = os.pidfd_open(int(sys.argv[1]))
    if os.getppid() != int(sys.argv[1]):
        return 1
    libc = ctypes.CDLL(None)
    if libc.unshare(_NEW_MOUNTS) == 0:
        libc.mount(None, b"/", None, _RECURSIVE | _PRIVATE, None)
    return _run(sys.argv[2:], parent)


if __name__ == "__main__":
    sys.exit(main())
