"""The work that RabbitMQ's channels have begun, from what the management API says of each."""

from typing import Any

import pytest

from deregister_agent.probes.counting import Unclear
from deregister_agent.probes.rabbitmq.deliveries import Deliveries

ONE, TWO = "10.0.0.7:4 -> 10.0.0.5:5672 (1)", "10.0.0.7:4 -> 10.0.0.5:5672 (2)"


def channel(name: str = ONE, effort: object = 1000, **stats: object) -> dict[str, Any]:
    """Return a channel as it is listed; *stats* are its counts of messages."""
    entry: dict[str, Any] = {"name": name, "message_stats": stats or []}
    return entry if effort is None else entry | {"reductions": effort}


def pushed(count: int, name: str = ONE, **more: int) -> dict[str, Any]:
    """Return a channel whose consumers were sent *count* messages."""
    return channel(name, deliver_get=count, deliver=count, **more)


def got(count: int, effort: int = 1000) -> dict[str, Any]:
    """Return a channel that has asked for *count* messages."""
    return channel(effort=effort, deliver_get=count, get=count)


Looks = list[list[dict[str, Any]]]
ROSE: dict[str, tuple[Looks, int]] = {
    "nothing": ([[channel()], [channel()]], 0),
    "the first message": ([[channel()], [channel(deliver_get=1, get=1)]], 1),
    "without acknowledgement": ([[channel()], [channel(deliver_get=1, get_no_ack=1)]], 1),
    "several": ([[pushed(3), pushed(5, TWO)], [pushed(4), pushed(7, TWO)]], 3),
    "asked in vain": ([[pushed(0, get_empty=3)], [pushed(0, get_empty=4)]], 1),
    "before RabbitMQ 3.8": ([[channel(deliver_get=1)], [channel(deliver_get=2)]], 1),
    "a new channel": ([[], [channel()]], 0),
    "a new channel at work": ([[], [pushed(2)]], 2),
    "a closed channel": ([[channel()], []], 1),
    "closed and opened again": ([[pushed(1)], [], [pushed(1)]], 2),
    "statistics lost for a moment": ([[pushed(7), pushed(7, TWO)], [], [pushed(7)]], 9),
    "only published": ([[{"name": ONE, "message_stats": {}}], [{"name": ONE}]], 0),
}


@pytest.mark.parametrize("case", ROSE)
def test_it_rises_by_what_was_begun(case: str) -> None:
    """What channels were given adds up over their lives; an end may hide one more."""
    looks, rise = ROSE[case]
    deliveries = Deliveries(asking=True)
    first, *others = [deliveries.count(look, (), counted=True) for look in looks]
    assert others[-1] - first == rise


FELL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "messages": (pushed(3), pushed(2)),
    "no messages any more": (pushed(3), channel()),
    "another process, with as many": (got(1, effort=900), got(1, effort=800)),
    "another process, with more": (got(1, effort=900), got(5, effort=800)),
    "another process, idle": (channel(effort=900), channel(effort=800)),
    "pushed ones": (pushed(3), channel(deliver_get=3, deliver=2, get=1)),
}


@pytest.mark.parametrize("case", FELL)
def test_a_count_that_falls_is_unknown(case: str) -> None:
    """It is another channel, or lost statistics; and what follows is never what was before."""
    before, after = FELL[case]
    deliveries = Deliveries(asking=True)
    first = deliveries.count([before], (), counted=True)
    with pytest.raises(Unclear, match="counts fewer messages than before"):
        deliveries.count([after], (), counted=True)
    assert deliveries.count([after], (), counted=True) > first


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (channel(deliver_get=-1), "^deliver_get of channel .* is -1,"),
        (channel(deliver_get=1.0), "^deliver_get of channel .* is 1.0,"),
        (channel(deliver_get=True), "^deliver_get of channel .* is True,"),
        (channel(deliver=1), "^deliver_get of channel .* is None,"),
        (channel(deliver_get=1, deliver="1"), "^deliver of channel .* is '1',"),
        (channel(deliver_get=1, get_empty=None), "^get_empty of channel .* is None,"),
        ({"name": ONE, "message_stats": [1]}, r"\[1\] as its message_stats"),
        ({"name": ONE, "message_stats": "none"}, "'none' as its message_stats"),
    ],
)
def test_what_is_no_count_is_unknown(entry: dict[str, Any], why: str) -> None:
    """A torn or odd count is never taken for none."""
    with pytest.raises(Unclear, match=why):
        Deliveries(asking=True).count([entry], (), counted=True)


def test_asking_in_vain_may_be_left_out() -> None:
    """Where taking more is no work, only messages count."""
    deliveries = Deliveries(asking=False)
    looks = [channel(deliver_get=1, get_empty=number) for number in range(3)]
    assert {deliveries.count([look], (), counted=True) for look in looks} == {1}


def test_what_is_pushed_to_consumers_that_do_not_count() -> None:
    """Replies are left out where a channel has no other consumers; what it asks for is not."""
    deliveries = Deliveries(asking=True)
    first = deliveries.count([pushed(5), pushed(5, TWO)], {TWO}, counted=True)
    assert deliveries.count([pushed(5), pushed(9, TWO)], {TWO}, counted=True) == first
    asked = channel(TWO, deliver_get=10, deliver=9, get=1)
    assert deliveries.count([pushed(5), asked], {TWO}, counted=True) == first + 1
    assert deliveries.count([pushed(6), asked], {TWO}, counted=True) == first + 2
    both = [pushed(6), channel(TWO, deliver_get=12, deliver=11, get=1)]
    assert deliveries.count(both, (), counted=True) == first + 4


def test_where_rabbitmq_counts_no_messages() -> None:
    """Every activity of a channel counts, and one that tells of none is unknown."""
    deliveries = Deliveries(asking=True)
    efforts = [deliveries.count([channel(effort=n)], (), counted=False) for n in (50, 50, 80)]
    assert efforts == [50, 50, 80]
    with pytest.raises(Unclear, match=r"^reductions of channel .* is None,"):
        deliveries.count([channel(effort=None)], (), counted=False)
