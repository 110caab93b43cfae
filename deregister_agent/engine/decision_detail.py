"""What is written down and logged with a decision, for whoever reads the timeline."""

from collections.abc import Mapping

from deregister_agent.engine.blockers import blocking
from deregister_agent.engine.knowledge import Knowledge
from deregister_agent.engine.standing import doubts
from deregister_agent.engine.status import notes
from deregister_agent.model import Announcement, Drain, Phase


def detail(known: Knowledge, after: Drain) -> dict[str, object]:
    """Return why the drain goes on to the phase of *after*, and what a person should know."""
    before, phase = known.drain.phase, after.phase
    said: dict[str, object] = {"from": before}
    if phase in {Phase.DRAINED, Phase.EXPIRED}:
        said["took"] = round(after.since - (after.deadline - after.limit), 3)
        said["notes"] = notes(known)
    if phase is Phase.EXPIRED:
        said["blocking"] = blocking(known)
    if phase is Phase.DRAINING and before is Phase.DRAINED:
        said["work"] = doubts(known)
    if phase is Phase.WITHDRAWING:
        words = [(view.name, view.says(0.0)) for view in known.registries]
        said["listed_by"] = [name for name, word in words if word and word.listed]
    if phase is Phase.RESTORING and after.refusal:
        said["refused"] = after.refusal
    return said


def refusal(known: Knowledge) -> str:
    """Return why a drain that had begun is refused."""
    return "; ".join(str(view.refused) for view in known.registries if view.refused is not None)


def announced_alone(kind: str) -> tuple[Announcement, ...]:
    """Return what is announced by a decision of that *kind* that changes no phase."""
    return (Announcement(kind),) if kind in set(Announcement) else ()


def in_words(said: Mapping[str, object]) -> str:
    """Return a detail as a log line has it."""
    return " ".join(f"{key}={value}" for key, value in said.items() if value and key != "from")
