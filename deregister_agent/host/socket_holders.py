"""Who holds which socket: read from all of /proc, at once for all callers in this process."""

import os
import threading
import time
from collections.abc import Collection

from deregister_agent.host import pids
from deregister_agent.host.pids import Pid

_ASKED_AGAIN = 60.0  # seconds within which those who look now and then ask again


class _Scan:
    """One reading of all of /proc, for every caller who asked before its beginning."""

    def __init__(self) -> None:
        self.wanted: set[int] = set()
        self.found: dict[int, frozenset[Pid]] = {}
        self.error: OSError | None = None
        self.began = self.took = 0.0
        self.over = threading.Event()

    def read(self) -> None:
        """Read, and release all who wait, also after an error."""
        self.began = time.monotonic()
        try:
            self.found = _read_holders(self.wanted)
        except OSError as e:
            self.error = e
        finally:
            self.took = time.monotonic() - self.began
            self.over.set()

    def serves(self, inodes: Collection[int], since: float) -> bool:
        """Tell whether the scan has shown who holds *inodes*, and began after *since*."""
        return self.error is None and self.began >= since and self.wanted.issuperset(inodes)


class _Scans:
    """Lets callers of the same moment share a scan, which costs the same for any number."""

    def __init__(self) -> None:
        self._next: _Scan | None = None  # not begun yet
        self._last = _Scan()  # ended
        self._asked: dict[int, float] = {}  # when somebody last asked for a socket
        self._asking = threading.Lock()
        self._reading = threading.Lock()  # one at a time

    def ask(self, inodes: Collection[int], age: float = 0.0) -> _Scan:
        """Return a scan that began after this was called, or at most *age* seconds before."""
        now = time.monotonic()
        with self._asking:
            self._asked |= dict.fromkeys(inodes, now)
            if age and self._last.serves(inodes, now - age):
                return self._last
            scan, first = (self._next, False) if self._next else (_Scan(), True)
            self._next = scan
            scan.wanted.update(inodes)
        if first:
            with self._reading:
                self._begin(scan)
                scan.read()
                with self._asking:
                    self._last = scan
        scan.over.wait()
        if scan.error is not None:
            raise scan.error
        return scan

    def _begin(self, scan: _Scan) -> None:
        """Begin a scan for all sockets asked for of late; later callers wait for the next scan."""
        with self._asking:
            self._next, past = None, time.monotonic() - _ASKED_AGAIN
            self._asked = {inode: at for inode, at in self._asked.items() if at >= past}
            scan.wanted.update(self._asked)


_scans = _Scans()


def holders(inodes: Collection[int]) -> dict[int, frozenset[Pid]]:
    """
    Return, for each of the socket *inodes*, the processes that have it open.

    As far as this user may see (man 5 proc_pid_fd): the processes of other users,
    and those in other containers, are left out. Costs some milliseconds for each
    hundred processes. Threads that ask at the same moment share the work, and none
    is told of a time before it asked. Raises OSError where /proc cannot be read.
    """
    return _told(inodes, _scans.ask(inodes)) if inodes else {}


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
    return _told(inodes, scan), scan.began, scan.took


def _told(inodes: Collection[int], scan: _Scan) -> dict[int, frozenset[Pid]]:
    return {inode: scan.found[inode] for inode in inodes}


def _read_holders(inodes: Collection[int]) -> dict[int, frozenset[Pid]]:
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, set[Pid]] = {inode: set() for inode in inodes}
    for pid in _all():
        held = {wanted[target] for target in _open_files(pid) if target in wanted}
        process = pids.find(pid) if held else None
        if process is not None:
            for inode in held:
                found[inode].add(process)
    return {inode: frozenset(processes) for inode, processes in found.items()}


def _all() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208 - twice as fast


def own_sockets() -> frozenset[int]:
    """Return the inodes of the sockets that the agent itself has open."""
    sockets = (target for target in _open_files(os.getpid()) if target.startswith("socket:["))
    return frozenset(int(target[8:-1]) for target in sockets)


def _open_files(pid: int) -> list[str]:
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
