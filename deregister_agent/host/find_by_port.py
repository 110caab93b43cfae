"""Find the app's process by who holds the port's listening sockets."""

import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address

from deregister_agent.host import pids
from deregister_agent.host.clock import Clock
from deregister_agent.host.network import network
from deregister_agent.host.pids import Pid
from deregister_agent.host.port_holders import PortHolders
from deregister_agent.host.relatives import Relatives, began_after, in_words
from deregister_agent.host.socket_holders import holders
from deregister_agent.host.sockets import SocketsError, connections, listeners
from deregister_agent.host.vacant_port import who_uses
from deregister_agent.model import Presence, Process

_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to
_BETWEEN = 0.1  # seconds between two looks where no pid is known


class PortFinder:
    """
    The app is whoever holds the listening sockets of its port: a ProcessFinder.

    The inode of a listening socket is new whenever a process opens one, so even a
    fast restart shows. Workers that inherit the socket belong to the app, also when
    they come later, but not who began after "drained" was said (decision 15). Nor do
    those who keep the socket open for others, or may listen for an app elsewhere: a
    service manager, a forwarder. *program* is the one that the configuration names.

    Who holds a socket is read from /proc, which shows the processes of the agent's
    own user, or all of them to root. It is read when an inode is new, and now and
    then for workers that were started since: once for all finders of this agent.
    """

    def __init__(
        self, port: int, address: str, clock: Clock, *, program: str = "", activator: int = 0
    ) -> None:
        self._port, self._address, self._clock = port, _plain(address), clock
        self._holders = PortHolders(port, program, activator)
        self._relatives = Relatives()
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
            return self._look_from_here(was, current)
        except (SocketsError, OSError) as e:
            return Presence(exited=False, running=None, note=str(e))

    def _look_from_here(self, was: Process, current: frozenset[int]) -> Presence:
        """Look for *was*, unless what it was seen by means nothing here."""
        if was.network and was.network != network().space:
            return self._from_another_network(was)
        elsewhere = pids.elsewhere(was.pids, was.namespace)
        if why := pids.ELSEWHERE if elsewhere else self._holders.suspected(was.pids):
            return Presence(exited=False, running=None, note=why)
        return self._look(was, current)

    def _from_another_network(self, was: Process) -> Presence:
        """
        Tell what of *was* can be told without its sockets: that a process of it lives.

        That all have ended is no exit here: who is in their place would not be seen.
        """
        known = () if pids.elsewhere(was.pids, was.namespace) else was.pids
        alive = pids.living(known)
        running = replace(was, pids=tuple(sorted(alive))) if alive else None
        return Presence(exited=False, running=running, note=_OTHER_NETWORK)

    def _first_seen(self, current: frozenset[int]) -> Presence:
        if current:
            return Presence(False, *self._whole(current))
        used = who_uses(self._address, self._port)
        note = used or f"nothing listens on port {self._port}"
        return Presence(exited=False, running=None, note=note, nobody=not used)

    def _look(self, was: Process, current: frozenset[int]) -> Presence:
        recorded = frozenset(was.sockets)
        held = self._holders.held(current | recorded)
        alive = self._heirs(was, held)
        alive |= pids.living(frozenset(was.pids) - alive)
        if not alive:
            held = self._holders.scanned(current | recorded)
            alive, current = self._heirs(was, held), self._listening()
        if alive:
            if why := self._holders.suspected(alive):
                return Presence(exited=False, running=None, note=why)
            self._relatives.learn(alive)
            reopened = {inode for inode in current if held.get(inode, frozenset()) & alive}
            sockets = tuple(sorted(recorded | reopened))
            return Presence(False, replace(was, pids=tuple(sorted(alive)), sockets=sockets))
        unseen = {inode for inode in recorded & current if not held.get(inode)}
        restarted = not recorded & current and bool(current)
        if not unseen if was.pids else restarted:
            running, note = self._whole(current)
            return Presence(True, running, note, left=self._left(was, running))
        running = was if recorded & current else None
        note = self._blind(unseen) or ("" if was.pids else self._blind(recorded))
        return Presence(False, running, note)

    def _left(self, was: Process, running: Process | None) -> str:
        """Say who of *was* lives on beside *running*: a child, or who holds a connection."""
        new = frozenset(running.pids if running is not None else ())
        found = {one for one in self._relatives.left(was.pids, new) if not began_after(one, was)}
        if running is not None or not was.pids:
            return in_words(found)
        held = holders([one.inode for one in connections(self._port) if one.inode])
        serving = frozenset[Pid]().union(
            *holders([s.inode for s in listeners(self._port)]).values()
        )
        found |= frozenset().union(*map(self._holders.apps, held.values())) - serving
        unseen = sum(not who for who in held.values())
        said = [f"{unseen} connection(s) that somebody holds who is not shown"] if unseen else []
        return ", ".join([in_words(found)] * bool(found) + said)

    def wait_exit(self, was: Process, timeout: float) -> None:
        """Block until *was* may have exited, for at most *timeout* seconds."""
        deadline = time.monotonic() + timeout
        known = {*was.pids, *self._holders.known(was.sockets)}
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
        held = self._holders.held(current)
        app = frozenset[Pid]().union(*(self._holders.apps(held[inode]) for inode in current))
        unseen = {i for i in current if not held[i]}
        if not app and not unseen:
            by = in_words(frozenset().union(*held.values()))
            return (
                None,
                f"port {self._port} is held open by {by}, for a process that is not running",
            )
        if why := self._holders.suspected(app):
            return None, why
        self._relatives.learn(app)
        running = Process(
            self._clock.boot_id(),
            tuple(sorted(app)),
            tuple(sorted(current)),
            namespace=pids.namespace(),
            network=network().space,
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
            kept_open = bool(self._holders.keepers(processes))
            found |= {
                process
                for process in self._holders.apps(processes)
                if not _is_successor(process, was, kept_open=kept_open)
            }
        return frozenset(found)


_OTHER_NETWORK = (
    "the app was seen in another network namespace than the agent is in now: who listens here "
    "says nothing of it; run the agent in the network of the app"
)


def _is_successor(process: Pid, was: Process, *, kept_open: bool) -> bool:
    """
    Tell whether *process*, which holds a socket of *was*, is another app that was given it.

    It began after "drained" was said, whatever it inherited (a new master of gunicorn), or
    comes from a start by the service manager later than all of *was*.
    """
    if process in was.pids:
        return False
    if began_after(process, was):
        return True
    if not kept_open:
        return False
    origin = pids.activated(process)
    return origin is not None and all(origin[1] > start for _, start in was.pids)


def _plain(address: str) -> str:
    """Return *address* as the socket table writes addresses; a host name matches none of them."""
    try:
        return str(ip_address(address))
    except ValueError:
        return address
