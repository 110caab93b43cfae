"""
Who of an app lives on when the processes that were watched have exited.

A server that forks for each connection, a worker whose master was killed, what a service
manager leaves behind with ``KillMode=process``: they have work in hand, and hold no socket
by which they were known.
"""

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from deregister_agent.host import pids
from deregister_agent.host.pids import Pid, ProcessStat
from deregister_agent.model import Process

CGROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/systemd"))
"""Where the tree of cgroups is mounted in which systemd files processes: version 2, version 1."""

_AGE = 0.5  # seconds for which one reading of all processes serves all who look now and then
_NAMED = 3  # processes that a sentence names

Table = Mapping[int, ProcessStat]


class _Tables:
    """Lets all finders of this agent share a reading of /proc."""

    def __init__(self) -> None:
        self._began, self._last = float("-inf"), dict[int, ProcessStat]()
        self._reading = threading.Lock()

    def ask(self, age: float) -> Table:
        """Return who is alive, as read at most *age* seconds ago."""
        asked = time.monotonic()
        with self._reading:
            if self._began < asked - age:
                self._began, self._last = time.monotonic(), dict(_all_processes())
            return self._last


_tables = _Tables()


def _all_processes() -> Iterator[tuple[int, ProcessStat]]:
    for entry in os.listdir("/proc"):  # noqa: PTH208 - many times as fast
        if entry.isdigit():
            with suppress(OSError):
                shown = pids.read_stat(int(entry))
                if shown is not None and not shown.has_exited:
                    yield int(entry), shown


class Relatives:
    """
    What belongs to the processes of one app: learnt while they live, asked for when they do not.

    Children are known by their parent, and when that has ended by having been seen before, or
    by their session or process group, which keeps the number of the process that began it.
    """

    def __init__(self) -> None:
        self._seen: frozenset[Pid] = frozenset()

    def learn(self, app: Iterable[Pid]) -> None:
        """Take note of the children of a living *app*."""
        table = _tables.ask(_AGE)
        self._seen = pids.living(self._seen) | _below(app, table)

    def left(self, app: Iterable[Pid], others: Iterable[Pid] = ()) -> frozenset[Pid]:
        """
        Return who of *app* lives, apart from its own processes that were given.

        Not *others*, which have taken its place, nor what is below them, nor this agent.
        """
        table, app = _tables.ask(0.0), frozenset(app)
        known = pids.living(self._seen - app) | _in_session_of(app | self._seen, table)
        found = known | _below(known, table)
        self._seen |= found  # their children are known by them when they have ended in turn
        new = frozenset(others)
        own = frozenset(one for one in found if one[0] == os.getpid())
        return found - app - new - _below(new, table) - own


def apart_from(helper: Pid, processes: Iterable[Pid]) -> frozenset[Pid]:
    """Return *processes* without *helper* and those below it."""
    return frozenset(processes) - {helper} - _below([helper], _tables.ask(0.0))


def _below(above: Iterable[Pid], table: Table) -> frozenset[Pid]:
    """Return the children of processes, and theirs in turn."""
    children: dict[int, list[int]] = {}
    for pid, shown in table.items():
        children.setdefault(shown.parent, []).append(pid)
    found: set[int] = set()
    wanted = [pid for pid, start in above if pid in table and table[pid].start == start]
    while wanted:
        new = [pid for pid in children.get(wanted.pop(), ()) if pid not in found]
        found.update(new)
        wanted += new
    return frozenset((pid, table[pid].start) for pid in found)


def _in_session_of(app: Iterable[Pid], table: Table) -> frozenset[Pid]:
    """
    Return who is in a session or process group that a process of the app, which has ended, began.

    While such a group has members, the kernel gives its number to no new process.
    """
    ended = {pid for pid, _ in app if pid not in table}
    return frozenset(
        (pid, shown.start)
        for pid, shown in table.items()
        if shown.session in ended or shown.group in ended
    )


def began_after(process: Pid, was: Process) -> bool:
    """Tell whether *process* began after "drained" was said of *was*; in doubt it did."""
    ticks = os.sysconf("SC_CLK_TCK")
    return was.closed > 0 and process not in was.pids and process[1] >= int(was.closed * ticks)


def in_cgroup(path: str, roots: Iterable[Path] = CGROUPS) -> frozenset[Pid]:
    """
    Return the living processes in a cgroup and below, as systemd names it; none if it is gone.

    *path* begins with a slash, as in the property ControlGroup of a unit.
    """
    found: set[Pid] = set()
    for root in roots:
        top = root / path.strip("/")
        if not path.strip("/") or not top.is_dir():
            continue
        for file in top.rglob("cgroup.procs"):
            with suppress(OSError):  # removed since
                numbers = [int(line) for line in file.read_text("ascii").split()]
                found |= {one for pid in numbers if pid and (one := pids.find(pid)) is not None}
    return frozenset(found)


def in_words(processes: Iterable[Pid]) -> str:
    """Name processes by pid and program, the first few of them; empty if there are none."""
    found = sorted(processes)
    said = [f"pid {pid} ({pids.name(pid) or 'not shown'})" for pid, _ in found[:_NAMED]]
    more = len(found) - len(said)
    return ", ".join(said) + (f" and {more} more" if more else "")
