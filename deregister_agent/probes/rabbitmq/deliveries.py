"""
The work that an app's channels have ever begun: all messages that they were given.

RabbitMQ counts them for each channel and forgets the count when the channel closes.
https://www.rabbitmq.com/docs/monitoring#message-stats (``message_stats`` of a channel)
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from deregister_agent.host.json_values import is_whole_number
from deregister_agent.probes.counting import MOST_STARTED, Unclear, a_count
from deregister_agent.probes.rabbitmq.owners import RabbitObject

PUSHED = ("deliver", "deliver_no_ack")
COLUMNS = ("reductions", *(f"message_stats.{key}" for key in (*PUSHED, "deliver_get", "get_empty")))


@dataclass(frozen=True)
class Sample:
    """What one channel has counted since it was opened."""

    begun: int  # messages it was given, and where asking counts, questions that found none
    pushed: int  # of these, those that a consumer was sent
    effort: int | None  # "reductions" of its Erlang process, which never fall while it lives


class Deliveries:
    """
    Adds up over time what the channels count, also where channels come and go.

    *asking*: whether a basic.get that finds nothing counts as well: the next may find a
    message. *counted*: False where RabbitMQ counts no messages (``rates_mode = none``); then
    every activity of a channel is taken for work.
    """

    def __init__(self, *, asking: bool) -> None:
        self._asking = asking
        self._last: Mapping[str, Sample] = {}
        self._started = 0

    def count(
        self, channels: Iterable[RabbitObject], aside: Collection[str], *, counted: bool
    ) -> int:
        """
        Return the work begun so far; *aside* names channels whose consumers do not count.

        A channel that has closed may have been given a message since it was seen last, so its
        end counts as one. Raises Unclear where a channel's count is none, or has fallen: that
        is another channel by the same name, or RabbitMQ has lost its statistics.
        """
        last = self._last
        now = {str(c.get("name")): self._sample(c, counted=counted) for c in channels}
        self._last = now
        self._started += len(last.keys() - now.keys())
        fallen = []
        for name, sample in now.items():
            before = last.get(name, Sample(0, 0, None))
            if _has_fallen(before, sample):
                fallen.append(name)
                before = Sample(-1, 0, None)  # whatever it counts now, it is not what was known
            pushed = sample.pushed - before.pushed if name in aside else 0
            self._started += max(0, sample.begun - before.begun - pushed)
        if fallen:
            raise Unclear(
                f"channel {fallen[0]} counts fewer messages than before: it was closed and opened "
                "again, or RabbitMQ has lost its statistics"
            )
        return self._started

    def _sample(self, channel: RabbitObject, *, counted: bool) -> Sample:
        effort = channel.get("reductions")
        if not counted:
            return Sample(_count(channel, "reductions", effort), 0, None)
        begun, pushed = _messages(channel, asking=self._asking)
        return Sample(begun, pushed, effort if is_whole_number(effort) else None)


def _messages(channel: RabbitObject, *, asking: bool) -> tuple[int, int]:
    """Return how many messages a channel was given, and how many of them were pushed."""
    stats = channel.get("message_stats") or {}  # none, or [], before the first message
    if not isinstance(stats, Mapping):
        raise Unclear(f"channel {channel.get('name')} tells of {stats!r} as its message_stats")
    if not stats:
        return 0, 0
    begun = _count(channel, "deliver_get", stats.get("deliver_get"))
    if asking:
        begun += _count(channel, "get_empty", stats.get("get_empty", 0))  # RabbitMQ 3.7 has none
    return begun, sum(_count(channel, key, stats.get(key, 0)) for key in PUSHED)


def _has_fallen(before: Sample, now: Sample) -> bool:
    """Tell whether the same channel cannot have counted *before* and *now*."""
    if before.effort is not None and now.effort is not None and now.effort < before.effort:
        return True
    return now.begun < before.begun or now.pushed < before.pushed


def _count(channel: RabbitObject, key: str, value: Any) -> int:
    return a_count(value, f"{key} of channel {channel.get('name')}", most=MOST_STARTED)
