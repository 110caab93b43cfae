"""Whether "drained" holds when it is asked: work that comes again, words that are old, an exit."""

from collections.abc import Callable
from pathlib import Path

import pytest

from deregister_agent.engine.blockers import blocking
from deregister_agent.model import (
    UNFINISHED,
    Announcement,
    OnDeadline,
    Outcome,
    Phase,
    Policy,
    StopRequest,
)
from tests.unit.loop_bench import NEW, Bench, ListRegistry


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Make a bench whose instance has been drained, with an app that counts its work."""
    return drained(tmp_path)


def drained(folder: Path, request: StopRequest | None = None) -> Bench:
    bench = Bench(folder, Policy(quiet=1.0, min_others=0, deadline=60.0))
    bench.page.started = 10
    bench.go_on(0.5)
    bench.stop(request)
    bench.until(Phase.DRAINED)
    return bench


def stands(bench: Bench) -> bool:
    safe = bench.phase in {Phase.DRAINED, Phase.GONE}
    return safe and bench.loop.stands_by(Announcement.DRAINED)


def announced(bench: Bench) -> list[str]:
    return [str(each) for decision in bench.written for each in decision.announcements]


def meets(bench: Bench, fact: Callable[[], bool], within: float = 20.0) -> float:
    """Let the loop work until *fact* is one; return how long it took."""
    began = bench.clock.time
    while not fact():
        assert bench.clock.time - began < within
        bench.step(0.5)
    return bench.clock.time - began


def test_one_reading_with_work_ends_the_answer_and_not_the_word(bench: Bench) -> None:
    """A health check that is counted takes nothing back, but nobody is told "drained" meanwhile."""
    assert stands(bench)
    bench.page.in_flight = 1
    meets(bench, lambda: not stands(bench), within=1.1)
    assert "work has come again" in "; ".join(blocking(bench.loop.known))
    bench.page.in_flight = 0
    meets(bench, lambda: stands(bench))
    assert bench.phase is Phase.DRAINED
    assert Announcement.TAKEN_BACK not in announced(bench)


def test_work_that_stays_takes_the_word_back(bench: Bench) -> None:
    """In hand in readings a second apart: draining again, and the platform is told."""
    bench.page.in_flight = 1
    bench.until(Phase.DRAINING, within=5.0)
    assert announced(bench)[-1] == Announcement.TAKEN_BACK
    assert bench.loop.drain.outcome is None


@pytest.mark.parametrize("gap", [0.05, 0.9])
def test_work_that_came_and_went_between_readings_counts(bench: Bench, gap: float) -> None:
    """Twenty requests a second of five milliseconds: no answer later than a second, no idle."""
    began = bench.clock.time
    while bench.phase is Phase.DRAINED:
        bench.page.started = (bench.page.started or 0) + 1
        bench.step(gap)
        if bench.clock.time - began > 1.1 + gap:
            assert not stands(bench)
        assert bench.clock.time - began < 10.0
    assert bench.phase is Phase.DRAINING


def test_a_poll_now_and_then_does_not_flap(bench: Bench) -> None:
    """One request each eight seconds, as a monitor sends them, takes nothing back."""
    for _ in range(10):
        bench.page.started = (bench.page.started or 0) + 1
        bench.go_on(8.0)
    assert bench.phase is Phase.DRAINED
    assert Announcement.TAKEN_BACK not in announced(bench)


def test_a_drain_taken_back_gets_its_whole_time_and_ends_in_hold(tmp_path: Path) -> None:
    """Long after the deadline, a late request must neither be killed nor bring traffic back."""
    bench = drained(tmp_path, StopRequest(on_deadline=OnDeadline.KILL))
    bench.go_on(90.0)
    bench.page.in_flight = 1
    bench.until(Phase.DRAINING, within=5.0)
    began = bench.clock.time
    bench.until(Phase.EXPIRED, within=100.0)
    assert bench.clock.time - began > 50.0
    assert Announcement.FORCED not in announced(bench)
    bench.go_on(30.0)
    assert bench.phase is Phase.EXPIRED


@pytest.mark.parametrize("phase", [*sorted(UNFINISHED), Phase.EXPIRED])
def test_an_exit_after_the_announcement_leads_to_gone_from_everywhere(
    tmp_path: Path, phase: Phase
) -> None:
    """The platform may have acted on a word that was taken back: the next version is let be."""
    bench = drained(tmp_path)
    if phase is Phase.WITHDRAWING:
        bench.registries[0].listed = True
        bench.until(Phase.WITHDRAWING)
        bench.registries[0].down = True
    elif phase is Phase.SETTLING:
        bench.policy = bench.loop.known.policy = Policy(quiet=1.0, min_others=0, settle=30.0)
        bench.registries[0].listed = True
        bench.until(Phase.SETTLING)
    else:
        bench.page.in_flight = 1
        bench.until(phase, within=200.0)
    bench.finder.running = NEW
    bench.page.in_flight = 0
    bench.until(Phase.GONE, within=5.0)
    outcome = Outcome.EXPIRED if phase is Phase.EXPIRED else Outcome.DRAINED
    assert bench.loop.drain.outcome is outcome
    bench.registries[0].down, bench.registries[0].listed = False, True
    did = len(bench.registries[0].did)
    bench.go_on(30.0)
    assert "withdraw" not in bench.registries[0].did[did:]


def test_a_restart_remembers_for_whom_the_word_was_taken_back(bench: Bench) -> None:
    """An agent that is killed between the take-back and the exit still lets the next one be."""
    bench.page.in_flight = 1
    bench.until(Phase.DRAINING, within=5.0)
    bench.new_life()
    bench.finder.running = NEW
    bench.until(Phase.GONE, within=5.0)


def test_before_the_announcement_a_restart_changes_nothing(tmp_path: Path) -> None:
    """Without "drained" the new process is drained in the place of the old one."""
    bench = Bench(tmp_path, Policy(quiet=1.0, min_others=0))
    bench.page.in_flight = 1
    bench.go_on(0.5)
    bench.stop()
    bench.until(Phase.DRAINING)
    bench.finder.running = NEW
    bench.go_on(5.0)
    assert bench.phase is Phase.DRAINING
    assert bench.loop.drain.process == NEW


def test_words_of_before_a_freeze_are_no_answer(bench: Bench) -> None:
    """After SIGSTOP and SIGCONT nothing that was seen before is believed."""
    assert stands(bench)
    bench.clock.time += 8.0
    assert not stands(bench)
    meets(bench, lambda: stands(bench), within=1.0)


def test_a_registry_that_does_not_answer_ends_the_answer(bench: Bench) -> None:
    """Unknown is not withdrawn, also after "drained"."""
    bench.registries[0].down = True
    bench.go_on(6.0)
    assert not stands(bench)
    assert bench.phase is Phase.DRAINED
    bench.registries[0].down = False
    meets(bench, lambda: stands(bench))


def test_an_app_that_does_not_answer_any_more_is_told_so(bench: Bench) -> None:
    """Where its exit cannot be seen, the sentence tells a person what to do."""
    bench.finder.sees = False
    bench.page.down = True
    bench.go_on(5.0)
    assert not stands(bench)
    assert "if it was killed, go on" in "; ".join(blocking(bench.loop.known))


def test_gone_speaks_of_the_process_that_was_drained(bench: Bench) -> None:
    """Until another process is in its place, or a registry lists whoever is there."""
    bench.finder.running = None
    bench.until(Phase.GONE)
    bench.go_on(2.0)
    assert stands(bench)
    bench.finder.running = NEW
    bench.go_on(3.0)
    assert bench.phase is Phase.GONE
    assert not stands(bench)


def test_gone_is_no_answer_once_somebody_is_listed(tmp_path: Path) -> None:
    """The next version has registered itself in one of its registries, and cannot be seen."""
    policy, both = Policy(quiet=1.0, min_others=0), [ListRegistry("one"), ListRegistry("two")]
    bench = Bench(tmp_path, policy, both)
    bench.go_on(0.5)
    bench.stop()
    bench.until(Phase.DRAINED)
    bench.finder.running = None
    bench.until(Phase.GONE)
    bench.go_on(2.0)
    assert stands(bench)
    both[0].listed = True
    bench.go_on(6.0)
    assert bench.phase is Phase.GONE
    assert not stands(bench)


def test_gone_is_no_answer_before_anybody_has_looked(bench: Bench) -> None:
    """After a restart of the agent the phase alone says nothing: a successor may be there."""
    bench.finder.running = None
    bench.until(Phase.GONE)
    bench.finder.running = NEW
    bench.new_life()
    assert bench.phase is Phase.GONE
    assert not stands(bench)
    bench.finder.running = None
    bench.new_life()
    meets(bench, lambda: stands(bench))


@pytest.mark.parametrize("who", ["registries", "probes"])
def test_an_old_word_of_anybody_is_no_answer(bench: Bench, who: str) -> None:
    """One that has not answered of late is enough, and is asked before "drained" stands again."""
    assert stands(bench)
    (view,) = getattr(bench.loop.known, who)
    view.age.as_of -= 3.0
    assert not stands(bench)
    meets(bench, lambda: stands(bench), within=1.5)
