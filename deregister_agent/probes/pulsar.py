"""
What an app has in hand of Pulsar's messages: sent to its consumers and not acknowledged.

The broker makes its statistics of a topic when they are asked for. Unacknowledged messages
are counted only in subscriptions that acknowledge each message by itself (Shared,
Key_Shared); in others the number is always 0 and says nothing.
https://pulsar.apache.org/docs/administration-stats/
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import AfterValidator, Field

from deregister_agent.config.options import Secret, Timeout
from deregister_agent.errors import AgentError, ProbeError
from deregister_agent.model import Instance, Reading
from deregister_agent.net.fetcher import Fetcher
from deregister_agent.ports import IdleProbe
from deregister_agent.probes.counting import Unclear, a_count, fits_name
from deregister_agent.probes.http_endpoint import (
    HttpProbeOptions,
    Url,
    bearer_headers,
    ok_json,
    open_fetcher,
)

COUNTED = frozenset({"Shared", "Key_Shared"})
NAME_PARTS = 3  # of a topic's name


def _topic(value: str) -> str:
    scheme, _, path = value.partition("://")
    parts = path.split("/")
    if scheme != "persistent" or len(parts) != NAME_PARTS or not all(parts):
        raise ValueError("must be persistent://TENANT/NAMESPACE/TOPIC")
    return value


Topic = Annotated[str, AfterValidator(_topic)]


class Options(HttpProbeOptions):
    """The consumers of one app in one subscription."""

    url: Url = "http://127.0.0.1:8080"
    """The admin API of a broker: ``http://`` or ``https://``."""
    topics: Annotated[tuple[Topic, ...], Field(min_length=1)]
    """The topics: ``persistent://TENANT/NAMESPACE/TOPIC``. Others are never acknowledged."""
    partitioned: bool = False
    """Whether the topics are partitioned."""
    subscription: Annotated[str, Field(min_length=1)]
    """The subscription, of type Shared or Key_Shared."""
    consumer: Annotated[str, Field(min_length=1)]
    """The name that the app gives its consumers; ``*`` stands for any characters."""
    count_consumers: bool = True
    """Whether a consumer is work in hand: it may be sent a message at any moment."""
    absent: Literal["unknown", "zero"] = "unknown"
    """What it means that a subscription has no such consumer: ``zero`` for an app that closes its
    consumer when it stops."""
    token: Secret | None = None
    """A bearer token, sent as ``Authorization``."""
    timeout: Timeout = 5.0
    """The limit of the question about one topic, in seconds."""


class PulsarProbe(IdleProbe):
    """Adds up what the app's consumers have in hand, topic by topic."""

    def __init__(self, options: Options, fetcher: Fetcher) -> None:
        self.name = options.label
        self._options, self._fetcher = options, fetcher

    def read(self, wait: float) -> Reading:
        """Return what is in hand. Raises ProbeError where the broker does not say so plainly."""
        del wait
        options = self._options
        try:
            own = [consumer for topic in options.topics for consumer in self._own(topic)]
            in_flight = {"messages": sum(_in_hand(consumer) for consumer in own)}
        except AgentError as e:
            doing = f"tell what {options.consumer} has in hand from {options.url}"
            raise ProbeError(self.name, doing, e) from e
        if options.count_consumers:
            in_flight["consumers"] = len(own)
        return Reading(in_flight)

    def _own(self, topic: str) -> Sequence[Mapping[str, Any]]:
        """Return the app's consumers of *topic*, all partitions together."""
        stats = self._stats(topic)
        parts = [stats]
        if self._options.partitioned:
            parts = list(_object(stats, "partitions", topic).values())
            # A partition whose broker does not answer is left out without a word.
            expected = _object(stats, "metadata", topic).get("partitions")
            if not parts or len(parts) != expected:
                raise Unclear(f"{topic} tells of {len(parts)} of its {expected} partitions")
        return [consumer for part in parts for consumer in self._own_of(part, topic)]

    def _own_of(self, part: Any, topic: str) -> Sequence[Mapping[str, Any]]:
        """
        Return the app's consumers of one partition, or of a topic without any.

        A consumer attaches to every partition: one that is missing is about to connect
        again, and what the app has in hand of that partition does not show.
        """
        wanted = self._options.consumer
        every = list(self._consumers(part, topic))
        own = [c for c in every if fits_name(c.get("consumerName"), wanted)]
        if not own and self._options.absent == "unknown":
            names = ", ".join(sorted({str(c.get("consumerName")) for c in every})[:5]) or "none"
            where = f"a partition of {topic}" if self._options.partitioned else topic
            raise Unclear(
                f"subscription {self._options.subscription} of {where} has no consumer "
                f"{wanted}, but {names}"
            )
        return own

    def _consumers(self, stats: Any, topic: str) -> Iterator[Mapping[str, Any]]:
        """Give the subscription's consumers. Raises Unclear if their messages do not show."""
        found = _object(_object(stats, "subscriptions", topic), self._options.subscription, topic)
        consumers = found.get("consumers")
        if not isinstance(consumers, list) or not all(isinstance(c, dict) for c in consumers):
            raise Unclear(f"{topic} does not tell of its consumers")
        kind = found.get("type")
        if kind not in COUNTED and (consumers or kind is not None):
            raise Unclear(
                f"subscription {self._options.subscription} of {topic} is {kind}: Pulsar counts "
                "unacknowledged messages only where it is Shared or Key_Shared"
            )
        yield from consumers

    def _stats(self, topic: str) -> Any:
        path = topic.partition("://")[2]
        partitioned = self._options.partitioned
        last = "partitioned-stats" if partitioned else "stats"
        answer = self._fetcher.call(
            "GET",
            f"/admin/v2/persistent/{quote(path)}/{last}",
            params=[("perPartition", "true")] if partitioned else [],
        )
        return ok_json(answer, topic)


def _object(document: Any, key: str, topic: str) -> Mapping[str, Any]:
    found = document.get(key) if isinstance(document, dict) else None
    if not isinstance(found, dict):
        raise Unclear(f"{topic} has no {key}")
    return found


def _in_hand(consumer: Mapping[str, Any]) -> int:
    what = f"unackedMessages of consumer {consumer.get('consumerName')}"
    return a_count(consumer.get("unackedMessages"), what)


def build(options: Options, instance: Instance) -> PulsarProbe:
    """Return the probe. Raises ConfigError if the URL is none."""
    del instance
    return PulsarProbe(options, open_fetcher(options, bearer_headers(options.token)))
