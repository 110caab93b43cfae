"""
What an app has in hand of RabbitMQ's messages: delivered to it and not acknowledged.

The management API is late: each channel tells its numbers every
``collect_statistics_interval`` (5 s), and the API shows them after at most one sample of
``sample_retention_policies`` (5 s). So each reading says how late it may be.
https://www.rabbitmq.com/docs/management#statistics-interval
"""

import base64
import time
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv6Address, ip_address
from typing import Any, Literal
from urllib.parse import quote

from deregister_agent.config.options import Seconds, Secret, Timeout
from deregister_agent.errors import AgentError, ProbeError
from deregister_agent.host.json_values import is_whole_number
from deregister_agent.model import Instance, Reading
from deregister_agent.net.fetcher import Fetcher
from deregister_agent.ports import IdleProbe
from deregister_agent.probes.counting import ReadLock, Unclear, fits_name
from deregister_agent.probes.http_endpoint import HttpProbeOptions, Url, ok_json, open_fetcher

SEES_ALL = frozenset({"administrator", "monitoring"})
COUNTED = "AMQP 0-"  # 0-9-1 and older: their messages belong to channels
CHECK_EVERY = 1.0  # seconds between two checks that the statistics are whole
RabbitObject = Mapping[str, Any]


class Options(HttpProbeOptions):
    """The connections of one app to RabbitMQ."""

    url: Url = "http://127.0.0.1:15672"
    """The management API: ``http://`` or ``https://``."""
    user: str
    """A user with the tag ``monitoring``."""
    password: Secret
    """That user's password."""
    peer: str = ""
    """The address from which the app connects, as RabbitMQ sees it; the instance's own, unless it
    is given."""
    connection: str | None = None
    """The name that the app gives its connections; ``*`` stands for any characters. Needed where
    several instances connect from one address."""
    vhost: str | None = None
    """The virtual host; all, unless it is given."""
    count_consumers: bool = True
    """Whether a consumer is work in hand, since a message may be sent there at any moment."""
    absent: Literal["unknown", "zero"] = "unknown"
    """What it means that the app has no connection: ``zero`` for an app that closes its connection
    when it stops."""
    lag: Seconds = 11.0
    """How late the statistics may be, in seconds: the sum of both intervals, and one more."""
    timeout: Timeout = 5.0
    """The limit of one read, in seconds."""


class RabbitMQProbe(IdleProbe):
    """Adds up what all channels of the app's connections have in hand."""

    def __init__(self, options: Options, peer: str, fetcher: Fetcher) -> None:
        self.name = options.label
        self._options, self._peer, self._fetcher = options, _plain(peer), fetcher
        self._reads, self._whole_until = ReadLock(), 0.0

    def read(self, wait: float) -> Reading:
        """Return what is in hand. Raises ProbeError where RabbitMQ does not say so plainly."""
        del wait
        try:
            with self._reads.held(self._options.timeout) as left:
                return self._reading(time.monotonic() + left)
        except AgentError as e:
            doing = f"tell what {self._own()} has in hand from {self._options.url}"
            raise ProbeError(self.name, doing, e) from e

    def _reading(self, end: float) -> Reading:
        self._must_be_whole(end)
        vhost = "" if self._options.vhost is None else f"/{quote(self._options.vhost, safe='')}"
        of_host = f"/api/vhosts{vhost}" if vhost else "/api"
        told = "name,peer_host,user_provided_name,protocol"
        connections = self._list(f"{of_host}/connections", told, end)
        names = self._connections(connections)
        counted = "name,connection_details,messages_unacknowledged,acks_uncommitted"
        channels = self._list(f"{of_host}/channels", counted, end)
        _must_have_channels([c for c in connections if names.get(c["name"])], channels)
        consumers = self._list(f"/api/consumers{vhost}", "channel_details,ack_required", end)
        in_flight = {"messages": sum(_in_hand(c) for c in self._mine(channels, names))}
        own = list(self._mine(consumers, names))
        if self._options.count_consumers:
            in_flight["consumers"] = len(own)
        elif not all(consumer.get("ack_required") is True for consumer in own):
            raise Unclear("a consumer takes messages without acknowledging them")
        known = any(names.values()) or own or in_flight["messages"]
        if not known and self._options.absent == "unknown":
            raise Unclear("it has no connection")
        return Reading(in_flight, late=self._options.lag)

    def _must_be_whole(self, end: float) -> None:
        """Raise Unclear, now and then, where connections or messages may not show."""
        now = time.monotonic()
        if now < self._whole_until:
            return
        _must_see_all(self._get("/api/whoami", "name,tags", end))
        if _object(self._get("/api/overview", "disable_stats", end)).get("disable_stats"):
            raise Unclear("RabbitMQ's statistics are switched off, so no channel tells what it has")
        for node in self._list("/api/nodes", "name,running", end):
            if node.get("running") is not True:
                raise Unclear(
                    f"node {node.get('name')} is not running: its connections do not show"
                )
        self._whole_until = now + min(CHECK_EVERY, self._options.lag / 2)

    def _connections(self, entries: Sequence[RabbitObject]) -> Mapping[str, bool]:
        """Return each connection from the app's address, and whether the app made it."""
        wanted = self._options.connection
        found = {}
        for entry in entries:
            name = _text(entry, "name")
            if _peer(entry, name) != self._peer:
                continue
            own = wanted is None or fits_name(entry.get("user_provided_name", ""), wanted)
            if not own and "peer_host" not in entry:
                raise Unclear(f"connection {name} has just begun, and does not tell its name yet")
            found[name] = own
        return found

    def _mine(
        self, entries: Sequence[RabbitObject], names: Mapping[str, bool]
    ) -> Iterator[RabbitObject]:
        """Give those channels or consumers that belong to the app."""
        for entry in entries:
            details = entry.get("connection_details") or entry.get("channel_details") or {}
            name = entry.get("name") or details.get("name")
            if not isinstance(name, str):
                raise Unclear("a channel or consumer does not tell whose it is")
            connection = name.rpartition(" (")[0]
            if _peer(details, connection) != self._peer:
                continue
            if self._options.connection is not None and connection not in names:
                raise Unclear(f"connection {connection} has just begun, or just ended")
            if names.get(connection, True):
                yield entry

    def _list(self, target: str, columns: str, end: float) -> Sequence[RabbitObject]:
        found = self._get(target, columns, end)
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise Unclear(f"{target} is not a list of objects")
        return found

    def _get(self, target: str, columns: str, end: float) -> Any:
        left = max(0.001, round(end - time.monotonic(), 3))
        answer = self._fetcher.call("GET", target, params=[("columns", columns)], timeout=left)
        return ok_json(answer, target)

    def _own(self) -> str:
        named = self._options.connection
        return self._peer if named is None else f"{named} at {self._peer}"


def _object(found: Any) -> RabbitObject:
    if not isinstance(found, dict):
        raise Unclear("what it says of itself is no object")
    return found


def _must_see_all(user: Any) -> None:
    """Raise Unclear unless the user is shown every connection, and not only its own."""
    tags = _object(user).get("tags", "")
    if isinstance(tags, str):
        tags = tags.split(",")
    if not isinstance(tags, list) or not SEES_ALL.intersection(str(tag) for tag in tags):
        raise Unclear("the user has not the tag monitoring, so it is not shown all connections")


def _must_have_channels(own: Sequence[RabbitObject], channels: Sequence[RabbitObject]) -> None:
    """Raise Unclear where messages belong to no channel: newer MQTT, AMQP 1.0."""
    shown = {str(channel.get("name")).rpartition(" (")[0] for channel in channels}
    for one in own:
        protocol = str(one.get("protocol", COUNTED))
        if not protocol.startswith(COUNTED) and one["name"] not in shown:
            raise Unclear(
                f"connection {one['name']} speaks {protocol} and has no channel, so RabbitMQ does "
                "not tell which messages it has in hand: close it before, or let the app count them"
            )


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
    return _plain(host)


def _plain(host: str) -> str:
    """Return an address in its plain spelling; a host name stays as it is."""
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _in_hand(channel: RabbitObject) -> int:
    counts = [channel.get(key) for key in ("messages_unacknowledged", "acks_uncommitted")]
    for count in counts:
        if not is_whole_number(count) or count < 0:
            raise Unclear(
                f"channel {channel.get('name')} tells of {counts[0]!r} unacknowledged messages "
                f"and {counts[1]!r} uncommitted ones"
            )
    return sum(count for count in counts if count is not None)


def build(options: Options, instance: Instance) -> RabbitMQProbe:
    """Return the probe. Raises ConfigError if the URL is none, or the address is not known."""

    def signed_in() -> Mapping[str, str]:
        pair = f"{options.user}:{options.password.read()}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}

    peer = options.peer or instance.address
    mistakes = []
    if not options.peer and not _is_address(peer):
        mistakes.append(f"peer: needed, since RabbitMQ sees addresses and {peer!r} is a host name")
    return RabbitMQProbe(options, peer, open_fetcher(options, signed_in, mistakes))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
