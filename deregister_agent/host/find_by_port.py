"""Find the app's process by who holds the port's listening sockets."""

import os
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address

from deregister_agent.host import pids
from deregister_agent.host.clock import Clock
from deregister_agent.host.pids import Pid
from deregister_agent.host.socket_holders import recent_holders
from deregister_agent.host.sockets import SocketsError, listeners
from deregister_agent.host.vacant_port import who_uses
from deregister_agent.model import Presence, Process

_ACTIVATOR = 1
_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to
_BETWEEN = 0.1  # seconds between two looks where no pid is known
_SHARE = 50  # looking for new holders takes at most a fiftieth of one core, for all instances
_REST = 1.0  # seconds between two such looks, at the least


class PortFinder:
    """
    The app is whoever holds the listening sockets of its port: a ProcessFinder.

    The inode of a listening socket is new whenever a process opens one, so even a
    fast restart shows. Workers that inherit the socket belong to the app, also when
    they come later. Pid 1 does not: with socket activation it keeps the socket open
    for the next process.

    Who holds a socket is read from /proc, which shows the processes of the agent's
    own user, or all of them to root. It is read when an inode is new, and now and
    then for workers that were started since: once for all finders of this agent.
    """

    def __init__(
        self, port: int, address: str, clock: Clock, *, activator: int = _ACTIVATOR
    ) -> None:
        self._port, self._address, self._clock = port, _plain(address), clock
        self._activator = activator
        self._holders: dict[int, frozenset[Pid]] = {}
        self._again = self._rest = 0.0
        self._one_at_a_time = threading.Lock()  # each look replaces what the last has read

    def heard(self, mark: str) -> None:
        """Ignore what the app says of itself."""
        del mark

    def look(self, was: Process | None) -> Presence:
        """Tell whether *was* has exited and who is in its place now."""
        with self._one_at_a_time:
            return self._look_once(was)

    def _look_once(self, was: Process | None) -> Presence:
        try:
            current = self._listening()
            if was is None:
                return self._first_seen(current)
            if not (was.pids or was.sockets):
                return Presence(False, *self._whole(current))
            if was.boot_id != self._clock.boot_id():
                return Presence(True, *self._whole(current))
            if pids.elsewhere(was.pids, was.namespace):
                return Presence(exited=False, running=None, note=pids.ELSEWHERE)
            return self._look(was, current)
        except SocketsError as e:
            return Presence(exited=False, running=None, note=str(e))

    def _first_seen(self, current: frozenset[int]) -> Presence:
        if current:
            return Presence(False, *self._whole(current))
        used = who_uses(self._address, self._port)
        note = used or f"nothing listens on port {self._port}"
        return Presence(exited=False, running=None, note=note, nobody=not used)

    def _look(self, was: Process, current: frozenset[int]) -> Presence:
        recorded = frozenset(was.sockets)
        held = self._held(current | recorded)
        alive = self._heirs(was, held)
        alive |= pids.living(frozenset(was.pids) - alive)
        if not alive:
            held = self._scanned(current | recorded)
            alive, current = self._heirs(was, held), self._listening()
        if alive:
            reopened = {inode for inode in current if held.get(inode, frozenset()) & alive}
            sockets = tuple(sorted(recorded | reopened))
            return Presence(False, replace(was, pids=tuple(sorted(alive)), sockets=sockets))
        unseen = {i for i in recorded & current if not self._is_kept_open(held.get(i, ()))}
        restarted = not recorded & current and bool(current)
        if not unseen if was.pids else restarted:
            return Presence(True, *self._whole(current))
        running = was if recorded & current else None
        return Presence(False, running, self._blind(unseen))

    def wait_exit(self, was: Process, timeout: float) -> None:
        """Block until *was* may have exited, for at most *timeout* seconds."""
        deadline = time.monotonic() + timeout
        known = {*was.pids}.union(*self._apps(was.sockets))
        if was.boot_id != self._clock.boot_id():
            return
        if pids.living(known):
            pids.wait(known, timeout)
            return
        while (left := deadline - time.monotonic()) > 0 and not self._may_have_exited(was):
            time.sleep(min(left, _BETWEEN))

    def _may_have_exited(self, was: Process) -> bool:
        try:
            current = self._listening()
        except SocketsError:
            return False
        return not current & frozenset(was.sockets) and bool(was.pids or current)

    def _listening(self) -> frozenset[int]:
        """
        Return the inodes of the listening sockets on the instance's own address.

        All of the port's where none is bound to that address: it may be one that
        only others know the instance by.
        """
        found = listeners(self._port)
        ours = [s for s in found if s.local in _WILDCARDS or s.local == self._address]
        return frozenset(s.inode for s in ours or found)

    def _whole(self, current: frozenset[int]) -> tuple[Process | None, str]:
        """Return whoever listens, as one process, and a note on what cannot be seen."""
        if not current:
            return None, f"nothing listens on port {self._port}"
        held = self._held(current)
        app = frozenset[Pid]().union(*(self._without_us(held[inode]) for inode in current))
        unseen = {i for i in current if not held[i]}
        if not app and not unseen:
            return None, (
                f"port {self._port} is held open, by pid {self._activator} or by this agent, "
                "for a process that is not running"
            )
        running = Process(
            self._clock.boot_id(),
            tuple(sorted(app)),
            tuple(sorted(current)),
            namespace=pids.namespace(),
        )
        return running, self._blind(unseen)

    def _blind(self, unseen: Iterable[int]) -> str:
        inodes = ", ".join(str(inode) for inode in sorted(unseen))
        if not inodes:
            return ""
        return (
            f"cannot see which process listens on port {self._port} (socket {inodes}): it belongs "
            "to another user or is in another container; run the agent as root or as the app's "
            "user, or set process.by to pid_file or systemd_unit"
        )

    def _heirs(self, was: Process, held: dict[int, frozenset[Pid]]) -> frozenset[Pid]:
        """Return who holds a recorded socket: *was* itself, or a worker started since."""
        found: set[Pid] = set()
        for inode in was.sockets:
            processes = held.get(inode, frozenset())
            kept_open = self._is_kept_open(processes)
            found |= {
                process
                for process in self._without_us(processes)
                if not (kept_open and _is_successor(process, was))
            }
        return frozenset(found)

    def _held(self, inodes: frozenset[int]) -> dict[int, frozenset[Pid]]:
        """Return who holds each of *inodes*, as read not long ago."""
        if not inodes <= self._holders.keys():
            return self._scanned(inodes)
        if time.monotonic() >= self._again:
            return self._scanned(inodes, self._rest)
        alive = pids.living(frozenset().union(*(self._holders[inode] for inode in inodes)))
        now = {inode: self._holders[inode] & alive for inode in inodes}
        if any(self._holders[inode] and not processes for inode, processes in now.items()):
            return self._scanned(inodes)
        return now

    def _scanned(self, inodes: frozenset[int], age: float = 0.0) -> dict[int, frozenset[Pid]]:
        """Return who holds each of *inodes* now, or held it at most *age* seconds ago."""
        self._holders, began, took = recent_holders(inodes, age)
        self._rest = max(_REST, _SHARE * took)
        self._again = began + took + self._rest
        return self._holders

    def _apps(self, inodes: Iterable[int]) -> list[frozenset[Pid]]:
        return [self._without_us(self._holders.get(inode, frozenset())) for inode in inodes]

    def _without_us(self, processes: frozenset[Pid]) -> frozenset[Pid]:
        not_it = {self._activator, os.getpid()}
        return frozenset(process for process in processes if process[0] not in not_it)

    def _is_kept_open(self, processes: Iterable[Pid]) -> bool:
        return any(pid == self._activator for pid, _ in processes)


def _is_successor(process: Pid, was: Process) -> bool:
    """Tell whether *process* comes from a start by the service manager later than all of *was*."""
    if process in was.pids:
        return False
    origin = pids.activated(process)
    return origin is not None and all(origin[1] > start for _, start in was.pids)


def _plain(address: str) -> str:
    """Return *address* as the socket table writes addresses; a host name matches none of them."""
    try:
        return str(ip_address(address))
    except ValueError:
        return address
