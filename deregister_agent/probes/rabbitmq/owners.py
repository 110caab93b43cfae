"""Which connections, channels and consumers of RabbitMQ are the app's."""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv6Address, ip_address
from typing import Any

from deregister_agent.probes.counting import Unclear, fits_name

COUNTED = "AMQP 0-"  # 0-9-1 and older: their messages belong to channels
RabbitObject = Mapping[str, Any]


class Owners:
    """
    The connections from the app's address, and whether the app made them.

    *peer*: the app's address in its plain spelling; *wanted*: the name that the app gives its
    connections, in which ``*`` stands for any characters; None: all from its address are its own.
    Raises Unclear for a connection that does not tell its name yet.
    """

    def __init__(self, connections: Sequence[RabbitObject], peer: str, wanted: str | None) -> None:
        self._peer, self._wanted = peer, wanted
        self._entries = connections
        self._own = {}
        for entry in connections:
            name = _text(entry, "name")
            if _peer(entry, name) != peer:
                continue
            own = wanted is None or fits_name(entry.get("user_provided_name", ""), wanted)
            if not own and "peer_host" not in entry:
                raise Unclear(f"connection {name} has just begun, and does not tell its name yet")
            self._own[name] = own

    def __bool__(self) -> bool:
        """Tell whether the app has a connection."""
        return any(self._own.values())

    def mine(self, entries: Sequence[RabbitObject]) -> Iterator[RabbitObject]:
        """Give those channels or consumers that are the app's. Raises Unclear where none tells."""
        for entry in entries:
            details = _details(entry)
            connection = _connection(entry, details)
            if _peer(details, connection) != self._peer:
                continue
            if not connection:
                raise Unclear(
                    "a consumer from its address does not tell its connection: it is none of "
                    "AMQP 0-9-1, and this RabbitMQ does not say whose"
                )
            if self._wanted is not None and connection not in self._own:
                raise Unclear(f"connection {connection} has just begun, or just ended")
            if self._own.get(connection, True):
                yield entry

    def must_have_channels(self, channels: Sequence[RabbitObject]) -> None:
        """Raise Unclear where messages belong to no channel: newer MQTT, AMQP 1.0, streams."""
        shown = {_connection(channel, _details(channel)) for channel in channels}
        for one in self._entries:
            protocol = str(one.get("protocol", COUNTED))
            if not self._own.get(one["name"]) or protocol.startswith(COUNTED):
                continue
            if one["name"] not in shown:
                raise Unclear(
                    f"connection {one['name']} speaks {protocol} and has no channel, so RabbitMQ "
                    "does not tell which messages it has in hand: close it before, or let the app "
                    "count them"
                )


def plain(host: str) -> str:
    """Return an address in its plain spelling; a host name stays as it is."""
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _details(entry: RabbitObject) -> RabbitObject:
    details = entry.get("connection_details") or entry.get("channel_details") or {}
    return details if isinstance(details, Mapping) else {}


def _connection(entry: RabbitObject, details: RabbitObject) -> str:
    """
    Return the name of the connection that a channel or a consumer belongs to.

    A channel's name is that of its connection and a number. A consumer of a stream has no
    channel, so there the name is empty and only the details tell; empty if they do not.
    """
    if "channel_details" in entry and details.get("connection_name"):
        return _text(details, "connection_name")
    name = entry.get("name") or details.get("name")
    if not isinstance(name, str):
        raise Unclear("a channel or consumer does not tell whose it is")
    return name.rpartition(" (")[0]


def _text(entry: RabbitObject, key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise Unclear(f"a connection has no {key}")
    return value


def _peer(entry: RabbitObject, connection: str) -> str:
    """Return the address a connection comes from; the connection's name begins with that."""
    host = entry.get("peer_host")
    if not isinstance(host, str):
        host = connection.partition(" -> ")[0].rpartition(":")[0]
    return plain(host)
