"""The records that begin with a request: a drain, or a restore of what was lost in service."""

from dataclasses import dataclass, replace

from deregister_agent.engine.knowledge import Knowledge
from deregister_agent.model import Drain, DrainKind, Phase, StopRequest


@dataclass(frozen=True, slots=True)
class StartRequest:
    """What somebody asks for with start-traffic."""

    reason: str
    asked_by: str
    anyway: bool = False  # whether no readiness check needs to pass


def new_drain(known: Knowledge, id_: str, request: StopRequest) -> Drain:
    """Return the drain that is asked for; what the request leaves open, the policy says."""
    policy = known.policy
    limit = policy.deadline if request.deadline is None else request.deadline
    return replace(
        _begun(known, id_, Phase.WITHDRAWING, limit),
        on_deadline=request.on_deadline or policy.on_deadline,
        reason=request.reason,
        asked_by=request.asked_by,
        forced=request.force,
        guarded=not request.force and policy.min_others > 0,
        vouched=request.vouch,
        if_present=request.if_present,
    )


def asked_detail(request: StopRequest) -> dict[str, object]:
    """Return who asked for a drain, and how, for the timeline."""
    by: dict[str, object] = {"asked_by": request.asked_by, "reason": request.reason}
    return by | {
        "force": request.force,
        "vouched": request.vouch,
        "if_present": request.if_present,
    }


def is_cut_short(record: Drain) -> bool:
    """Tell whether *record* is a restore from service that a new drain would leave without end."""
    return record.kind is DrainKind.RESTORE and record.outcome is None


def new_restore(known: Knowledge, id_: str, request: StartRequest) -> Drain:
    """Return the record of putting back what registries have lost of an instance in service."""
    return replace(
        _begun(known, id_, Phase.RESTORING, known.policy.restore_deadline),
        reason=request.reason,
        asked_by=request.asked_by,
        guarded=False,
        kind=DrainKind.RESTORE,
        vouched=known.drain.vouched,
    )


def _begun(known: Knowledge, id_: str, phase: Phase, limit: float) -> Drain:
    now, name, app = known.clock.now(), known.instance.name, known.process.app
    return Drain(id_, name, phase, now, deadline=now + limit, limit=limit, process=app)
