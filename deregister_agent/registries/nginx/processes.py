"""
Nginx's processes, seen through /proc: masters and workers, and what they really do.

What is read here (man 5 proc: stat, status, cmdline) is open to every user of the host,
but for the connections of a worker, which only its own user and root may see.
"""

import os
import select
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from deregister_agent.errors import AgentError
from deregister_agent.host.files import read_plain
from deregister_agent.host.pids import ProcessStat, read_stat
from deregister_agent.host.sockets import Socket, SocketsError, State, table
from deregister_agent.registries.nginx.titles import command_of, is_worker

POLL = 0.01
"""Seconds between two looks."""
_TICK = 1 / os.sysconf("SC_CLK_TCK")
_HANGUP = 1  # bit of SIGHUP in the masks of /proc/<pid>/status


class NginxError(AgentError):
    """Nginx refused, or cannot be seen. The text is a fragment: why, and what to do."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process; its id differs from that of any other of this boot."""

    pid: int
    ticks: int  # start, in clock ticks since boot (man 5 proc, stat, field 22)
    title: str

    @property
    def id(self) -> str:
        """The name by which a record knows the worker."""
        return f"{self.pid}:{self.ticks}"

    @property
    def started(self) -> float:
        """The start by CLOCK_BOOTTIME, rounded down to a tick."""
        return self.ticks * _TICK

    @property
    def retiring(self) -> bool:
        """Whether the worker accepts no more clients (the title of ngx_worker_process_cycle())."""
        return "is shutting down" in self.title


@dataclass(frozen=True, slots=True)
class Workers:
    """All workers of one master, seen at one moment."""

    active: tuple[Worker, ...]  # they accept clients
    retiring: tuple[Worker, ...]  # they only finish what they have
    unnamed: int  # children so young that they have not said what they are

    @property
    def ids(self) -> frozenset[str]:
        """The ids of all but the unnamed."""
        return self.active_ids.union(worker.id for worker in self.retiring)

    @property
    def active_ids(self) -> frozenset[str]:
        """The ids of those that accept clients."""
        return frozenset(worker.id for worker in self.active)


class Master:
    """The master process that a pid file names."""

    def __init__(self, pid_file: Path) -> None:
        self.pid = _pid(pid_file)
        title = title_of(self.pid)
        command = command_of(title)
        if command is None:
            raise NginxError(
                f"{pid_file} names process {self.pid}, which is "
                f"{f'another one ({title.split()[0]})' if title else 'not running'}: "
                "nginx is not running, or pid_file is wrong"
            )
        self.command = command

    def idle(self) -> bool:
        """
        Tell whether the master is asleep with no reload under way or asked for.

        A master blocks SIGHUP always but in sigsuspend(), where it waits for work
        (ngx_master_process_cycle()), and a reload is done before the master sleeps again.
        """
        masks = {}
        for line in _proc(self.pid, "status").splitlines():
            key, _, value = line.partition(":\t")
            if key in {"SigBlk", "SigPnd", "ShdPnd"}:
                masks[key] = int(value, 16)
        return len(masks) == 3 and not any(mask & _HANGUP for mask in masks.values())  # noqa: PLR2004 - those three

    def workers(self) -> Workers:
        """Return the workers of this master. Raises NginxError if the master has gone."""
        active: list[Worker] = []
        retiring: list[Worker] = []
        unnamed = 0
        for pid in _children(self.pid):
            try:
                title = title_of(pid)
                worker = worker_of(pid, title)
            except NginxError:
                continue  # the child has exited in the meantime
            if is_worker(title):
                (retiring if worker.retiring else active).append(worker)
            elif (
                command_of(title) == self.command
            ):  # a child looks like its parent until it names itself
                unnamed += 1
        return Workers(tuple(active), tuple(retiring), unnamed)

    def wait_idle(self, until: float) -> None:
        """Block until the master is idle. Raises NginxError at *until*."""
        while not self.idle():
            if time.monotonic() >= until:
                raise NginxError(f"a reload of nginx (master {self.pid}) is still under way")
            time.sleep(POLL)


def wait_exit(workers: Sequence[Worker], timeout: float) -> None:
    """
    Block until one of these workers may have exited, for at most *timeout* seconds.

    Where the kernel, or a sandbox, gives no pidfd (pidfd_open(2)), block for all of that time.
    """
    exits = select.poll()
    with ExitStack() as stack:
        for worker in workers:
            try:
                descriptor = os.pidfd_open(worker.pid)
            except ProcessLookupError:
                return
            except OSError:
                continue
            stack.callback(os.close, descriptor)
            exits.register(descriptor, select.POLLIN)
        exits.poll(timeout * 1000)


def held_by(worker: Worker, states: Iterable[State], *, peer_port: int = 0) -> list[Socket] | None:
    """Return this worker's TCP sockets in these states; None where they cannot be read."""
    try:
        links = [str(entry.readlink()) for entry in Path(f"/proc/{worker.pid}/fd").iterdir()]
        found = table(states, peer_port=peer_port, pid=worker.pid)
    except (OSError, SocketsError):
        return None
    held = {link[8:-1] for link in links if link.startswith("socket:[")}
    return [one for one in found if str(one.inode) in held]


def _pid(pid_file: Path) -> int:
    try:
        return int(read_plain(pid_file))
    except FileNotFoundError as e:
        raise NginxError(f"nginx is not running, or pid_file is wrong: no {pid_file}") from e
    except (OSError, ValueError) as e:
        raise NginxError(f"{pid_file} names no process: {e}") from e


def _proc(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text("utf-8", errors="replace")
    except OSError as e:
        raise NginxError(f"cannot read /proc/{pid}/{name}: {e.strerror}") from e


def worker_of(pid: int, title: str) -> Worker:
    """Return the worker that has this pid now. Raises NginxError if it has exited."""
    return Worker(pid, _stat(pid).start, title)


def title_of(pid: int) -> str:
    """Return the command line of a process; nothing if it has exited. Raises NginxError."""
    try:
        return _proc(pid, "cmdline").replace("\0", " ").strip()
    except NginxError:
        if Path(f"/proc/{pid}").exists():
            raise
        return ""


def parent_of(pid: int) -> int:
    """Return the parent's pid. Raises NginxError if the process has exited."""
    return _stat(pid).parent


def _stat(pid: int) -> ProcessStat:
    try:
        shown = read_stat(pid)
    except OSError as e:
        raise NginxError(f"cannot read /proc/{pid}/stat: {e.strerror}") from e
    if shown is None:
        raise NginxError(f"process {pid} has exited")
    return shown


def _children(pid: int) -> list[int]:
    """Return the child processes of a process with one thread."""
    try:
        return [int(child) for child in _proc(pid, f"task/{pid}/children").split()]
    except NginxError:
        if not Path(f"/proc/{pid}").exists():
            raise NginxError(f"nginx (master {pid}) has exited") from None
    found = []  # a kernel without CONFIG_PROC_CHILDREN
    for entry in Path("/proc").iterdir():
        with suppress(NginxError):
            if entry.name.isdigit() and parent_of(int(entry.name)) == pid:
                found.append(int(entry.name))
    return found
