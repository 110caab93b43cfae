"""Memory that processes share, byte locks on it, and whether a process has exited."""

import fcntl
import os
from functools import cache
from pathlib import Path

from deregister_agent.host import pids

AT_RANDOM = 25  # include/uapi/linux/auxvec.h


def anonymous(size: int) -> int:
    """Return a descriptor of *size* bytes that children forked later share."""
    fd = os.memfd_create("deregister-agent-work", os.MFD_CLOEXEC)
    os.posix_fallocate(fd, 0, size)
    return fd


def in_file(path: Path, size: int) -> int:
    """
    Return a descriptor of the file, made if need be, of *size* bytes.

    Raises ValueError for a file that is something else. The space is reserved:
    touching a hole when the disk is full would kill the app (SIGBUS).
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    wait(fd, 0)
    fits = os.fstat(fd).st_size in (0, size)
    if fits:
        os.posix_fallocate(fd, 0, size)
    release(fd, 0)
    if not fits:
        os.close(fd)
        raise ValueError(f"{path} is not a work file; name one that may be made new")
    return fd


def take(fd: int, byte: int) -> bool:
    """
    Lock one byte for this process, unless another process has it.

    The kernel drops these locks when the process exits, however it dies, and a
    forked child does not inherit them (man 2 fcntl).
    """
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except OSError:  # locked, or not to be known: then it is not free either
        return False
    return True


def wait(fd: int, byte: int) -> None:
    """Lock one byte, however long another process needs it."""
    fcntl.lockf(fd, fcntl.LOCK_EX, 1, byte)


def wait_for_interpreters(fd: int) -> None:
    """Lock the whole file against whoever else has opened it, in this process too (flock)."""
    fcntl.flock(fd, fcntl.LOCK_EX)


def release_interpreters(fd: int) -> None:
    """Unlock the whole file."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def release(fd: int, byte: int) -> None:
    """Unlock one byte."""
    fcntl.lockf(fd, fcntl.LOCK_UN, 1, byte)


def born(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 if there is no such process."""
    shown = pids.read_stat(pid)
    return shown.start if shown is not None else 0


@cache
def execution() -> int:
    """
    Return what names the program that this process runs: another one after each exec.

    All interpreters of a process have it in common. The kernel gives each program 16
    random bytes (man 3 getauxval: AT_RANDOM). 0 where a process may not read them,
    such as one that has changed its user.
    """
    try:
        numbers = memoryview(Path("/proc/self/auxv").read_bytes()).cast("L")
        vector = dict(zip(numbers[::2], numbers[1::2], strict=True))
        with Path("/proc/self/mem").open("rb", buffering=0) as memory:
            memory.seek(vector[AT_RANDOM])
            return int.from_bytes(memory.read(8), "big", signed=True)
    except (OSError, KeyError):
        return 0


def is_own(pid: int, program: int) -> bool:
    """Tell whether an interpreter of this very process has joined as *pid* with *program*."""
    return pid == os.getpid() and program != 0 and program == execution()


def exited(pid: int, birth: int) -> bool:
    """
    Tell whether the process that had *pid* and was born then is to be seen no more.

    Ask only when its lock is free, and of a program that is not this one. This process
    itself counts as exited then: it has replaced what had its pid before (exec), with all
    that had in hand.
    """
    if pid == os.getpid():
        return True
    shown = pids.read_stat(pid)
    return shown is None or shown.start != birth or shown.has_exited
