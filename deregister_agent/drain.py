"""The state machine of a drain. Pure: it decides, somebody else acts."""

from dataclasses import replace

from deregister_agent.model import (
    GUARDED,
    UNFINISHED,
    Announcement,
    Drain,
    DrainKind,
    OnDeadline,
    Outcome,
    Phase,
    Policy,
    RestoreWhen,
    Sighting,
)

_SAFE_OUTCOMES = frozenset({Outcome.DRAINED, Outcome.APP_EXITED, Outcome.ABSENT})
_NOBODY_THERE = frozenset({Outcome.APP_EXITED, Outcome.ABSENT})


def next_phase(drain: Drain, seen: Sighting, policy: Policy, now: float) -> Phase:
    """
    Decide where *drain* goes, given what was just *seen*.

    Order matters. After an announcement, an exit outranks everything, also where the
    word was taken back since: whoever registers then is the next version. Otherwise a
    registry that lists the instance again outranks all else, then work that has come
    again, and a finished drain outranks its deadline.
    """
    match drain.phase:
        case phase if phase in GUARDED and _is_acted_on(drain, seen):
            return Phase.GONE
        case Phase.EXPIRED if seen.exited:
            return Phase.GONE
        case Phase.SETTLING | Phase.DRAINING | Phase.DRAINED if seen.listed:
            return Phase.WITHDRAWING
        case Phase.DRAINED if seen.working:
            return Phase.DRAINING
        case Phase.WITHDRAWING if seen.refused:
            return Phase.RESTORING
        case Phase.WITHDRAWING if seen.acknowledged and seen.unlisted:
            return Phase.SETTLING
        case Phase.SETTLING if now - drain.since >= policy.settle:
            return Phase.DRAINING
        case Phase.DRAINING if seen.withdrawn and is_quiet(seen, policy):
            return Phase.DRAINED
        case phase if phase in UNFINISHED and now >= drain.deadline:
            return Phase.EXPIRED
        case Phase.EXPIRED if drain.on_deadline is OnDeadline.RESTORE:
            return Phase.RESTORING
        case Phase.GONE if seen.restored:
            return Phase.SERVING
        case Phase.GONE if seen.ready and policy.restore is RestoreWhen.WHEN_READY:
            return Phase.RESTORING
        case Phase.RESTORING if seen.acknowledged and seen.restored:
            return Phase.SERVING
        case phase:
            return phase


def _is_acted_on(drain: Drain, seen: Sighting) -> bool:
    """
    Tell whether the platform has done what "drained" let it do.

    It may have acted on the word before it was taken back. Where no process was
    running when the word was given, the next one to start is the next version.
    """
    if drain.announced in _NOBODY_THERE:
        return seen.replaced
    return drain.announced is not None and seen.exited


def is_quiet(seen: Sighting, policy: Policy) -> bool:
    """Tell whether the app has been quiet for long enough; unknown is not quiet."""
    return seen.quiet_for is not None and seen.quiet_for >= policy.quiet


def after_stop(phase: Phase) -> Phase:
    """Return where stop-traffic leads from *phase*; the same phase when it changes nothing."""
    match phase:
        case Phase.SERVING | Phase.EXPIRED | Phase.GONE | Phase.RESTORING:
            return Phase.WITHDRAWING
        case _:
            return phase


def after_start(phase: Phase) -> Phase:
    """Return where start-traffic leads from *phase*; the same phase when it changes nothing."""
    return phase if phase is Phase.SERVING else Phase.RESTORING


def is_safe_to_kill(phase: str, outcome: str | None) -> bool:
    """
    Tell whether a drain in that *phase*, with that *outcome*, says that its process may be killed.

    Nothing else says so: neither a phase nor an outcome alone, as "gone" follows "expired"
    too, and start-traffic leaves the outcome of the drain as it was.
    """
    return phase in {Phase.DRAINED, Phase.GONE} and outcome in _SAFE_OUTCOMES


def is_restored(phase: str) -> bool:
    """Tell whether an instance in that *phase* takes traffic: every registry lists it."""
    return phase == Phase.SERVING


def moved(drain: Drain, phase: Phase, seen: Sighting, now: float) -> Drain:
    """
    Return *drain* in its new *phase*, with what the move settles.

    A drain whose "drained" no longer holds loses its outcome and gets its whole time
    again: the deadline counted from a stop-traffic that had been answered. And it ends,
    if it then expires, in hold: hours later, neither a kill in the middle of work nor
    an instance back in traffic is what the request was about.
    """
    after = replace(drain, phase=phase, since=now, overdue=False)
    match drain.phase, phase:
        case Phase.DRAINED, Phase.WITHDRAWING | Phase.DRAINING:
            again = drain.relisted + (phase is Phase.WITHDRAWING)
            deadline, policy = now + drain.limit, OnDeadline.HOLD
            return replace(
                after, outcome=None, deadline=deadline, on_deadline=policy, relisted=again
            )
        case _, Phase.WITHDRAWING:
            return replace(after, relisted=drain.relisted + 1)
        case Phase.WITHDRAWING, Phase.SETTLING:
            return replace(after, guarded=False)
        case _, Phase.DRAINED:
            by_itself = seen.exited and not (seen.replaced or seen.left)
            outcome = Outcome.APP_EXITED if by_itself else Outcome.DRAINED
            outcome = Outcome.ABSENT if seen.nobody else outcome
            return replace(after, outcome=outcome, announced=outcome)
        case _, Phase.EXPIRED:
            return replace(after, outcome=Outcome.EXPIRED)
        case _, Phase.GONE:
            return replace(after, outcome=drain.outcome or drain.announced)
        case before, Phase.RESTORING if before in UNFINISHED:
            cut_short = Outcome.REFUSED if seen.refused else Outcome.CANCELLED
            return replace(after, outcome=cut_short, announced=None)
        case _, Phase.RESTORING:
            return replace(after, announced=None)
        case _, Phase.SERVING if drain.kind is DrainKind.RESTORE:
            return replace(after, outcome=Outcome.RESTORED)
        case _:
            return after


def announcements(before: Drain, after: Drain) -> tuple[Announcement, ...]:
    """
    Return what the platform is told when an instance goes on from *before* to *after*.

    A word that let the platform kill is taken back as soon as it no longer holds, also
    after the kill: otherwise the platform could take it for a word on the next process.
    """
    match after.phase:
        case Phase.DRAINED if after.outcome is Outcome.ABSENT:
            return ()  # there is nothing to kill
        case Phase.DRAINED:
            return (Announcement.DRAINED,)
        case Phase.EXPIRED if after.on_deadline is OnDeadline.KILL:
            return (Announcement.EXPIRED, Announcement.FORCED)
        case Phase.EXPIRED:
            return (Announcement.EXPIRED,)
        case Phase.WITHDRAWING | Phase.DRAINING | Phase.RESTORING if _may_be_killed(before):
            return (Announcement.TAKEN_BACK,)
        case Phase.SERVING:
            return (Announcement.SERVING,)
        case _:
            return ()


def _may_be_killed(drain: Drain) -> bool:
    """Tell whether the platform was told that it may kill the instance of *drain*."""
    if drain.outcome is Outcome.ABSENT:
        return False  # there was nothing to kill, and nobody was told anything
    expired = drain.phase in {Phase.EXPIRED, Phase.GONE} and drain.outcome is Outcome.EXPIRED
    forced = expired and drain.on_deadline is OnDeadline.KILL
    return forced or is_safe_to_kill(drain.phase, drain.outcome)


def overtaken(before: Phase, after: Phase) -> frozenset[Announcement]:
    """
    Return which announcements stop being true when a drain goes on from *before*.

    Those that have not been delivered yet must not be: a platform that killed
    by them would kill an instance that is in service.
    """
    if after is Phase.SERVING:
        return frozenset({Announcement.DRAINED, Announcement.FORCED, Announcement.NOT_RESTORED})
    if before in {Phase.DRAINED, Phase.EXPIRED, Phase.GONE} and after not in {before, Phase.GONE}:
        return frozenset({Announcement.DRAINED, Announcement.FORCED})
    return frozenset()
