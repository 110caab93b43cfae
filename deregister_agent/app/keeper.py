"""The process that keeps an app in service: it brings up the workers, and new ones for them."""

import hashlib
import os
import sys
from pathlib import Path

from deregister_agent.host import pids

PROC = Path("/proc")
DEEPEST = 8  # generations that are looked at


def keeper() -> pids.Pid:
    """
    Return the process that brought this one up as its worker, or this one, if none did.

    A worker is a fork of its master (gunicorn, Celery, uWSGI), so it still runs the same
    program with the same arguments; or ``multiprocessing`` has made it (uvicorn,
    hypercorn). A service manager, a shell or a container's init is neither.
    """
    pid = _spawner() or os.getpid()
    for _ in range(DEEPEST):
        shown = pids.read_stat(pid)
        if shown is None or shown.parent <= 1 or not _is_fork(pid, shown.parent):
            break
        pid = shown.parent
    found = pids.read_stat(pid)
    return (pid, found.start) if found is not None else (os.getpid(), 0)


def mark(process: pids.Pid, number: int) -> int:
    """Return the mark of the app that *process* keeps, and of which this is that *number*."""
    boot = (PROC / "sys/kernel/random/boot_id").read_text("ascii")
    named = hashlib.blake2b(f"{boot} {process} {number}".encode(), digest_size=8)
    return int.from_bytes(named.digest(), "big", signed=True)


def _spawner() -> int | None:
    """Return the pid of the process that made this one by ``multiprocessing``, if one did."""
    module = sys.modules.get("multiprocessing.process")
    parent = module.parent_process() if module is not None else None
    return parent.pid if parent is not None and parent.is_alive() else None


def _is_fork(pid: int, parent: int) -> bool:
    """Tell whether *pid* runs the program of its *parent*, which may have renamed themselves."""
    return any(_same(pid, parent, name) for name in ("cmdline", "auxv"))


def _same(pid: int, parent: int, name: str) -> bool:
    try:
        own, other = ((PROC / str(each) / name).read_bytes() for each in (pid, parent))
    except OSError:
        return False
    return own == other and own != b""
