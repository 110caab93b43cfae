"""The state machine: every phase with every combination of facts."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest

from deregister_agent.api.judgement import drained_status, started_status
from deregister_agent.cli.follow import ExitCode, _is_drained, _is_serving
from deregister_agent.cli.standalone import drain_code, restore_code
from deregister_agent.drain import (
    after_start,
    after_stop,
    announcements,
    is_restored,
    is_safe_to_kill,
    moved,
    next_phase,
    overtaken,
)
from deregister_agent.model import (
    UNFINISHED,
    Announcement,
    Drain,
    Instance,
    OnDeadline,
    Outcome,
    Phase,
    Policy,
    RestoreWhen,
    Sighting,
)
from deregister_agent.status import DrainStatus, Status

POLICY = Policy(deadline=60, quiet=2, settle=5)
WHEN_READY = replace(POLICY, restore=RestoreWhen.WHEN_READY)
FACTS = (
    "acknowledged",
    "listed",
    "unlisted",
    "withdrawn",
    "restored",
    "exited",
    "replaced",
    "working",
    "ready",
    "refused",
)


def drain(phase: Phase, **change: object) -> Drain:
    outcome = {Phase.DRAINED: Outcome.DRAINED, Phase.EXPIRED: Outcome.EXPIRED}.get(phase)
    one = Drain(id="d", instance="web", phase=phase, since=0, deadline=60, outcome=outcome)
    one = replace(one, **change)  # type: ignore[arg-type]
    return replace(one, announced=one.outcome) if phase is Phase.DRAINED else one


def seen(*facts: str, quiet_for: float | None = None) -> Sighting:
    return replace(Sighting(quiet_for=quiet_for), **dict.fromkeys(facts, True))


W, S, D = Phase.WITHDRAWING, Phase.SETTLING, Phase.DRAINING
ARROWS: dict[Phase, set[Phase]] = {
    Phase.SERVING: set(),
    W: {S, Phase.EXPIRED, Phase.RESTORING, Phase.GONE},
    S: {W, D, Phase.EXPIRED, Phase.GONE},
    D: {W, Phase.DRAINED, Phase.EXPIRED, Phase.GONE},
    Phase.DRAINED: {W, D, Phase.GONE},
    Phase.EXPIRED: {Phase.GONE, Phase.RESTORING},
    Phase.GONE: {Phase.SERVING, Phase.RESTORING},
    Phase.RESTORING: {Phase.SERVING},
}
"""Where each phase leads by itself."""
OUT = ("acknowledged", "unlisted")


@pytest.mark.parametrize(
    ("before", "facts", "now", "after"),
    [
        (Phase.SERVING, seen("listed", "restored"), 1, Phase.SERVING),
        (W, seen("acknowledged"), 1, W),
        (W, seen("unlisted", "withdrawn"), 1, W),
        (W, seen(*OUT), 1, S),
        (W, seen(*OUT), 99, S),  # finished beats deadline
        (W, seen("acknowledged"), 60, Phase.EXPIRED),
        (W, seen(*OUT, "refused"), 1, Phase.RESTORING),
        (S, seen("withdrawn", quiet_for=99), 4.9, S),
        (S, seen("withdrawn"), 5, D),
        (S, seen("unlisted"), 5, D),  # whatever old routes still bring is waited for there
        (D, seen("unlisted", quiet_for=99), 10, D),
        (S, seen("listed"), 5, W),
        (D, seen("withdrawn", quiet_for=1.9), 10, D),
        (D, seen("withdrawn", quiet_for=2), 10, Phase.DRAINED),
        (D, seen("withdrawn", quiet_for=2), 99, Phase.DRAINED),  # finished beats deadline
        (D, seen("withdrawn"), 60, Phase.EXPIRED),
        (D, seen(quiet_for=99), 10, D),  # not known to be withdrawn
        (D, seen("listed", quiet_for=99), 99, W),  # listed again beats everything
        (D, seen("withdrawn", "exited"), 10, D),  # a supervisor may start it again
        (D, seen("withdrawn", "exited", quiet_for=2), 10, Phase.DRAINED),
        (D, seen("exited"), 10, D),
        (D, seen("withdrawn", "exited", "replaced"), 10, D),
        (Phase.DRAINED, seen("withdrawn"), 999, Phase.DRAINED),
        (Phase.DRAINED, seen("listed"), 10, W),
        (Phase.DRAINED, seen("working"), 10, D),
        (Phase.DRAINED, seen("working", "listed"), 10, W),  # listed again beats work
        (Phase.DRAINED, seen("working", "exited"), 10, Phase.GONE),
        (Phase.DRAINED, seen("exited"), 10, Phase.GONE),
        (Phase.DRAINED, seen("exited", "replaced", "listed"), 10, Phase.GONE),  # the next version
        (Phase.EXPIRED, seen("listed"), 99, Phase.EXPIRED),
        (Phase.EXPIRED, seen("exited"), 99, Phase.GONE),
        (Phase.GONE, seen("listed"), 99, Phase.GONE),
        (Phase.GONE, seen("listed", "restored"), 99, Phase.SERVING),
        (Phase.GONE, seen("ready"), 99, Phase.GONE),
        (Phase.RESTORING, seen("restored", "listed"), 99, Phase.RESTORING),
        (Phase.RESTORING, seen("acknowledged", "listed"), 99, Phase.RESTORING),
        (Phase.RESTORING, seen("acknowledged", "restored", "listed"), 99, Phase.SERVING),
    ],
)
def test_transitions(before: Phase, facts: Sighting, now: float, after: Phase) -> None:
    """Each row is one sentence of the phase table in the docs."""
    assert after == next_phase(drain(before), facts, POLICY, now)


def everything() -> list[tuple[Drain, Sighting, Policy, float]]:
    """Return every phase with every combination of facts, policies and times."""
    outcomes = (Outcome.DRAINED, Outcome.APP_EXITED)
    drains = [
        drain(phase, on_deadline=on_deadline, outcome=outcome, since=since)
        for phase in Phase
        for since in ((0.0, 58.0) if phase is S else (0.0,))
        for on_deadline in OnDeadline
        for outcome in (outcomes if phase is Phase.DRAINED else (drain(phase).outcome,))
    ]
    drains += [
        drain(phase, announced=announced, on_deadline=OnDeadline.HOLD)
        for phase in (*UNFINISHED, Phase.EXPIRED)
        for announced in outcomes
    ]
    sights = [
        Sighting(**dict(zip(FACTS, flags, strict=True)), quiet_for=quiet)
        for flags in product((False, True), repeat=len(FACTS))
        for quiet in (None, 0.0, 2.0)
    ]
    times = (1.0, 5.0, 60.0)
    return list(product(drains, sights, (POLICY, WHEN_READY), times))


EVERYTHING = everything()


def test_drained_needs_withdrawn_and_quiet() -> None:
    """No sighting without "withdrawn" and quiet ever leads to drained."""
    reached = 0
    for one, facts, policy, now in EVERYTHING:
        after = next_phase(one, facts, policy, now)
        if after is Phase.DRAINED and one.phase is not Phase.DRAINED:
            reached += 1
            assert facts.withdrawn
            assert facts.quiet_for is not None
            assert facts.quiet_for >= policy.quiet
            assert not facts.listed
            assert one.phase is Phase.DRAINING
    assert reached


def test_an_instance_that_is_not_quiet_is_not_drained_even_with_quiet_zero() -> None:
    """A quiet of 0 still wants the app to be seen idle."""
    policy = replace(POLICY, quiet=0)
    assert next_phase(drain(D), seen("withdrawn"), policy, 10) is D
    assert next_phase(drain(D), seen("withdrawn", quiet_for=0.0), policy, 10) is Phase.DRAINED


def test_an_unfinished_drain_never_outlives_its_deadline() -> None:
    """Past the deadline each look leads on: to expired, or to what beats it."""
    for one, facts, policy, _ in EVERYTHING:
        if one.phase in UNFINISHED:
            after = next_phase(one, facts, policy, 60.0)
            may_stay = {Phase.DRAINED, Phase.EXPIRED, Phase.RESTORING}
            if one.announced is not None:
                may_stay.add(Phase.GONE)
            if facts.listed or one.phase is not D:
                may_stay |= {W, S, D}
            assert after in may_stay, (one, facts)


def test_each_phase_leads_only_where_the_table_says() -> None:
    """The arrows of the phase table, and no others."""
    met: dict[Phase, set[Phase]] = {phase: set() for phase in Phase}
    for one, facts, policy, now in EVERYTHING:
        after = next_phase(one, facts, policy, now)
        if after is not one.phase:
            met[one.phase].add(after)
    assert met == ARROWS


def test_after_an_announcement_nobody_new_is_withdrawn() -> None:
    """Once a process that was called drained has exited, no fact leads to anything but gone."""
    for one, facts, policy, now in EVERYTHING:
        by_itself = one.announced is Outcome.APP_EXITED  # nobody was there: only a new one counts
        if one.announced and facts.exited and (facts.replaced or not by_itself):
            assert next_phase(one, facts, policy, now) is Phase.GONE


def test_gone_without_an_announcement_follows_only_expired() -> None:
    """Before "drained" an exit leads nowhere by itself: a supervisor may start the app again."""
    for one, facts, policy, now in EVERYTHING:
        if one.announced is None and one.phase in UNFINISHED:
            assert next_phase(one, facts, policy, now) is not Phase.GONE


def test_expired_with_restore_goes_on_by_itself() -> None:
    """The policy restore leads from expired to restoring; hold and kill stay."""
    ways = {
        policy: next_phase(drain(Phase.EXPIRED, on_deadline=policy), seen(), POLICY, 99)
        for policy in OnDeadline
    }
    assert ways == {
        OnDeadline.HOLD: Phase.EXPIRED,
        OnDeadline.RESTORE: Phase.RESTORING,
        OnDeadline.KILL: Phase.EXPIRED,
    }


def test_when_ready_restores_after_the_kill() -> None:
    """With restore = "when-ready" a ready app is put back as soon as the old process is gone."""
    assert next_phase(drain(Phase.GONE), seen("ready"), WHEN_READY, 99) is Phase.RESTORING
    assert next_phase(drain(Phase.GONE), seen(), WHEN_READY, 99) is Phase.GONE


def test_wishes() -> None:
    """stop-traffic begins a drain where none is under way; start-traffic always restores."""
    begins = {Phase.SERVING, Phase.EXPIRED, Phase.GONE, Phase.RESTORING}
    for phase in Phase:
        assert after_stop(phase) is (W if phase in begins else phase)
        assert after_start(phase) is (phase if phase is Phase.SERVING else Phase.RESTORING)


@pytest.mark.parametrize(
    ("before", "after", "facts", "outcome"),
    [
        (D, Phase.DRAINED, seen("withdrawn", quiet_for=2), Outcome.DRAINED),
        (D, Phase.DRAINED, seen("withdrawn", "exited"), Outcome.APP_EXITED),
        (D, Phase.EXPIRED, seen(), Outcome.EXPIRED),
        (D, Phase.RESTORING, seen(), Outcome.CANCELLED),
        (W, Phase.RESTORING, seen("refused"), Outcome.REFUSED),
        (Phase.DRAINED, W, seen("listed"), None),
        (Phase.DRAINED, D, seen("working"), None),
        (Phase.DRAINED, Phase.GONE, seen("exited"), Outcome.DRAINED),
        (Phase.EXPIRED, Phase.GONE, seen("exited"), Outcome.EXPIRED),
        (Phase.EXPIRED, Phase.RESTORING, seen(), Outcome.EXPIRED),
        (Phase.DRAINED, Phase.RESTORING, seen(), Outcome.DRAINED),
        (W, S, seen(*OUT), None),
    ],
)
def test_outcomes(before: Phase, after: Phase, facts: Sighting, outcome: Outcome | None) -> None:
    """An outcome is settled once, by the move that ends the drain, and only listing undoes it."""
    assert outcome == moved(drain(before), after, facts, 7.0).outcome


def test_a_drained_that_no_longer_holds_gets_its_time_again() -> None:
    """The deadline counts anew when a registry lists a drained instance again."""
    again = moved(drain(Phase.DRAINED, limit=60), W, seen("listed"), 500.0)
    assert again.deadline == 560.0
    assert moved(drain(D), W, seen("listed"), 50.0).deadline == 60.0


def test_coming_back_is_counted() -> None:
    """Each time a registry lists it again during a drain counts, so that a habit shows."""
    once = moved(drain(D), W, seen("listed"), 5.0)
    twice = moved(replace(once, phase=Phase.DRAINED), W, seen("listed"), 9.0)
    assert [once.relisted, twice.relisted] == [1, 2]


def test_every_kill_is_announced_for_what_it_is() -> None:
    """Only drained announces "drained"; the policy kill announces "forced", beside "expired"."""
    for before, phase, on_deadline in product(Phase, Phase, OnDeadline):
        if before is phase:
            continue
        told = announcements(drain(before), drain(phase, on_deadline=on_deadline))
        assert (Announcement.DRAINED in told) == (phase is Phase.DRAINED)
        by_force = phase is Phase.EXPIRED and on_deadline is OnDeadline.KILL
        assert (Announcement.FORCED in told) == by_force


SAFE_OUTCOMES = (Outcome.DRAINED, Outcome.APP_EXITED, Outcome.ABSENT)
SAFE = set(product((Phase.DRAINED, Phase.GONE), SAFE_OUTCOMES))
"""The phases and outcomes of a drain that say that its process may be killed."""


@pytest.mark.parametrize("outcome", [None, *Outcome])
@pytest.mark.parametrize("phase", Phase)
def test_everybody_answers_alike(phase: Phase, outcome: Outcome | None) -> None:
    """The HTTP API and both command lines say "safe to kill" and "serving" of the same drains."""
    one = drain(phase, outcome=outcome)
    safe, serving = (phase, outcome) in SAFE, phase is Phase.SERVING
    status = _told(phase, outcome)
    assert is_safe_to_kill(phase, outcome) is is_safe_to_kill(str(phase), outcome) is safe
    assert (drained_status(one) == 200) is safe
    assert (drain_code(one) is ExitCode.DONE) is safe
    assert _is_drained(status) is safe
    assert is_restored(phase) is is_restored(str(phase)) is serving
    assert (started_status(one) == 200) is serving
    assert (restore_code(one) is ExitCode.DONE) is serving
    assert _is_serving(status) is serving


def _told(phase: Phase, outcome: Outcome | None) -> Status:
    """Return what a client reads that an agent says of such a drain."""
    how = DrainStatus(
        id="d", outcome=outcome, reason="", asked_by="", forced=False, on_deadline=OnDeadline.HOLD
    )
    return Status(
        instance=Instance("web-1", "web", "127.0.0.1", 8080),
        phase=phase,
        drain=how,
        in_flight={},
        blocking=(),
        registries=(),
        probes=(),
        cursor="",
    )


def test_what_was_never_drained_is_not_safe_to_kill() -> None:
    """A status without a drain says nothing."""
    for phase in Phase:
        assert not _is_drained(replace(_told(phase, None), drain=None))


def _reachable() -> Iterator[Drain]:
    """Yield a drain of each phase, outcome and policy that the machine can lead to."""
    looks = [seen(), seen("exited"), seen("exited", "replaced"), seen("refused")]
    for on_deadline in OnDeadline:
        met: dict[tuple[object, ...], Drain] = {}
        ahead = [drain(W, on_deadline=on_deadline)]
        while ahead:
            one = ahead.pop()
            key = (one.phase, one.outcome, one.announced, one.on_deadline)
            if key in met:
                continue
            met[key] = one
            ways = {*ARROWS[one.phase], after_start(one.phase)} - {one.phase}
            if one.phase in UNFINISHED and one.announced is None:
                ways.remove(Phase.GONE)  # nobody was told that it may kill
            ahead += [moved(one, phase, look, 1.0) for phase in ways for look in looks]
        yield from met.values()


def test_whoever_was_told_that_it_may_kill_was_told_so_by_a_safe_drain_or_by_force() -> None:
    """Every drain that can be met is taken back if it was safe to kill, or forced; no other."""
    met = 0
    for one in _reachable():
        met += 1
        by_force = one.outcome is Outcome.EXPIRED and one.on_deadline is OnDeadline.KILL
        forced = by_force and one.phase in {Phase.EXPIRED, Phase.GONE}
        told = is_safe_to_kill(one.phase, one.outcome) or forced
        assert (announcements(one, drain(W)) == (Announcement.TAKEN_BACK,)) is told, one
        assert (one.phase is not Phase.DRAINED) or told, one
        assert (one.phase is not Phase.GONE) or told is (one.outcome != Outcome.EXPIRED or forced)
    assert met > 50


def test_a_word_that_let_the_platform_kill_is_taken_back() -> None:
    """Whoever was told that it may kill is told when that ends, after the kill too."""
    told = {
        "drained": drain(Phase.DRAINED),
        "forced": drain(Phase.EXPIRED, on_deadline=OnDeadline.KILL),
        "drained, gone": drain(Phase.GONE, outcome=Outcome.DRAINED),
        "forced, gone": drain(Phase.GONE, outcome=Outcome.EXPIRED, on_deadline=OnDeadline.KILL),
    }
    for name, before in told.items():
        for after in (W, Phase.RESTORING):
            assert announcements(before, drain(after)) == (Announcement.TAKEN_BACK,), name
            assert Announcement.DRAINED in overtaken(before.phase, after)
    assert announcements(drain(Phase.EXPIRED), drain(W)) == ()
    assert announcements(drain(Phase.DRAINED), drain(Phase.GONE)) == ()
    assert not overtaken(Phase.DRAINED, Phase.GONE)
    assert Announcement.EXPIRED not in overtaken(Phase.EXPIRED, Phase.RESTORING)
