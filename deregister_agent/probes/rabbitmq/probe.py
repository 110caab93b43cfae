"""
What an app has in hand of RabbitMQ's messages: delivered to it and not acknowledged.

The management API is late: each channel tells its numbers every
``collect_statistics_interval`` (5 s), and the API shows them after at most one sample of
``sample_retention_policies`` (5 s). So each reading says how late it may be.
https://www.rabbitmq.com/docs/management#statistics-interval
"""

import base64
import re
import time
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import Field

from deregister_agent.config.options import Seconds, Secret, Timeout
from deregister_agent.errors import AgentError, ProbeError, hide_secret
from deregister_agent.model import Instance, Reading
from deregister_agent.net.fetcher import Fetcher
from deregister_agent.ports import IdleProbe
from deregister_agent.probes.counting import ReadLock, Unclear, a_count, fits_name
from deregister_agent.probes.http_endpoint import HttpProbeOptions, Url, ok_json, open_fetcher
from deregister_agent.probes.rabbitmq.deliveries import COLUMNS, Deliveries
from deregister_agent.probes.rabbitmq.owners import Owners, RabbitObject, plain

SEES_ALL = frozenset({"administrator", "monitoring"})
CHECK_EVERY = 1.0  # seconds between two checks that the statistics are whole
KEPT = 5.0  # management_db_cache_multiplier: for how many times what it took an answer is kept
FADES = 0.9  # by how much a slow answer counts less with each reading


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
    queues: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The queues that have the app's work; ``*`` stands for any characters. Consumers of others,
    such as of replies, are not waited for; all count, unless it is given."""
    count_consumers: bool = True
    """Whether a consumer is work in hand, since a message may be sent there at any moment, and
    asking for messages (``basic.get``) likewise."""
    absent: Literal["unknown", "zero"] = "unknown"
    """What it means that the app has no connection: ``zero`` for an app that closes its connection
    when it stops."""
    lag: Seconds = 11.0
    """How late the statistics may be, in seconds: the sum of both intervals, and one more."""
    timeout: Timeout = 5.0
    """The limit of one read, in seconds."""


class RabbitMQProbe(IdleProbe):
    """Adds up what all channels of the app's connections have in hand, and have been given."""

    def __init__(self, options: Options, peer: str, fetcher: Fetcher) -> None:
        self.name = options.label
        self._options, self._peer, self._fetcher = options, plain(peer), fetcher
        vhost = "" if options.vhost is None else f"/{quote(options.vhost, safe='')}"
        self._vhost, self._of_host = vhost, f"/api/vhosts{vhost}" if vhost else "/api"
        self._reads, self._whole_until = ReadLock(), 0.0
        self._deliveries = Deliveries(asking=options.count_consumers)
        self._counted = True  # RabbitMQ counts messages: its rates_mode is not none
        self._unseen = set(options.queues or ())  # queues that no queue was seen to fit
        self._took = 0.0  # seconds of the slowest answer of late

    def read(self, wait: float) -> Reading:
        """Return what is in hand. Raises ProbeError where RabbitMQ does not say so plainly."""
        del wait
        try:
            with self._reads.held(self._options.timeout) as left:
                return self._reading(time.monotonic() + left)
        except AgentError as e:
            doing = f"tell what {self._own()} has in hand from {self._options.url}"
            raise ProbeError(self.name, doing, e) from e

    def consumers_left_out(self) -> Sequence[str]:
        """Name the queues whose consumers ``queues`` leaves out. Raises ProbeError."""
        end = time.monotonic() + self._options.timeout
        try:
            self._must_find_queues(end)
            left_out = [c for c in self._consumers(self._owners(end), end) if not self._fits(c)]
            return sorted({_queue(consumer) for consumer in left_out})
        except AgentError as e:
            doing = f"tell which consumers of {self._own()} its queues leave out"
            raise ProbeError(self.name, doing, e) from e

    def _reading(self, end: float) -> Reading:
        self._must_be_whole(end)
        self._took *= FADES
        owners = self._owners(end)
        columns = ("name", "connection_details", "messages_unacknowledged", "acks_uncommitted")
        channels = self._list(f"{self._of_host}/channels", (*columns, *COLUMNS), end)
        owners.must_have_channels(channels)
        consumers = self._consumers(owners, end)
        working = [consumer for consumer in consumers if self._fits(consumer)]
        mine = list(owners.mine(channels))
        in_flight = {"messages": sum(_in_hand(channel) for channel in mine)}
        if self._options.count_consumers:
            in_flight["consumers"] = len(working)
        elif not all(consumer.get("ack_required") is True for consumer in working):
            raise Unclear("a consumer takes messages without acknowledging them")
        aside = _channels(consumers) - _channels(working)
        started = self._deliveries.count(mine, aside, counted=self._counted)
        if not (owners or consumers or in_flight["messages"]) and self._options.absent == "unknown":
            raise Unclear("it has no connection")
        return Reading(in_flight, started, late=self._options.lag + KEPT * self._took)

    def _must_be_whole(self, end: float) -> None:
        """Raise Unclear, now and then, where connections or messages may not show."""
        now = time.monotonic()
        if now < self._whole_until:
            return
        _must_see_all(self._get("/api/whoami", ("name", "tags"), end))
        overview = _object(self._get("/api/overview", ("disable_stats", "rates_mode"), end))
        if overview.get("disable_stats"):
            raise Unclear("RabbitMQ's statistics are switched off, so no channel tells what it has")
        self._counted = overview.get("rates_mode") != "none"
        for node in self._list("/api/nodes", ("name", "running"), end):
            if node.get("running") is not True:
                raise Unclear(
                    f"node {node.get('name')} is not running: its connections do not show"
                )
        self._must_find_queues(end)
        self._whole_until = now + min(CHECK_EVERY, self._options.lag / 2)

    def _must_find_queues(self, end: float) -> None:
        """Raise Unclear where a name in ``queues`` was never seen to be that of a queue."""
        for wanted in sorted(self._unseen):
            pattern = ".*".join(re.escape(part) for part in wanted.split("*"))
            page = {"page": "1", "page_size": "500", "use_regex": "true", "name": f"^{pattern}$"}
            target = f"/api/queues{self._vhost}"
            found = _object(self._get(target, ("name",), end, **page)).get("items")
            # RabbitMQ's pattern takes capital letters for small ones.
            if not any(fits_name(queue.get("name"), wanted) for queue in _objects(found, target)):
                raise Unclear(
                    f"no queue that the user may see is called {wanted!r}, which stands in its "
                    "queues: correct it there, or the consumers of the queue that is meant would "
                    "be left out; or give the user a permission in the virtual host"
                )
            self._unseen.discard(wanted)

    def _owners(self, end: float) -> Owners:
        told = ("name", "peer_host", "user_provided_name", "protocol")
        connections = self._list(f"{self._of_host}/connections", told, end)
        return Owners(connections, self._peer, self._options.connection)

    def _consumers(self, owners: Owners, end: float) -> Sequence[RabbitObject]:
        told = ("channel_details", "ack_required", "queue")
        return list(owners.mine(self._list(f"/api/consumers{self._vhost}", told, end)))

    def _fits(self, consumer: RabbitObject) -> bool:
        """Tell whether a consumer is one of the queues that have the app's work."""
        wanted = self._options.queues
        return wanted is None or any(fits_name(_queue(consumer), one) for one in wanted)

    def _list(self, target: str, columns: Sequence[str], end: float) -> Sequence[RabbitObject]:
        began = time.monotonic()
        found = self._get(target, columns, end)
        self._took = max(self._took, time.monotonic() - began)
        return _objects(found, target)

    def _get(self, target: str, columns: Sequence[str], end: float, **more: str) -> Any:
        left = max(0.001, round(end - time.monotonic(), 3))
        params = [("columns", ",".join(columns)), *more.items()]
        answer = self._fetcher.call("GET", target, params=params, timeout=left)
        return ok_json(answer, target)

    def _own(self) -> str:
        named = self._options.connection
        return self._peer if named is None else f"{named} at {self._peer}"


def _object(found: Any) -> RabbitObject:
    if not isinstance(found, dict):
        raise Unclear("what it says of itself is no object")
    return found


def _objects(found: Any, target: str) -> Sequence[RabbitObject]:
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise Unclear(f"{target} is not a list of objects")
    return found


def _must_see_all(user: Any) -> None:
    """Raise Unclear unless the user is shown every connection, and not only its own."""
    tags = _object(user).get("tags", "")
    if isinstance(tags, str):
        tags = tags.split(",")
    if not isinstance(tags, list) or not SEES_ALL.intersection(str(tag) for tag in tags):
        raise Unclear("the user has not the tag monitoring, so it is not shown all connections")


def _queue(consumer: RabbitObject) -> str:
    """Return the name of the queue that a consumer is of. Raises Unclear if it tells none."""
    queue = consumer.get("queue")
    name = queue.get("name") if isinstance(queue, Mapping) else None
    if not isinstance(name, str):
        raise Unclear("a consumer does not tell its queue")
    return name


def _channels(consumers: Sequence[RabbitObject]) -> frozenset[str]:
    """Return the names of the channels that *consumers* belong to."""
    return frozenset(str(consumer["channel_details"].get("name")) for consumer in consumers)


def _in_hand(channel: RabbitObject) -> int:
    keys = ("messages_unacknowledged", "acks_uncommitted")
    return sum(a_count(channel.get(key), f"{key} of channel {channel.get('name')}") for key in keys)


def build(options: Options, instance: Instance) -> RabbitMQProbe:
    """Return the probe. Raises ConfigError if the URL is none, or the address is not known."""

    def signed_in() -> Mapping[str, str]:
        pair = f"{options.user}:{options.password.read()}".encode()
        signed = base64.b64encode(pair).decode()
        hide_secret(signed)
        return {"Authorization": f"Basic {signed}"}

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


def warnings(options: Options, instance: Instance) -> Sequence[str]:
    """Name the app's consumers that ``queues`` leaves out, where it is given. Raises ProbeError."""
    if options.queues is None:
        return ()
    left_out = build(options, instance).consumers_left_out()
    named = f"those of {', '.join(left_out)}" if left_out else "there are none now"
    only = f"consumers of other queues than {', '.join(options.queues)} are not waited for: {named}"
    return [f"{only}; what they have in hand counts only while it is not acknowledged"]
