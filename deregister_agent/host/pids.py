"""What the kernel says of processes. Standard library only: ``app`` reads with it as well."""

import os
import select
import time
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import NamedTuple

Pid = tuple[int, int]
"""A process: its pid, and when it started, in clock ticks since boot; so a recycled pid differs."""

_PROC = Path("/proc")
_NOT_SHOWN = -1  # the start time of a process of which /proc says nothing
_POLL = 0.1  # seconds between two looks where the kernel cannot tell of an exit


class ProcessStat(NamedTuple):
    """What /proc/<pid>/stat says of a process (man 5 proc_pid_stat)."""

    state: bytes  # field 3
    parent: int  # field 4
    group: int  # field 5: the pid of who began the process group
    session: int  # field 6: the pid of who began the session
    threads: int  # field 20
    start: int  # field 22, in clock ticks since boot

    @property
    def has_exited(self) -> bool:
        """Whether only a zombie is left; one with other threads lives, without its first thread."""
        return self.state in {b"Z", b"X"} and self.threads <= 1


def read_stat(pid: int) -> ProcessStat | None:
    """
    Return what is shown of *pid*; None if there is no such process.

    Raises OSError where it may not be read. A /proc mounted with hidepid shows no
    process of another user.
    """
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(b")") + 2 :].split()  # the name before them may hold anything
    parent, group, session = (int(field) for field in fields[1:4])
    return ProcessStat(fields[0], parent, group, session, int(fields[17]), int(fields[19]))


def find(pid: int) -> Pid | None:
    """Return the living process *pid*; None when there is none, or only its zombie."""
    try:
        shown = read_stat(pid)
    except OSError:
        shown = None
    if shown is None:
        return (pid, _NOT_SHOWN) if _exists(pid) else None
    return None if shown.has_exited else (pid, shown.start)


@cache
def namespace() -> str:
    """Return what names the pid namespace of this agent (man 7 pid_namespaces)."""
    return str((_PROC / "self/ns/pid").readlink())


def elsewhere(processes: Collection[Pid], seen_from: str) -> bool:
    """Tell whether *processes* were seen from another pid namespace: they mean nothing here."""
    return bool(processes) and seen_from not in {"", namespace()}


ELSEWHERE = (
    "the process was seen by an agent in another pid namespace (a container that was made anew?): "
    "whether it has exited cannot be told; run the agent in a namespace that outlives it"
)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def is_alive(process: Pid) -> bool:
    """Tell whether *process* lives, and not another process with its pid."""
    found = find(process[0])
    return found is not None and (found == process or _NOT_SHOWN in {found[1], process[1]})


def living(processes: Iterable[Pid]) -> frozenset[Pid]:
    """Return those of *processes* that live."""
    return frozenset(process for process in processes if is_alive(process))


def name(pid: int) -> str:
    """Return the first 15 characters of the program's name (man 5 proc_pid_comm), or ""."""
    try:
        # Not by Path and text: many ask this of every process there is.
        with open(f"{_PROC}/{pid}/comm", "rb", buffering=0) as comm:  # noqa: PTH123
            return comm.read(64).decode(errors="replace").strip()
    except OSError:
        return ""


def activated(process: Pid) -> Pid | None:
    """
    Return the process that a service manager handed its sockets to, *process* or a parent.

    By LISTEN_PID in its environment (man 3 sd_listen_fds): the service manager sets
    it to the pid it starts, and the children of that process inherit it. None if it
    was not started so, or that process has ended, or the environment is not shown.
    """
    try:
        environment = (_PROC / str(process[0]) / "environ").read_bytes()
    except OSError:
        return None
    for setting in environment.split(b"\0"):
        key, _, value = setting.partition(b"=")
        if key == b"LISTEN_PID" and value.isdigit():
            return find(int(value))
    return None


def wait(processes: Iterable[Pid], timeout: float) -> None:
    """Block until all *processes* have exited, for at most *timeout* seconds."""
    deadline = time.monotonic() + timeout
    with ExitStack() as opened:
        poll, watched, unwatched = select.poll(), set[int](), set[Pid]()
        for process in living(processes):
            try:
                descriptor = os.pidfd_open(process[0])
            except ProcessLookupError:
                continue
            except OSError:  # Linux before 5.3, or too many open files
                unwatched.add(process)
                continue
            opened.callback(os.close, descriptor)
            poll.register(descriptor, select.POLLIN)
            watched.add(descriptor)
        while (watched or unwatched) and (left := deadline - time.monotonic()) > 0:
            pause = min(left, _POLL) if unwatched else left
            for descriptor, _ in poll.poll(pause * 1000):
                poll.unregister(descriptor)
                watched.discard(descriptor)
            unwatched &= living(unwatched)


def started(process: Pid) -> float:
    """Return when *process* started, in seconds since 1970 by the wall clock of now."""
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot + process[1] / os.sysconf("SC_CLK_TCK")
