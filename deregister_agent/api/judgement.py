"""What traffic-drained and traffic-started answer: deploy scripts judge by the HTTP status."""

from deregister_agent.api.problem import Problem, try_later
from deregister_agent.drain import is_restored, is_safe_to_kill
from deregister_agent.engine.instance_loop import InstanceLoop
from deregister_agent.model import UNFINISHED, Drain, Outcome, Phase
from deregister_agent.status import Status

SERVED = {True: 200, False: 409, None: 503}
"""What traffic-started answers of an instance in service: False means out by another hand."""
RECALL = 5.0
"""Seconds that stop-traffic waits until the last drain is known to hold, after a restart."""


def drained_status(drain: Drain) -> int:
    """Return what traffic-drained answers: 200 means safe to kill, and nothing else does."""
    if is_safe_to_kill(drain.phase, drain.outcome):
        return 200
    if drain.outcome is Outcome.EXPIRED:
        return 504
    return 503 if drain.phase in UNFINISHED else 409


def started_status(drain: Drain) -> int:
    """Return what traffic-started answers: 200 means that every registry lists the instance."""
    if is_restored(drain.phase):
        return 200
    if drain.phase is Phase.RESTORING:
        return 504 if drain.overdue else 503
    return 409


def recall(loop: InstanceLoop) -> None:
    """
    Wait until a "drained" from before the agent's restart is seen to hold, or not to hold.

    Otherwise stop-traffic would be answered with that drain, although its process may
    have been replaced in the meantime.
    """
    loop.wait(lambda _: loop.is_recalled, RECALL)
    if not loop.is_recalled:
        why = loop.status().what_blocks
        raise try_later(f"it is not known yet whether the last drain still holds: {why}")


def not_started(status: Status) -> str:
    """Return why start-traffic has not led, or does not lead, to service: whose turn it is."""
    if status.phase == Phase.SERVING and status.blocking:
        return status.what_blocks
    return "nobody asked for it: POST start-traffic first"


def not_asked(drain: Drain, status: Status, advice: str) -> Problem:
    """Return the 409 of a question that nothing under way would answer."""
    because = f" ({drain.refusal})" if drain.refusal else ""
    ended = f"the last drain was {drain.outcome}{because}; " if drain.outcome else ""
    if drain.phase is Phase.GONE and is_safe_to_kill(drain.phase, drain.outcome):
        ended += "the process that was drained has exited, and another may be in its place; "
    return Problem(
        409,
        f"{drain.instance} is {drain.phase}: {ended}{advice}",
        extra={
            "phase": drain.phase,
            "outcome": drain.outcome,
            "blocking": status.blocking,
        },
    )
