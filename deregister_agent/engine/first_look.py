"""What is asked before the first registry withdraws: whether the instance may be taken out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from deregister_agent.engine.calls import Submit
from deregister_agent.engine.knowledge import Knowledge
from deregister_agent.engine.presence import forget, look_alikes, note
from deregister_agent.engine.registry_view import RegistryView
from deregister_agent.errors import AgentError, NeverSeen, Refused, StillListed, UnrecognisedError
from deregister_agent.model import Listing, Look, Phase, Presence, StopRequest

FIRST_WAIT = 0.25  # seconds that stop-traffic waits for the registries' words
ALIKE_WAIT = 3.0  # seconds that a refusal waits for what looks like the instance


@dataclass(slots=True)
class FirstLook:
    """What was seen before a drain begins."""

    looks: dict[str, Look] = field(default_factory=dict)  # of the registries that have answered
    replaced: bool = False  # another process is there than when they have shown it


def look_first(known: Knowledge, submit: Submit, request: StopRequest) -> FirstLook:
    """
    Ask each registry, all at once, whether it has the instance, and how many others.

    Raises Refused. A registry that does not answer within FIRST_WAIT does not hold up
    stop-traffic: it is asked again before the instance is withdrawn from it.
    """
    found = FirstLook()
    questions = [partial(_examine, known, view, request) for view in known.registries]
    process = partial(known.process.finder.look, known.process.app)
    for answer in _answers(known, submit, [*questions, process], FIRST_WAIT):
        match answer:
            case Refused():
                raise answer
            case AgentError():
                pass  # asked again by those who withdraw from it and who look; they say so
            case Presence():
                found.replaced = answer.replaced or _is_another(known, answer)
            case (name, look):
                found.looks[name] = look
    if not request.if_present:
        _refuse_unseen(known, submit, request, found)
    return found


def ask_all(known: Knowledge, submit: Submit, wait: float) -> dict[str, Look]:
    """Ask each registry for its word now; return those that have come within *wait* seconds."""

    def ask(view: RegistryView) -> tuple[str, Look]:
        return view.name, view.registry.look()

    questions = [partial(ask, view) for view in known.registries]
    found = _answers(known, submit, questions, wait)
    return dict(one for one in found if not isinstance(one, AgentError))


def take_in(known: Knowledge, found: FirstLook) -> None:
    """Write down what was seen before the drain. Raises JournalError."""
    if found.replaced:
        forget(known)
    for view in known.registries:
        look = found.looks.get(view.name)
        if look is not None:
            note(known, view, look)


def _is_another(known: Knowledge, presence: Presence) -> bool:
    """Tell whether the process that is there was met only after the registries had shown it."""
    drain, app = known.drain, known.process.app
    if drain.phase is Phase.RESTORING and app != drain.process:
        return True  # while the one before was put back
    return app is None and presence.running is not None


def _examine(known: Knowledge, view: RegistryView, request: StopRequest) -> tuple[str, Look]:
    try:
        look = view.registry.look()
    except UnrecognisedError as e:
        raise NeverSeen(known.instance.name, view.name, [str(e)]) from e
    if look.listed and view.name in request.vouch:
        raise StillListed(known.instance.name, view.name)
    if look.listed and not request.force:
        known.guard.check(view.registry, listed=True)
    return view.name, look


def _refuse_unseen(
    known: Knowledge, submit: Submit, request: StopRequest, found: FirstLook
) -> None:
    """Raise NeverSeen where a registry does not show the instance, and never has."""
    excused = known.may_be_absent | set(request.vouch)
    unseen = [
        view
        for view in known.registries
        if view.name not in excused and (found.replaced or not view.seen)
        if view.name in found.looks and found.looks[view.name].listing is Listing.ABSENT
    ]
    if unseen:
        view = unseen[0]
        named = partial(look_alikes, view.registry)
        alike: Any = next(_answers(known, submit, [named], ALIKE_WAIT), [])
        raise NeverSeen(known.instance.name, view.name, alike)


def _answers(
    known: Knowledge, submit: Submit, questions: Sequence[Callable[[], Any]], wait: float
) -> Iterator[Any]:
    """Ask all at once; yield what they answer, or the error, for at most *wait* seconds."""
    answered: SimpleQueue[Any] = SimpleQueue()

    def ask(question: Callable[[], Any]) -> None:
        try:
            answered.put(question())
        except AgentError as e:
            answered.put(e)

    for question in questions:
        submit(partial(ask, question))
    end = known.clock.now() + wait
    for _ in questions:
        try:
            yield answered.get(timeout=max(0.0, end - known.clock.now()))
        except Empty:
            return
