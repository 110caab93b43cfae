"""
What an app has in hand of RabbitMQ's messages: delivered to it and not acknowledged.

By the management API, which is late: each channel tells its numbers every
``collect_statistics_interval`` (5 s), and they are shown after at most one sample of
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
from deregister_agent.errors import ProbeError
from deregister_agent.host.json_values import is_whole_number
from deregister_agent.model import Instance, Reading
from deregister_agent.net.fetcher import Fetcher, FetchError
from deregister_agent.ports import IdleProbe
from deregister_agent.probes.counting import Doubt, Turn, is_named
from deregister_agent.probes.http_endpoint import OK, Served, Url, reached

SEES_ALL = frozenset({"administrator", "monitoring"})
COUNTED = "AMQP 0-"  # 0-9-1 and older: their messages belong to channels
AGAIN = 1.0  # seconds after which it is asked again whether the statistics are whole
Entry = Mapping[str, Any]


class Options(Served):
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
    """Whether a consumer is work in hand: it may be given a message at any moment."""
    absent: Literal["unknown", "zero"] = "unknown"
    """What it means that the app has no connection: ``zero`` for one that closes it when it
    stops."""
    lag: Seconds = 11.0
    """How late the statistics may be, in seconds: the sum of both intervals, and one more."""
    timeout: Timeout = 5.0
    """The limit of one read, in seconds."""


class RabbitMQProbe(IdleProbe):
    """Adds up what all channels of the app's connections have in hand."""

    def __init__(self, options: Options, peer: str, fetcher: Fetcher) -> None:
        self.name = options.label
        self._options, self._peer, self._fetcher = options, _plain(peer), fetcher
        self._turn, self._whole_until = Turn(), 0.0

    def read(self, wait: float) -> Reading:
        """Tell what is in hand. Raises ProbeError where RabbitMQ does not tell it plainly."""
        del wait
        try:
            with self._turn.taken(self._options.timeout) as left:
                return self._reading(time.monotonic() + left)
        except (FetchError, Doubt) as e:
            doing = f"tell what {self._own()} has in hand from {self._options.url}"
            raise ProbeError(self.name, doing, e) from e

    def _reading(self, end: float) -> Reading:
        self._must_be_whole(end)
        place = "" if self._options.vhost is None else f"/{quote(self._options.vhost, safe='')}"
        of_host = f"/api/vhosts{place}" if place else "/api"
        told = "name,peer_host,user_provided_name,protocol"
        connections = self._list(f"{of_host}/connections", told, end)
        names = self._connections(connections)
        counted = "name,connection_details,messages_unacknowledged,acks_uncommitted"
        channels = self._list(f"{of_host}/channels", counted, end)
        _must_have_channels([c for c in connections if names.get(c["name"])], channels)
        consumers = self._list(f"/api/consumers{place}", "channel_details,ack_required", end)
        in_flight = {"messages": sum(_in_hand(c) for c in self._mine(channels, names))}
        own = list(self._mine(consumers, names))
        if self._options.count_consumers:
            in_flight["consumers"] = len(own)
        elif not all(consumer.get("ack_required") is True for consumer in own):
            raise Doubt("a consumer takes messages without acknowledging them")
        known = any(names.values()) or own or in_flight["messages"]
        if not known and self._options.absent == "unknown":
            raise Doubt("it has no connection")
        return Reading(in_flight, late=self._options.lag)

    def _must_be_whole(self, end: float) -> None:
        """Raise Doubt if there may be connections and messages that are not shown; now and then."""
        now = time.monotonic()
        if now < self._whole_until:
            return
        _must_see_all(self._get("/api/whoami", "name,tags", end))
        if _object(self._get("/api/overview", "disable_stats", end)).get("disable_stats"):
            raise Doubt("RabbitMQ's statistics are switched off, so no channel tells what it has")
        for node in self._list("/api/nodes", "name,running", end):
            if node.get("running") is not True:
                raise Doubt(f"node {node.get('name')} is not running: its connections do not show")
        self._whole_until = now + min(AGAIN, self._options.lag / 2)

    def _connections(self, entries: Sequence[Entry]) -> Mapping[str, bool]:
        """Return the connections of the app's address, and of each whether it is the app's."""
        wanted = self._options.connection
        found = {}
        for entry in entries:
            name = _text(entry, "name")
            if _peer(entry, name) != self._peer:
                continue
            own = wanted is None or is_named(entry.get("user_provided_name", ""), wanted)
            if not own and "peer_host" not in entry:
                raise Doubt(f"connection {name} has just begun, and does not tell its name yet")
            found[name] = own
        return found

    def _mine(self, entries: Sequence[Entry], names: Mapping[str, bool]) -> Iterator[Entry]:
        """Give those channels or consumers that belong to the app."""
        for entry in entries:
            details = entry.get("connection_details") or entry.get("channel_details") or {}
            name = entry.get("name") or details.get("name")
            if not isinstance(name, str):
                raise Doubt("a channel or consumer does not tell whose it is")
            connection = name.rpartition(" (")[0]
            if _peer(details, connection) != self._peer:
                continue
            if self._options.connection is not None and connection not in names:
                raise Doubt(f"connection {connection} has just begun, or just ended")
            if names.get(connection, True):
                yield entry

    def _list(self, target: str, columns: str, end: float) -> Sequence[Entry]:
        found = self._get(target, columns, end)
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise Doubt(f"{target} is not a list of objects")
        return found

    def _get(self, target: str, columns: str, end: float) -> Any:
        left = max(0.001, round(end - time.monotonic(), 3))
        answer = self._fetcher.call("GET", target, params=[("columns", columns)], timeout=left)
        if answer.status != OK:
            start = " ".join(answer.text[:80].split())
            raise Doubt(f"{target} answered with status {answer.status}, not 200: {start!r}")
        return answer.json()

    def _own(self) -> str:
        named = self._options.connection
        return self._peer if named is None else f"{named} at {self._peer}"


def _object(found: Any) -> Entry:
    if not isinstance(found, dict):
        raise Doubt("what it says of itself is no object")
    return found


def _must_see_all(user: Any) -> None:
    """Raise Doubt unless the user is shown every connection, and not only its own."""
    tags = _object(user).get("tags", "")
    if isinstance(tags, str):
        tags = tags.split(",")
    if not isinstance(tags, list) or not SEES_ALL.intersection(str(tag) for tag in tags):
        raise Doubt("the user has not the tag monitoring, so it is not shown all connections")


def _must_have_channels(own: Sequence[Entry], channels: Sequence[Entry]) -> None:
    """Raise Doubt where a connection keeps its messages elsewhere: newer MQTT and AMQP 1.0."""
    shown = {str(channel.get("name")).rpartition(" (")[0] for channel in channels}
    for one in own:
        protocol = str(one.get("protocol", COUNTED))
        if not protocol.startswith(COUNTED) and one["name"] not in shown:
            raise Doubt(
                f"connection {one['name']} speaks {protocol} and has no channel, so RabbitMQ does "
                "not tell which messages it has in hand: close it before, or let the app count them"
            )


def _text(entry: Entry, key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise Doubt(f"a connection has no {key}")
    return value


def _peer(entry: Entry, connection: str) -> str:
    """Return the address a connection comes from; its name begins with it."""
    host = entry.get("peer_host")
    if not isinstance(host, str):
        host = connection.partition(" -> ")[0].rpartition(":")[0]
    return _plain(host)


def _plain(host: str) -> str:
    """Return an address in the one way of writing it; a host name stays as it is."""
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _in_hand(channel: Entry) -> int:
    counts = [channel.get(key) for key in ("messages_unacknowledged", "acks_uncommitted")]
    for count in counts:
        if not is_whole_number(count) or count < 0:
            raise Doubt(
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
    return RabbitMQProbe(options, peer, reached(options, signed_in, mistakes))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
