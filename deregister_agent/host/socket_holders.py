"""Who holds which socket: read from all of /proc, at once for all callers in this process."""

import math
import os
import threading
import time
from collections.abc import Collection, Mapping
from typing import NamedTuple

from deregister_agent.host import pids
from deregister_agent.host.pids import Pid

_ASKED_AGAIN = 60.0  # seconds within which those who look now and then ask again


class _Scan(NamedTuple):
    """One reading of all of /proc."""

    began: float = -math.inf
    took: float = 0.0
    found: Mapping[int, frozenset[Pid]] = {}
    error: OSError | None = None

    def serves(self, inodes: Collection[int], now: float, age: float) -> bool:
        """Tell whether the scan may answer who asks *now*; an error, only who has waited for it."""
        if self.error is not None:
            return self.began > now
        return self.began > now - age and all(inode in self.found for inode in inodes)


class _Scans:
    """Lets callers of the same moment share a scan, which costs the same for any number."""

    def __init__(self) -> None:
        self._last = _Scan()
        self._asked: dict[int, float] = {}  # when somebody last asked for a socket
        self._asking = threading.Lock()
        self._reading = threading.Lock()  # one scan at a time

    def ask(self, inodes: Collection[int], age: float = 0.0) -> _Scan:
        """Return a scan that began after this was called, or at most *age* seconds before."""
        now = time.monotonic()
        with self._asking:
            self._asked |= dict.fromkeys(inodes, now)
        scan = self._last
        if not scan.serves(inodes, now, age):
            with self._reading:  # who waits here is served by the scan of the first who did
                scan = self._last
                if not scan.serves(inodes, now, age):
                    scan = self._last = self._read(inodes)
        if scan.error is not None:
            raise scan.error
        return scan

    def _read(self, inodes: Collection[int]) -> _Scan:
        """Read /proc for *inodes*, and for all others that were asked for of late."""
        began = time.monotonic()
        with self._asking:
            past = began - _ASKED_AGAIN
            self._asked = {inode: at for inode, at in self._asked.items() if at >= past}
            wanted = {*inodes, *self._asked}
        try:
            found = _read_holders(wanted)
        except OSError as e:
            return _Scan(began, error=e)
        return _Scan(began, time.monotonic() - began, found)


_scans = _Scans()


def holders(inodes: Collection[int]) -> dict[int, frozenset[Pid]]:
    """
    Return, for each of the socket *inodes*, the processes that have it open.

    As far as this user may see (man 5 proc_pid_fd): the processes of other users,
    and those in other containers, are left out. Costs some milliseconds for each
    hundred processes. Threads that ask at the same moment share the work, and none
    is told of a time before it asked. Raises OSError where /proc cannot be read.
    """
    return recent_holders(inodes, 0.0)[0]


def recent_holders(
    inodes: Collection[int], age: float
) -> tuple[dict[int, frozenset[Pid]], float, float]:
    """
    Return the holders of at most *age* seconds ago, when they were read, and for how long.

    Many who look now and then so share one scan. Raises as holders() does.
    """
    if not inodes:
        return {}, time.monotonic(), 0.0
    scan = _scans.ask(inodes, age)
    return {inode: scan.found[inode] for inode in inodes}, scan.began, scan.took


def _read_holders(inodes: Collection[int]) -> dict[int, frozenset[Pid]]:
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, set[Pid]] = {inode: set() for inode in inodes}
    for pid in [int(name) for name in os.listdir("/proc") if name.isdecimal()]:  # noqa: PTH208 - twice as fast
        held = {wanted[target] for target in open_files(pid) if target in wanted}
        process = pids.find(pid) if held else None
        if process is not None:
            for inode in held:
                found[inode].add(process)
    return {inode: frozenset(processes) for inode, processes in found.items()}


def own_sockets() -> frozenset[int]:
    """Return the inodes of the sockets that the agent itself has open."""
    sockets = (target for target in open_files(os.getpid()) if target.startswith("socket:["))
    return frozenset(int(target[8:-1]) for target in sockets)


def open_files(pid: int) -> list[str]:
    """Return what the descriptors of *pid* point to; nothing where they cannot be seen."""
    folder = f"/proc/{pid}/fd"
    found: list[str] = []
    try:
        with os.scandir(folder) as descriptors:
            for descriptor in descriptors:
                try:
                    found.append(os.readlink(descriptor.path))  # noqa: PTH115 - many thousands a second
                except FileNotFoundError:
                    continue  # closed since
    except OSError:
        return found
    return found
