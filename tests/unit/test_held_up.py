"""Who holds a drain up: what keeps arriving, and who keeps a connection."""

import pytest

from deregister_agent.engine.arrivals import OF_LATE, Arrivals
from deregister_agent.errors import AgentError
from deregister_agent.model import OnDeadline, Peer, Phase, Policy, Reading
from tests.unit.loop_bench import Bench, Make


def seen(*counters: int | None, mark: str = "one") -> Arrivals:
    """Return what a reading a second with these counters has shown, from second 0 on."""
    arrivals = Arrivals()
    for second, started in enumerate(counters):
        arrivals.saw(Reading({}, started, mark), float(second), second + 0.1)
    return arrivals


def test_what_began_since_the_first_reading_is_counted() -> None:
    """And how much of it of late."""
    arrivals = seen(100, 103, 103, 110)
    assert (arrivals.since, arrivals.total, arrivals.last) == (0.0, 10, 3.1)
    assert arrivals.of_late(3.1) == 10
    assert arrivals.of_late(1.2 + OF_LATE) == 7
    assert arrivals.of_late(3.2 + OF_LATE) == 0
    assert arrivals.total == 10


@pytest.mark.parametrize("counters", [(), (7,), (None, None), (7, None, 9), (9, 3), (0, 0, 0)])
def test_what_a_counter_does_not_tell_is_not_counted(counters: tuple[int | None, ...]) -> None:
    """No counter, one reading, a gap in it, or a counter that fell: nothing has surely come."""
    assert seen(*counters).total == 0


def test_the_count_of_another_process_is_no_arrival() -> None:
    """It may have begun its work long before; what it begins from now on is."""
    arrivals = seen(100, 103)
    for second, started in ((2, 5000), (3, 5002)):
        arrivals.saw(Reading({}, started, "another"), float(second), second + 0.1)
    assert arrivals.total == 3 + 2


def held_up(bench: Bench, seconds: float, *, arrives: float = 0.25, mark: str = "") -> None:
    """Stop traffic, and let a piece of work begin every *arrives* seconds that is never over."""
    bench.page.started, bench.page.in_flight = 40, 1
    bench.go_on(0.5)
    bench.stop()
    bench.until(Phase.DRAINING)
    end = bench.clock.time + seconds
    while bench.clock.time < end:
        bench.go_on(arrives)
        bench.page.started += 1


def blocking(bench: Bench) -> list[str]:
    return list(bench.loop.status().blocking)


KEPT = Peer("10.0.0.9", "", 3, last_byte=0.1, waiting=1)
IDLE = Peer("10.0.0.12", "", 1, last_byte=40.2)
UNUSED = Peer("127.0.0.1", "curl", 1, last_byte=3.0, used=False)
UNTOLD = Peer("10.0.0.13", "", 2)


def test_a_drain_that_is_held_up_says_by_how_much_and_by_whom(make: Make) -> None:
    """How much has arrived of late and in all, and who keeps connections, the first three."""
    bench = make()
    bench.peers = [KEPT, UNUSED, IDLE, UNTOLD]
    held_up(bench, 8.0)
    first, arriving, peers = blocking(bench)
    assert first == "1 requests in flight (page)"
    keeps = "work keeps arriving though every registry has let go (page): 20 in the last 5 s, 3"
    assert arriving.startswith(keeps)
    assert arriving.endswith(" in the last 8 s")
    assert peers == (
        "3 connections of 10.0.0.9, 1 waiting for an answer, last byte 0.1 s ago; "
        "1 connection of 127.0.0.1 (curl), never used; 1 connection of 10.0.0.12, idle 40 s; "
        "and those of 1 other peers"
    )


def test_what_stopped_arriving_is_said_to_have(make: Make) -> None:
    """What is in hand since is held up by nobody who goes on."""
    bench = make()
    held_up(bench, 2.0)
    bench.go_on(9.0)
    assert blocking(bench) == [
        "1 requests in flight (page)",
        "work arrived though every registry had let go (page): 8, the last 9 s ago",
    ]


def test_an_expired_drain_keeps_its_reason(make: Make) -> None:
    """In its timeline for ever, in its announcement, and for whoever asks afterwards."""
    bench = make(Policy(quiet=1.0, min_others=0, deadline=6.0, on_deadline=OnDeadline.HOLD))
    bench.peers = [UNTOLD]
    held_up(bench, 7.0)
    assert bench.phase is Phase.EXPIRED
    (expired,) = [one for one in bench.written if one.kind == Phase.EXPIRED]
    said = expired.detail["blocking"]
    assert isinstance(said, list)
    assert said[1].startswith("work keeps arriving")
    assert said[1].endswith("20 in the last 5 s, 23 in the last 6 s")
    assert said[2] == "2 connections of 10.0.0.13"
    assert blocking(bench)[2] == "2 connections of 10.0.0.13"


def test_whoever_sends_short_requests_is_named(make: Make) -> None:
    """Each is over before the next look, so nothing is ever in hand: it is never quiet either."""
    bench = make()
    bench.peers = [KEPT]
    held_up(bench, 0.0)
    bench.page.in_flight = 0
    for _ in range(20):
        bench.page.started = (bench.page.started or 0) + 1
        bench.go_on(0.25)
    assert bench.phase is Phase.DRAINING
    assert blocking(bench)[0].startswith("quiet for 0.")
    assert blocking(bench)[2].startswith("3 connections of 10.0.0.9")


def test_who_keeps_an_idle_connection_holds_up_nothing(make: Make) -> None:
    """Where a registry is waited for, or another probe, it is not named."""
    bench = make()
    bench.peers = [IDLE]
    bench.go_on(0.5)
    bench.page.in_flight = 1
    bench.stop()
    bench.go_on(6.0)
    assert len(blocking(bench)) == 2
    bench.page.in_flight = 0
    bench.go_on(0.5)
    assert len(blocking(bench)) == 1


def test_nobody_is_looked_for_where_the_app_becomes_idle_in_time(make: Make) -> None:
    """An ordinary drain costs no look: neither in service, nor while quiet is waited for."""
    bench = make()
    bench.go_on(60.0)
    bench.page.in_flight = 1
    bench.stop()
    bench.until(Phase.DRAINING)
    bench.go_on(0.5)
    bench.page.in_flight = 0
    bench.until(Phase.DRAINED)
    assert bench.peers_asked == 0


def test_peers_that_cannot_be_seen_are_no_trouble(make: Make) -> None:
    """Another network, or no table: the rest is told, and the drain goes on."""
    bench = make()
    bench.peers = AgentError("cannot read the kernel's socket table")
    held_up(bench, 8.0)
    assert bench.peers_asked > 1
    assert len(blocking(bench)) == 2
    bench.page.in_flight = 0
    bench.until(Phase.DRAINED)
    assert blocking(bench) == []


def test_what_came_before_it_was_let_go_is_not_counted(make: Make) -> None:
    """Nor is it where the registry lists it again: who sends then is known."""
    bench = make()
    held_up(bench, 4.0)
    bench.registries[0].listed = True
    bench.page.started = 4000
    bench.until(Phase.WITHDRAWING)
    bench.until(Phase.DRAINING)
    bench.go_on(1.0)
    assert not [line for line in blocking(bench) if line.startswith("work")]


def test_a_restarted_agent_counts_from_then_on(make: Make) -> None:
    """What came before is not known to it."""
    bench = make()
    held_up(bench, 4.0)
    bench.new_life()
    bench.page.started = 100
    bench.go_on(2.0)
    bench.page.started = 103
    bench.go_on(1.0)
    assert blocking(bench)[1].endswith(": 3 in the last 5 s, 3 in the last 3 s")


def test_where_a_registry_still_lists_it_work_is_expected(make: Make) -> None:
    """Whoever holds the drain up then is the registry, and it is named."""
    bench = make(Policy(quiet=1.0, min_others=0, deadline=4.0, on_deadline=OnDeadline.HOLD))
    bench.peers = [KEPT]
    bench.registries[0].lies = 100
    bench.page.started, bench.page.in_flight = 40, 1
    bench.go_on(0.5)
    bench.stop()
    bench.until(Phase.EXPIRED)
    bench.page.started = 90
    bench.go_on(3.0)
    assert blocking(bench) == ["memory still lists it", "1 requests in flight (page)"]
