"""Who holds the sockets of one port, and who of them may be the app."""

import os
import time
from collections.abc import Iterable

from deregister_agent.host import pids
from deregister_agent.host.forwarders import is_activator, suspected
from deregister_agent.host.pids import Pid
from deregister_agent.host.socket_holders import recent_holders
from deregister_agent.host.sockets import connections

_SHARE = 50  # looking for new holders takes at most a fiftieth of one core, for all instances
_REST = 1.0  # seconds between two such looks, at the least


class PortHolders:
    """
    Who holds the sockets of one port, as read from /proc: once for all finders of this agent.

    It is read when an inode is new, and now and then for workers that were started since.
    """

    def __init__(self, port: int, program: str, activator: int) -> None:
        self._port, self._program, self._activator = port, program, activator
        self._found: dict[int, frozenset[Pid]] = {}
        self._again = self._rest = 0.0
        self._no_keepers: frozenset[Pid] = frozenset()  # who does not keep sockets open for others
        self._proved: frozenset[Pid] = frozenset()  # whom nothing spoke against

    def held(self, inodes: frozenset[int]) -> dict[int, frozenset[Pid]]:
        """Return who holds each of *inodes*, as read not long ago."""
        if not inodes <= self._found.keys():
            return self.scanned(inodes)
        if time.monotonic() >= self._again:
            return self.scanned(inodes, self._rest)
        alive = pids.living(frozenset().union(*(self._found[inode] for inode in inodes)))
        now = {inode: self._found[inode] & alive for inode in inodes}
        if any(self._found[inode] and not processes for inode, processes in now.items()):
            return self.scanned(inodes)
        return now

    def scanned(self, inodes: frozenset[int], age: float = 0.0) -> dict[int, frozenset[Pid]]:
        """Return who holds each of *inodes* now, or held it at most *age* seconds ago."""
        self._found, began, took = recent_holders(inodes, age)
        self._rest = max(_REST, _SHARE * took)
        self._again = began + took + self._rest
        return self._found

    def known(self, inodes: Iterable[int]) -> frozenset[Pid]:
        """Return who of the app was last seen to hold one of *inodes*."""
        found = [self.apps(self._found.get(inode, frozenset())) for inode in inodes]
        return frozenset[Pid]().union(*found)

    def apps(self, processes: frozenset[Pid]) -> frozenset[Pid]:
        """Return *processes* without this agent, and without who keeps sockets open for others."""
        found = processes - self.keepers(processes)
        return frozenset(one for one in found if one[0] != os.getpid())

    def keepers(self, processes: frozenset[Pid]) -> frozenset[Pid]:
        """
        Return who of *processes* keeps sockets open for others.

        By its name, or because another of them was started by it with LISTEN_PID.
        """
        named = {one for one in processes - self._no_keepers if self._is_activator(one)}
        self._no_keepers = pids.living(self._no_keepers) | (processes - named)
        parents = {
            shown.parent
            for one in processes
            if len(processes) > 1 and pids.activated(one) == one
            if (shown := pids.read_stat(one[0])) is not None
        }
        return frozenset(one for one in processes if one in named or one[0] in parents)

    def _is_activator(self, process: Pid) -> bool:
        return process[0] == self._activator or is_activator(process)

    def suspected(self, processes: Iterable[Pid]) -> str:
        """Say why one of *processes* may not be the app; who was not suspected is not again."""
        new = frozenset(processes) - self._proved
        if not new:
            return ""
        if why := suspected(pids.living(new), self._port, connections(self._port), self._program):
            return why
        self._proved = pids.living(self._proved | new)
        return ""
