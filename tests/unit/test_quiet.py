"""When an app counts as quiet."""

from deregister_agent.model import Reading
from deregister_agent.quiet import QuietWindow, quiet_for, quiet_since


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
    window.saw(idle(), 10.0, 10.5)
    assert quiet_for([window]) == 0.0


def test_it_counts_from_the_first_answer_to_the_last_question() -> None:
    """A slow answer proves less, never more."""
    window = QuietWindow()
    window.saw(idle(), 10.0, 10.5)
    window.saw(idle(), 13.0, 14.0)
    assert (quiet_since([window]), quiet_for([window])) == (10.5, 2.5)


def test_work_in_hand_ends_it() -> None:
    """And the next idle reading begins a new window."""
    window = QuietWindow()
    window.saw(idle(), 10.0, 10.1)
    window.saw(BUSY, 11.0, 11.1)
    assert quiet_for([window]) is None
    window.saw(idle(), 12.0, 12.1)
    assert quiet_since([window]) == 12.1


def test_a_failed_reading_ends_it() -> None:
    """Unknown is not idle: the gap is not bridged."""
    window = QuietWindow()
    window.saw(idle(), 10.0, 10.1)
    window.broken()
    assert quiet_for([window]) is None
    window.saw(idle(), 12.0, 12.1)
    window.saw(idle(), 13.0, 13.1)
    assert quiet_since([window]) == 12.1


def test_work_that_came_and_went_between_two_readings_ends_it() -> None:
    """Where the app counts all work ever started, what no reading saw is seen too."""
    window = QuietWindow()
    window.saw(idle(started=7), 10.0, 10.1)
    window.saw(idle(started=8), 11.0, 11.1)
    assert quiet_since([window]) == 11.1
    window.saw(idle(started=8), 12.0, 12.1)
    assert quiet_since([window]) == 11.1


def test_another_process_ends_it() -> None:
    """Its counter may stand anywhere: what the old one had in hand is not its."""
    window = QuietWindow()
    window.saw(idle(mark="a"), 10.0, 10.1)
    window.saw(idle(mark="b"), 11.0, 11.1)
    assert quiet_since([window]) == 11.1


def test_all_probes_must_be_quiet_at_the_same_time() -> None:
    """Quiet one after the other is not quiet."""
    one, two = QuietWindow(), QuietWindow()
    one.saw(idle(), 10.0, 10.0)
    one.saw(idle(), 15.0, 15.0)
    assert quiet_for([one, two]) is None
    two.saw(idle(), 14.0, 14.0)
    two.saw(idle(), 18.0, 18.0)
    assert (quiet_since([one, two]), quiet_for([one, two])) == (14.0, 1.0)


def test_windows_that_do_not_overlap_count_for_nothing() -> None:
    """One probe was last read before the other one was first idle."""
    one, two = QuietWindow(), QuietWindow()
    one.saw(idle(), 10.0, 10.0)
    one.saw(idle(), 11.0, 11.0)
    two.saw(idle(), 14.0, 14.0)
    assert quiet_for([one, two]) == 0.0
