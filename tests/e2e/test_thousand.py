"""Background work, which no proxy and no socket sees, survives a rolling deploy with kill -9."""

from bench.thousand import thousand
from compose.places import NAMES

COUNT = 400


def test_every_accepted_request_is_counted_once() -> None:
    """Redis counts exactly the work that was accepted while all instances were replaced."""
    result = thousand("ours-consul", COUNT, longest=3.0)
    assert result.lost == {}
    assert len(result.sent) == COUNT
    assert (result.accepted, result.counter, result.done_twice) == (COUNT, COUNT, 0)
    assert [one.name for one in result.replaced] == list(NAMES)


def test_the_experiment_sees_what_a_kill_loses() -> None:
    """Without the agent the same deploy loses work, and the experiment says so."""
    result = thousand("kill-9", 100, longest=3.0)
    assert result.counter < result.accepted
    assert result.lost["background work"] == result.accepted - result.counter
