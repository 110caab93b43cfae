"""What the app has in hand, by the kernel's table of sockets: the connections to its port."""

import math
import threading
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Annotated

from pydantic import Field

from deregister_agent.config.options import BackendOptions, Port
from deregister_agent.errors import ProbeError
from deregister_agent.host.connection_activity import (
    Activity,
    CountsMissingError,
    Follower,
    is_in_hand,
)
from deregister_agent.host.forwarders import engine_running, suspected
from deregister_agent.host.network import Network, network
from deregister_agent.host.pids import Pid
from deregister_agent.host.socket_holders import holders, own_sockets
from deregister_agent.host.sockets import (
    CONNECTED,
    Socket,
    SocketsError,
    State,
    connections,
    listeners,
    table,
)
from deregister_agent.model import Instance, Reading
from deregister_agent.ports import IdleProbe

EXAMINED = 1.0  # seconds for which the answer holds who has a socket: it may be handed on
_CONNECTING = CONNECTED | {State.SYN_SENT}  # of the agent: the app's end may be there already

Still = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Options(BackendOptions):
    """The connections to a port, whatever the app is."""

    port: Port | None = None
    """The port, where it is not the instance's own."""
    ignore: tuple[IPv4Network | IPv6Network, ...] = ()
    """Peers that do not count, as networks (``10.0.0.9/32``): health checkers, monitoring."""
    still: Still | None = None
    """The seconds without a byte after which a connection is idle, if the app owes nothing that can
    be seen. It must be longer than the longest silence of either side inside a request of this
    app. Without this key every connection counts."""
    program: str = ""
    """The name of the program that is the app, where that is mostly a proxy of others (nginx,
    haproxy): one that listens there without being named is taken for one."""


class TcpProbe(IdleProbe):
    """
    Counts the connections to one port: all of them, or with ``still`` those not idle.

    Connections that the app has not accepted yet count as well: to the kernel they are
    like all others. Those of the agent itself do not, since its own reads would keep the
    app busy for ever. *now* is the clock by which ``still`` is measured; a clock that
    stands while the host sleeps only makes a drain longer.
    """

    def __init__(
        self, options: Options, instance: Instance, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = options.label
        self._port = options.port or instance.port
        self._ignored = options.ignore
        self._follower = None if options.still is None else Follower(options.still)
        self._now = now
        self._program = options.program
        self._seen_in: Network | None = None  # the network in which somebody listened
        self._accepting: frozenset[int] = frozenset()  # who listened when one was accepted here
        self._examined: frozenset[int] = frozenset()
        self._examined_at = -math.inf
        self._own: dict[int, bool] = {}  # by cookie
        self._one_at_a_time = threading.Lock()

    def read(self, wait: float) -> Reading:
        """Count the connections. Raises ProbeError when the port cannot be seen from here."""
        del wait
        try:
            with self._one_at_a_time:
                return Reading(self._counted())
        except (SocketsError, CountsMissingError) as e:
            raise self._error(e) from e

    def _counted(self) -> dict[str, int]:
        asked = self._now()
        listening = listeners(self._port)
        every = connections(self._port, with_info=self._follower is not None)
        answered = self._now()
        found = [s for s in every if is_in_hand(s)]
        self._look_at(listening, found, every)
        counted = self._without_own(self._without_ignored(found))
        if self._follower is None:
            return {"connections": len(counted)}
        activity = self._follower.saw(counted, asked, answered)
        return {
            "busy_connections": activity.count(Activity.BUSY),
            "unknown_connections": activity.count(Activity.UNKNOWN),
        }

    def _look_at(
        self, listening: Iterable[Socket], found: list[Socket], every: Iterable[Socket]
    ) -> None:
        """Raise ProbeError if this table may lack connections to the port."""
        inodes = frozenset(s.inode for s in listening)
        if any(s.inode for s in every):
            self._accepting = inodes
        self._require_the_same_network(listens=bool(inodes), connected=bool(found))
        if not inodes <= self._examined or time.monotonic() - self._examined_at > EXAMINED:
            self._require_no_forwarder(inodes, every)

    def _require_the_same_network(self, *, listens: bool, connected: bool) -> None:
        """Raise ProbeError if what is not in this network proves nothing."""
        if listens:
            self._seen_in = network()
        elif self._seen_in is not None and not connected:
            if why := self._seen_in.lost(network()):
                raise self._error(why)
        elif not connected:
            raise self._error(
                "nothing listens there and nothing is connected; an app in another network "
                "namespace (a container of its own) is not to be seen from here: run the agent "
                "in the same one, or correct the port"
            )

    def _require_no_forwarder(self, inodes: frozenset[int], every: Iterable[Socket]) -> None:
        """Raise ProbeError if whoever listens may do so for an app in another network."""
        asked = time.monotonic()
        accepts = bool(inodes & self._accepting)
        held = holders(inodes)
        processes = frozenset[Pid]().union(*held.values())
        if why := suspected(processes, self._port, every, self._program):
            raise self._error(why)
        unseen = not all(held.values())
        if unseen and not accepts and (engine := engine_running()):
            raise self._error(
                f"who listens there cannot be seen, {engine} runs on this host and may do so for a "
                "container, and no connection was seen yet that somebody here had accepted: run "
                "the agent as root or as the app's user, or in the app's network namespace"
            )
        if not unseen or accepts:
            self._examined, self._examined_at = inodes, asked

    def _without_ignored(self, found: list[Socket]) -> list[Socket]:
        if not self._ignored:
            return found
        ignored = {
            peer: any(ip_address(peer) in network for network in self._ignored)
            for peer in {s.peer for s in found}
        }
        return [s for s in found if not ignored[s.peer]]

    def _without_own(self, found: list[Socket]) -> list[Socket]:
        """
        Return the sockets in *found* whose other end does not belong to this very process.

        The owner of a connection never changes, so each is looked up once: there may be as
        many sockets to the port on this host as connections.
        """
        if all(s.cookie in self._own for s in found):
            return [s for s in found if not self._own[s.cookie]]
        mine = own_sockets()
        to_app = table(_CONNECTING, peer_port=self._port) if mine else []
        ends = {(s.local, s.local_port, s.peer) for s in to_app if s.inode in mine}
        own = [(s.peer, s.peer_port, s.local) in ends for s in found]
        self._own = {s.cookie: is_own for s, is_own in zip(found, own, strict=True) if s.cookie}
        return [s for s, is_own in zip(found, own, strict=True) if not is_own]

    def _error(self, cause: object) -> ProbeError:
        return ProbeError(self.name, f"count the connections to port {self._port}", cause)


def build(options: Options, instance: Instance) -> TcpProbe:
    """Return the probe of *instance*. Reads nothing yet."""
    return TcpProbe(options, instance)
