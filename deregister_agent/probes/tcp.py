"""What the app has in hand, by the kernel's count: the connections to its port."""

import threading
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address

from deregister_agent import pids
from deregister_agent.errors import ProbeError
from deregister_agent.model import Instance, Reading
from deregister_agent.options import BackendOptions, Port
from deregister_agent.ports import IdleProbe
from deregister_agent.sockets import (
    CONNECTED,
    Socket,
    SocketsError,
    State,
    connections,
    listeners,
    table,
)

_CLOSED_BY_APP = frozenset({State.FIN_WAIT1, State.FIN_WAIT2, State.CLOSING, State.LAST_ACK})
_FIN = 1  # a FIN takes one place in the send queue
_FORWARDERS = frozenset({"docker-proxy"})


class Options(BackendOptions):
    """The connections to a port, whatever the app is."""

    port: Port | None = None
    """The port, where it is not the instance's own."""
    ignore: tuple[IPv4Network | IPv6Network, ...] = ()
    """Peers that do not count, as networks (``10.0.0.9/32``): health checkers, monitoring."""


class TcpProbe(IdleProbe):
    """
    Counts the connections to one port, as ``connections``.

    Also those that the app has not accepted yet: to the kernel they are connections
    like all others. Not those of the agent itself, whose own reads would keep the
    app busy for ever.
    """

    def __init__(self, options: Options, instance: Instance) -> None:
        self.name = options.label
        self._port = options.port or instance.port
        self._ignored = options.ignore
        self._seen_listening = False
        self._examined: frozenset[int] = frozenset()
        self._one_at_a_time = threading.Lock()

    def read(self, wait: float) -> Reading:
        """Count the connections. Raises ProbeError when the port is not to be seen here."""
        del wait
        try:
            with self._one_at_a_time:
                listening = listeners(self._port)
                found = [s for s in connections(self._port) if is_in_hand(s)]
                self._look_at(listening, found)
            counted = [s for s in found if not self._is_ignored(s.peer)]
            return Reading({"connections": len(counted) - len(self._own(counted))})
        except SocketsError as e:
            raise self._error(e) from e

    def _look_at(self, listening: Iterable[Socket], found: list[Socket]) -> None:
        """Raise ProbeError if connections to the port need not show in this table."""
        inodes = frozenset(s.inode for s in listening)
        self._seen_listening = self._seen_listening or bool(inodes)
        if not self._seen_listening and not found:
            raise self._error(
                "nothing listens there and nothing is connected; an app in another network "
                "namespace (a container of its own) is not to be seen from here: run the agent "
                "in the same one, or correct the port"
            )
        if inodes <= self._examined:
            return
        for holders in pids.holders(inodes).values():
            names = {pids.name(pid) for pid, _ in holders} & _FORWARDERS
            if names:
                raise self._error(
                    f"{names.pop()} listens there for a container, and connections to a container "
                    "are not to be seen from here: run the agent in the app's network namespace"
                )
        self._examined = inodes

    def _is_ignored(self, peer: str) -> bool:
        return any(ip_address(peer) in network for network in self._ignored)

    def _own(self, counted: Iterable[Socket]) -> list[Socket]:
        """Return those of *counted* whose other end is a socket of this very process."""
        mine = pids.own_sockets() if counted else frozenset()
        if not mine:
            return []
        to_app = table(CONNECTED, peer_port=self._port)
        ends = {(s.local, s.local_port, s.peer) for s in to_app if s.inode in mine}
        return [s for s in counted if (s.peer, s.peer_port, s.local) in ends]

    def _error(self, cause: object) -> ProbeError:
        return ProbeError(self.name, f"count the connections to port {self._port}", cause)


def is_in_hand(connection: Socket) -> bool:
    """
    Tell whether the app, or the kernel for it, still has something to do with *connection*.

    Once the app has closed it (no process holds it any more) it counts for as long
    as bytes of the answer are unacknowledged; the FIN alone does not count.
    """
    if connection.state not in _CLOSED_BY_APP:
        return True
    return connection.inode != 0 or connection.send_queue > _FIN


def build(options: Options, instance: Instance) -> TcpProbe:
    """Return the probe for *instance*. Reads nothing yet."""
    return TcpProbe(options, instance)
