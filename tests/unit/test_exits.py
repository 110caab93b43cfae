"""What an exit proves: nothing while a probe has work in hand or somebody of the app lives on."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.engine.calls import Calls, Then
from deregister_agent.engine.quiet_window import QuietWindow, quiet_for
from deregister_agent.model import Announcement, Outcome, Phase, Policy, Reading
from tests.unit.loop_bench import NEW, OLD, Bench, Page

SECOND = 1.0


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Give a loop with two probes, whose app has work in hand and drains."""
    with ExitStack() as stack:
        one = Bench(tmp_path, Policy(quiet=SECOND, deadline=30.0, min_others=0), more=[Page("tcp")])
        stack.callback(one.journal.close)
        one.page.in_flight = 1
        one.stop()
        one.until(Phase.DRAINING)
        one.go_on(0.2)
        yield one


def _tcp(bench: Bench) -> Page:
    page = bench.more[0]
    assert isinstance(page, Page)
    return page


def test_a_probe_with_work_in_hand_outranks_the_exit(bench: Bench) -> None:
    """The process has exited and a child works on: not drained until the probe says so."""
    bench.finder.running, bench.page.down, _tcp(bench).in_flight = None, True, 1
    bench.go_on(20.0)
    assert bench.phase is Phase.DRAINING
    assert bench.loop.known.process.exited
    assert bench.loop.status().blocking == ("1 requests in flight (tcp)",)
    done = bench.clock.time
    _tcp(bench).in_flight = 0
    bench.until(Phase.DRAINED)
    assert bench.loop.drain.outcome is Outcome.APP_EXITED
    assert SECOND <= bench.clock.time - done < SECOND + 1.0


def test_work_that_comes_and_goes_after_the_exit_begins_the_quiet_time_anew(bench: Bench) -> None:
    """Each request that a leftover of the app takes must be followed by a whole quiet time."""
    bench.finder.running, bench.page.down = None, True
    for _ in range(10):
        _tcp(bench).in_flight = 1
        bench.go_on(0.1)
        _tcp(bench).in_flight = 0
        bench.go_on(0.6)
        assert bench.phase is Phase.DRAINING


def test_probes_that_went_with_the_app_do_not_hold_it(bench: Bench) -> None:
    """A probe that has no answer since the exit says nothing: it was the app that answered."""
    bench.finder.running, bench.page.down, _tcp(bench).down = None, True, True
    ended = bench.clock.time
    bench.until(Phase.DRAINED)
    assert bench.loop.drain.outcome is Outcome.APP_EXITED
    assert bench.clock.time - ended < SECOND + 1.5


def test_a_probe_that_fails_after_it_had_work_leaves_a_whole_quiet_time(bench: Bench) -> None:
    """A leftover that works and then ends with its page is waited for, and then no more."""
    bench.finder.running = None
    bench.go_on(5.0)
    assert bench.phase is Phase.DRAINING
    ended = bench.clock.time
    bench.page.down = True
    bench.until(Phase.DRAINED)
    assert SECOND - 0.2 <= bench.clock.time - ended < SECOND + 1.5
    assert bench.loop.drain.outcome is Outcome.APP_EXITED


def test_an_error_from_before_the_exit_says_nothing_of_after_it(tmp_path: Path) -> None:
    """A probe that failed a moment before is asked once more before the exit counts."""
    bench = Bench(tmp_path, Policy(quiet=0.0, deadline=30.0, min_others=0))
    bench.page.in_flight = 1
    bench.stop()
    bench.until(Phase.DRAINING)
    bench.page.down = True
    bench.go_on(0.1)
    assert bench.loop.known.probes[0].error is not None
    bench.page.down, bench.finder.running = False, None
    bench.go_on(5.0)
    assert bench.phase is Phase.DRAINING
    bench.journal.close()


def test_whoever_is_left_of_the_app_is_waited_for(bench: Bench) -> None:
    """Its process has exited and a child lives on: the probes must still say that it is idle."""
    bench.finder.running, bench.finder.left = None, "pid 7 (worker)"
    bench.page.down = True
    bench.go_on(10.0)
    assert bench.phase is Phase.DRAINING
    said = "; ".join(bench.loop.status().blocking)
    assert "somebody of it lives on: pid 7 (worker)" in said
    bench.page.down, bench.page.in_flight = False, 0
    bench.until(Phase.DRAINED)
    assert bench.loop.drain.outcome is Outcome.DRAINED


def test_once_nobody_is_left_the_exit_counts(bench: Bench) -> None:
    """The child has ended as well: that is the exit of the whole app."""
    bench.finder.running, bench.finder.left = None, "pid 7 (worker)"
    bench.page.down = True
    bench.go_on(10.0)
    bench.finder.left = ""
    bench.until(Phase.DRAINED)
    assert bench.loop.drain.outcome is Outcome.APP_EXITED


def test_the_word_is_not_said_while_work_is_in_hand_again(bench: Bench) -> None:
    """Drained by an exit, and a probe has work: no answer says drained, and it is taken back."""
    bench.finder.running, bench.page.down = None, True
    bench.until(Phase.DRAINED)
    bench.go_on(0.2)
    assert bench.loop.stands_by(Announcement.DRAINED)
    _tcp(bench).in_flight = 1
    bench.go_on(1.5)
    assert not bench.loop.stands_by(Announcement.DRAINED)
    bench.go_on(4.0)
    assert bench.phase is Phase.DRAINING
    assert "taken-back" in [one for each in bench.written for one in each.announcements]


def test_the_guard_ends_with_the_process_and_the_word_with_the_work(tmp_path: Path) -> None:
    """
    Killed after "drained" while a child works on: the next version is let in, and not called idle.

    Decision 15: to withdraw the next version is an outage, and a word is only a word.
    """
    bench = Bench(tmp_path, Policy(quiet=0.5, min_others=0))
    bench.stop()
    bench.until(Phase.DRAINED)
    bench.finder.running, bench.finder.left, bench.page.in_flight = None, "pid 7", 1
    bench.until(Phase.GONE)
    bench.go_on(1.5)
    assert not bench.loop.stands_by(Announcement.DRAINED)
    bench.page.in_flight = 0
    bench.go_on(1.5)
    assert bench.loop.stands_by(Announcement.DRAINED)
    bench.registries[0].listed = True
    bench.go_on(3.0)
    assert bench.registries[0].listed
    bench.journal.close()


def test_after_a_restart_no_word_is_said_before_the_probes_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process has exited; whether somebody of it works on, this agent has yet to hear."""
    bench = Bench(tmp_path, Policy(quiet=0.5, min_others=0))
    bench.stop()
    bench.until(Phase.DRAINED)
    bench.finder.running = None
    bench.until(Phase.GONE)
    bench.new_life()
    start = Calls.start

    def late(calls: Calls, name: str, call: Callable[[], Any], then: Then) -> None:
        if name != "page read":
            start(calls, name, call, then)

    with monkeypatch.context() as hanging:
        hanging.setattr(Calls, "start", late)
        bench.go_on(1.0)
        assert not bench.loop.stands_by(Announcement.DRAINED)
        assert "page has not been asked yet" in bench.loop.status().what_blocks
    bench.go_on(1.0)
    assert bench.loop.stands_by(Announcement.DRAINED)
    bench.journal.close()


def test_a_successor_ends_the_wait_for_what_is_left(tmp_path: Path) -> None:
    """After "drained" another process in its place is the next version, whoever is left."""
    bench = Bench(tmp_path, Policy(quiet=0.5, min_others=0))
    bench.stop()
    bench.until(Phase.DRAINED)
    assert bench.loop.drain.process == OLD
    bench.finder.running, bench.finder.left = NEW, "pid 7"
    bench.until(Phase.GONE)
    bench.registries[0].listed = True
    bench.go_on(3.0)
    assert bench.registries[0].listed
    bench.journal.close()


def test_a_window_counts_from_the_last_work_that_another_saw() -> None:
    """Whichever comes first, the other's work or this window's first look."""
    seen_first, told_first = QuietWindow(), QuietWindow()
    told_first.starts_after(12.0)
    for window in (seen_first, told_first):
        window.saw(Reading({}), 10.0, 10.5, 5.0)
    seen_first.starts_after(12.0)
    for window in (seen_first, told_first):
        window.saw(Reading({}), 15.0, 15.5, 5.0)
        assert quiet_for([window]) == 3.0


def test_what_an_exited_process_was_quiet_for_is_nothing_of_the_next(bench: Bench) -> None:
    """Also where both have counted as much: the next one may have had work in between."""
    bench.page.in_flight, bench.page.started = 0, 7
    bench.go_on(0.8 * SECOND)
    assert bench.phase is Phase.DRAINING
    bench.finder.running = NEW
    bench.loop.known.process.look_now()
    assert bench.until(Phase.DRAINED) >= SECOND
