"""When an app counts as quiet."""

from pathlib import Path

import pytest

from deregister_agent.engine.quiet_window import AnswerAge, QuietWindow, quiet_for, quiet_since
from deregister_agent.model import Phase, Policy, Reading
from tests.unit.loop_bench import Bench, Page

ANY_GAP = float("inf")


def idle(started: int | None = None, mark: str = "") -> Reading:
    return Reading({"requests": 0, "tasks": 0}, started, mark)


BUSY = Reading({"requests": 0, "tasks": 1})


def test_nothing_is_known_at_first() -> None:
    """Without a reading the app is not quiet; without a probe it never is."""
    assert quiet_for([QuietWindow()]) is None
    assert quiet_for([]) is None


def test_one_idle_reading_is_quiet_for_no_time() -> None:
    """What came before it is not known."""
    window = QuietWindow()
    window.saw(idle(), 10.0, 10.5, ANY_GAP)
    assert quiet_for([window]) == 0.0


def test_it_counts_from_the_first_answer_to_the_last_question() -> None:
    """A slow answer proves less, never more."""
    window = QuietWindow()
    window.saw(idle(), 10.0, 10.5, ANY_GAP)
    window.saw(idle(), 13.0, 14.0, ANY_GAP)
    assert (quiet_since([window]), quiet_for([window])) == (10.5, 2.5)


def test_work_in_hand_ends_it() -> None:
    """And the next idle reading begins a new window."""
    window = QuietWindow()
    window.saw(idle(), 10.0, 10.1, ANY_GAP)
    window.saw(BUSY, 11.0, 11.1, ANY_GAP)
    assert quiet_for([window]) is None
    window.saw(idle(), 12.0, 12.1, ANY_GAP)
    assert quiet_since([window]) == 12.1


def test_a_failed_reading_ends_it() -> None:
    """Unknown is not idle: the gap is not bridged."""
    window = QuietWindow()
    window.saw(idle(), 10.0, 10.1, ANY_GAP)
    window.broken()
    assert quiet_for([window]) is None
    window.saw(idle(), 12.0, 12.1, ANY_GAP)
    window.saw(idle(), 13.0, 13.1, ANY_GAP)
    assert quiet_since([window]) == 12.1


def test_work_that_came_and_went_between_two_readings_ends_it() -> None:
    """Where the app counts all work ever started, what no reading saw is seen too."""
    window = QuietWindow()
    window.saw(idle(started=7), 10.0, 10.1, ANY_GAP)
    window.saw(idle(started=8), 11.0, 11.1, ANY_GAP)
    assert quiet_since([window]) == 11.1
    window.saw(idle(started=8), 12.0, 12.1, ANY_GAP)
    assert quiet_since([window]) == 11.1


def test_another_process_ends_it() -> None:
    """Its counter may stand anywhere: what the old one had in hand is not its."""
    window = QuietWindow()
    window.saw(idle(mark="a"), 10.0, 10.1, ANY_GAP)
    window.saw(idle(mark="b"), 11.0, 11.1, ANY_GAP)
    assert quiet_since([window]) == 11.1


def test_all_probes_must_be_quiet_at_the_same_time() -> None:
    """Quiet one after the other is not quiet."""
    one, two = QuietWindow(), QuietWindow()
    one.saw(idle(), 10.0, 10.0, ANY_GAP)
    one.saw(idle(), 15.0, 15.0, ANY_GAP)
    assert quiet_for([one, two]) is None
    two.saw(idle(), 14.0, 14.0, ANY_GAP)
    two.saw(idle(), 18.0, 18.0, ANY_GAP)
    assert (quiet_since([one, two]), quiet_for([one, two])) == (14.0, 1.0)


def test_windows_that_do_not_overlap_count_for_nothing() -> None:
    """One probe was last read before the other one was first idle."""
    one, two = QuietWindow(), QuietWindow()
    one.saw(idle(), 10.0, 10.0, ANY_GAP)
    one.saw(idle(), 11.0, 11.0, ANY_GAP)
    two.saw(idle(), 14.0, 14.0, ANY_GAP)
    assert quiet_for([one, two]) == 0.0


def late(asked: float, window: QuietWindow) -> None:
    window.saw(Reading({"messages": 0}, late=5.0), asked, asked + 0.1, ANY_GAP)


def test_late_news_prove_only_what_was_so_long_before() -> None:
    """A message taken just before the first look shows in the last one: until then, nothing."""
    window = QuietWindow()
    for asked in (10.0, 12.0, 15.0):
        late(asked, window)
        assert (quiet_since([window]), quiet_for([window])) == (None, None)
    late(17.1, window)
    assert quiet_since([window]) == 10.1
    assert quiet_for([window]) == pytest.approx(2.0)


def test_idleness_of_before_the_window_does_not_make_up_for_late_news() -> None:
    """When a phase begins, however long it was idle before, the whole lateness is waited for."""
    window = QuietWindow()
    for asked in (10.0, 40.0, 70.0):
        late(asked, window)
    window.broken()
    late(70.2, window)
    late(73.0, window)
    assert quiet_for([window]) is None
    window.saw(Reading({"messages": 1}, late=5.0), 74.0, 74.1, ANY_GAP)
    late(76.0, window)
    late(81.0, window)
    assert quiet_for([window]) is None
    late(81.2, window)
    assert quiet_since([window]) == 76.1


class LatePage(Page):
    """A probe that shows what was in hand some seconds ago."""

    def __init__(self, bench: Bench, late: float) -> None:
        super().__init__()
        self.bench, self.late = bench, late
        self.history: list[tuple[float, int]] = [(0.0, 0)]

    def has(self, count: int) -> None:
        """Have so much in hand from now on."""
        self.history.append((self.bench.clock.time, count))

    def read(self, wait: float) -> Reading:
        shown = self.bench.clock.time - self.late + 0.5
        count = [count for when, count in self.history if when <= shown][-1]
        return Reading({"messages": count}, late=self.late)


def test_a_message_taken_just_before_a_drain_is_waited_for(tmp_path: Path) -> None:
    """An hour of idleness before stop-traffic says nothing about what came in the last seconds."""
    bench = Bench(tmp_path, Policy(quiet=1.0, min_others=0))
    page = LatePage(bench, late=11.0)
    bench.loop.known.probes[0].probe = page
    bench.go_on(100.0)
    page.has(2)
    bench.stop()
    bench.go_on(30.0)
    assert bench.phase is Phase.DRAINING
    assert bench.loop.status().blocking == ("2 messages in flight (page)",)
    page.has(0)
    assert bench.until(Phase.DRAINED, within=30.0) > 11.0
    bench.journal.close()


@pytest.mark.parametrize(
    ("reading", "quiet"),
    [
        (Reading({"requests": 0}, started=7, mark="a"), True),
        (Reading({"requests": 0}, started=7), False),  # perhaps of another process, from nothing
        (Reading({"requests": 0}, mark="a"), False),
    ],
)
def test_a_gap_ends_a_window_where_work_is_not_counted(reading: Reading, *, quiet: bool) -> None:
    """An agent that was stopped between two idle readings has not seen what was in between."""
    window = QuietWindow()
    window.saw(reading, 10.0, 10.1, 0.5)
    window.saw(reading, 13.0, 13.1, 0.5)
    assert (window.since == 10.1) is quiet
    assert window.gaps == (0 if quiet else 1)


def test_a_reading_that_is_a_little_late_is_no_gap() -> None:
    """On a busy host each look may be late."""
    window = QuietWindow()
    window.saw(Reading({}), 10.0, 10.1, 0.5)
    window.saw(Reading({}), 10.4, 10.5, 0.5)
    assert window.since == 10.1


def test_an_answer_that_the_agent_waited_for_while_it_was_stopped_is_old() -> None:
    """A slow backend tells of the end of its answer; an answer far slower than usual does not."""
    age = AnswerAge()
    age.answered(10.0, 13.0)
    assert age.as_of == 10.0  # nothing is known yet of how long it takes
    age.answered(20.0, 23.0)
    assert age.as_of == 23.0
    age.answered(30.0, 30.1)
    age.answered(40.0, 48.0)
    assert age.as_of == 40.1


def test_a_reading_during_which_the_agent_was_stopped_hides_a_gap() -> None:
    """Idle before and after, and nobody knows what was in between."""
    window = QuietWindow()
    for asked, answered in ((10.0, 10.01), (10.1, 10.11), (10.2, 18.2), (18.21, 18.22)):
        window.saw(Reading({}), asked, answered, 0.5)
    assert window.since == 18.22
