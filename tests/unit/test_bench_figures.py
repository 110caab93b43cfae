"""What the bench makes of what it saw."""

from compose.rollout import Took, with_more
from compose.traffic.loads import Sent

BEGAN, OUT, IDLE, ENDED = 100.0, 100.6, 103.0, 104.1
PHASES = [
    (90.0, "settling"),
    (BEGAN + 0.1, "withdrawing"),
    (OUT, "settling"),
    (103.9, "drained"),
    (110.0, "settling"),
]


PROXY = "10.0.0.4"


def sent(at: float, ended: float, to: str = PROXY) -> Sent:
    return Sent("w", "slow", at, ended - at, f"{to}:8080", "", ended)


def took() -> Took:
    return Took("shop-1", BEGAN, ENDED, IDLE, IDLE, [])


def test_a_proxy_is_clear_when_what_it_had_before_is_over() -> None:
    """Of what was sent through it, that counts which old workers may have had in hand."""
    before, between, after = sent(99.0, 103.5), sent(100.5, 103.8), sent(100.7, 109.0)
    over_before = sent(90.0, 99.5)
    straight = sent(99.0, 104.0, to="10.0.0.40")
    one = with_more(took(), [over_before, before, between, after, straight], PROXY, PHASES)
    assert (one.clear, one.marks) == (103.8, PHASES[1:4])
    assert round(one.beyond_proxy, 3) == 0.3
    assert round(one.overhead, 3) == 1.1


def test_without_a_proxy_the_app_alone_counts() -> None:
    """Nothing was sent through one, so it was clear from the start."""
    one = with_more(took(), [], PROXY, PHASES)
    assert one.clear == BEGAN
    assert one.beyond_proxy == one.overhead


def test_without_a_drain_a_proxy_has_only_what_it_had_at_the_command() -> None:
    """Who takes an instance away by other means has no phases."""
    one = with_more(took(), [sent(99.0, 103.5), sent(100.5, 103.8)], PROXY, [])
    assert (one.clear, one.marks) == (103.5, [])
