"""Requests of every kind, gRPC and messages survive a rolling deploy through all three fronts."""

import time
from collections.abc import Callable

import pytest

from bench.soak import Loss, soak
from compose.alternatives import WAYS
from compose.places import NAMES
from compose.rollout import Result, Took, replace, run
from compose.stack import Local
from compose.traffic.loads import MESSAGE, Kind, Load
from compose.traffic.mixes import CALL, EVERY_DOOR, STREAM

LEAD = 5.0  # seconds of load, longer than any request takes, before the deploy


def deploy(slug: str, kinds: Callable[[int], Kind], names: tuple[str, ...] = NAMES) -> Result:
    way = next(way for way in WAYS if way.slug == slug)

    def act(here: Local, load: Load) -> list[Took]:
        del load
        time.sleep(LEAD)
        return [replace(here, way, name) for name in names]

    return run(way, act, kinds)


@pytest.mark.nightly
def test_nothing_is_lost_at_any_door() -> None:
    """
    Behind Consul, etcd and Nginx at once, nothing is lost, begun twice or done twice.

    CI sees that of the whole stack in test_compose.
    """
    result = deploy("ours-every", lambda number: EVERY_DOOR[number % len(EVERY_DOOR)])
    assert {one.kind for one in result.sent} == {kind.name for kind in EVERY_DOOR}
    assert [one for one in result.sent if one.lost] == []
    assert (result.lost_in_all, result.begun_twice, result.done_twice) == (0, 0, 0)
    assert [one.name for one in result.replaced] == list(NAMES)


def test_the_experiment_sees_lost_calls_and_messages_begun_twice() -> None:
    """A kill cuts calls off, and the broker gives out the messages in hand once more."""
    result = deploy("kill-9", lambda number: (CALL, STREAM, MESSAGE)[number % 3], NAMES[:1])
    assert result.lost["gRPC UNAVAILABLE"]
    assert result.begun_twice
    assert "message" not in {cause for cause, count in result.lost.items() if count}


@pytest.mark.nightly
def test_a_soak_counts_what_it_sends() -> None:
    """It deploys until so many requests have been sent, and says what has grown."""
    run = soak(100, rate=25.0, through="ours-consul")
    assert run.requests >= 100
    assert sum(run.by_kind.values()) == run.requests
    assert len(run.beyond) == len(NAMES)
    assert {"agent-1, memory: growth", "journals and their logs: growth"} <= {
        r.what for r in run.rows()
    }


def test_a_soak_stops_at_the_first_loss_with_what_is_known() -> None:
    """It says what was lost, what the ledgers know of it, and where the agent stands."""
    with pytest.raises(
        Loss, match=r"(?s)lost, sent .* ago: Sent\(.*the log of agent-3 ends:"
    ) as told:
        soak(1000, rate=25.0, through="kill-9")
    assert '"phase": "serving"' in str(told.value)
