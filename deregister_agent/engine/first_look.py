"""What is asked before the first registry withdraws: whether the instance may be taken out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from deregister_agent.engine.calls import Submit
from deregister_agent.engine.knowledge import Knowledge
from deregister_agent.engine.presence import check_alone, forget, look_alikes, note
from deregister_agent.engine.registry_view import RegistryView
from deregister_agent.errors import (
    AgentError,
    NeverSeen,
    NotRecognised,
    OtherRegistrations,
    Refused,
    StillListed,
    UnknownRegistry,
    UnrecognisedError,
)
from deregister_agent.model import Listing, Look, Outcome, Phase, Presence, Process, StopRequest

FIRST_WAIT = 0.25  # seconds that stop-traffic waits for the registries' words
ALIKE_WAIT = 3.0  # seconds that a refusal waits for who the app is, and for what looks like it


@dataclass(slots=True)
class FirstLook:
    """What was seen before a drain begins."""

    looks: dict[str, Look] = field(default_factory=dict)  # of the registries that have answered
    presence: Presence | None = None  # of the process; None: it has not been looked at in time
    alone: set[str] = field(default_factory=set)  # the registries that have it under no other name
    elsewhere: OtherRegistrations | None = None  # what another registry says of that
    nobody: bool = False  # nobody is there to be drained, and that is an end, too
    refusal: Refused | None = None  # why it may not be taken out


def look_first(known: Knowledge, submit: Submit, request: StopRequest) -> FirstLook:
    """
    Ask each registry, all at once, how it has the instance, and how many others.

    Raises UnknownRegistry. A registry that does not answer within FIRST_WAIT does not hold
    up stop-traffic: it is asked again before the instance is withdrawn from it.
    """
    _refuse_unknown(known, request.vouch)
    found = FirstLook()
    try:
        _look_first(known, submit, request, found)
    except Refused as e:
        found.refusal = e
    return found


def _look_first(known: Knowledge, submit: Submit, request: StopRequest, found: FirstLook) -> None:
    """Ask, and take down what is *found*. Raises Refused."""
    _ask_first(known, submit, request, found)
    absent = any(look.listing is Listing.ABSENT for look in found.looks.values())
    if absent and found.presence is None:  # whether it was seen hangs on who is there now
        process = partial(known.process.finder.look, known.process.app)
        late = next(_answers(known, submit, [process], ALIKE_WAIT), None)
        found.presence = late if isinstance(late, Presence) else None
    found.nobody = _is_nobody(known, request, found.presence)
    if not found.nobody:
        _refuse_unseen(known, submit, request, found)
    if found.elsewhere is not None:  # not sooner: what is looked for under a wrong name, is there
        raise found.elsewhere


def _refuse_unknown(known: Knowledge, vouched: Sequence[str]) -> None:
    names = [view.name for view in known.registries]
    for name in vouched:
        if name not in names:
            raise UnknownRegistry(known.instance.name, name, names)


def _ask_first(known: Knowledge, submit: Submit, request: StopRequest, found: FirstLook) -> None:
    """Take down what is answered within FIRST_WAIT. Raises Refused."""
    vouched = request.vouch
    questions = [partial(_examine, known, view, request) for view in known.registries]
    others = [partial(_find_others, known, v) for v in known.registries if v.name not in vouched]
    process = partial(known.process.finder.look, known.process.app)
    for answer in _answers(known, submit, [*questions, process, *others], FIRST_WAIT):
        match answer:
            case OtherRegistrations():
                found.elsewhere = answer
            case Refused():
                raise answer
            case AgentError():
                pass  # asked again by those who withdraw from it and who look; they say so
            case Presence():
                found.presence = answer
            case (name, look, error):
                found.looks[name] = look
                if isinstance(error, Refused):
                    raise error
            case str(name):
                found.alone.add(name)


def _is_nobody(known: Knowledge, request: StopRequest, presence: Presence | None) -> bool:
    """
    Tell whether nobody is there to be drained, and never was: the first deploy to this host.

    Where a process or a registration was ever seen, its absence may be a crash, and a
    supervisor about to start it again: then it is drained as any other.
    """
    if not request.if_present or presence is None or not presence.nobody:
        return False
    drain, name = known.drain, known.instance.name
    if known.process.app is not None or drain.process is not None:
        return False
    seen = (known.journal.registration(name, view.name) for view in known.registries)
    first = not drain.id or drain.outcome is Outcome.ABSENT
    return first and all(one is None for one in seen)


def ask_all(known: Knowledge, submit: Submit, wait: float) -> dict[str, Look]:
    """Ask each registry for its word now; return those that have come within *wait* seconds."""

    def ask(view: RegistryView) -> tuple[str, Look]:
        return view.name, view.registry.look()

    questions = [partial(ask, view) for view in known.registries]
    found = _answers(known, submit, questions, wait)
    return dict(one for one in found if not isinstance(one, AgentError))


def take_in(known: Knowledge, found: FirstLook) -> None:
    """
    Write down what was seen before the drain. Raises JournalError.

    Raises Refused, too, where that is what was found; what was shown is remembered then.
    """
    if found.refusal is not None:
        known.was_shown(found.looks)
        raise found.refusal
    if _is_another(known, found.presence):
        forget(known)
    if found.nobody:
        known.process.presence = found.presence
    for view in known.registries:
        view.begin_drain(is_alone=view.name in found.alone)
        look = found.looks.get(view.name)
        if look is not None:
            note(known, view, look)


def _is_another(known: Knowledge, presence: Presence | None) -> bool:
    """Tell whether the process that is there may be another than the registries have shown."""
    if presence is None or presence.replaced:
        return True
    drain, app = known.drain, known.process.app
    if drain.phase is Phase.RESTORING and not _are_one(app, drain.process):
        return True  # it came while the one before was put back
    return app is None and presence.running is not None


def _are_one(app: Process | None, other: Process | None) -> bool:
    """Tell whether two sights are of one process, of which some workers may have changed."""
    if app is None or other is None:
        return app is other
    shared = set(app.pids) & set(other.pids) or set(app.sockets) & set(other.sockets)
    return bool(shared) or app == other


def _examine(
    known: Knowledge, view: RegistryView, request: StopRequest
) -> tuple[str, Look, AgentError | None]:
    """Return how a registry has the instance, and what speaks against taking it out there."""
    try:
        look = view.registry.look()
    except UnrecognisedError as e:
        if view.name in request.vouch:
            raise  # as it would be waited for, if it were not vouched for
        raise NotRecognised(known.instance.name, view.name, e) from e
    if look.listed and view.name in request.vouch:
        return view.name, look, StillListed(known.instance.name, view.name)
    if look.listed and not request.force:
        try:
            known.guard.check(view.registry, listed=True)
        except AgentError as e:
            return view.name, look, e
    return view.name, look, None


def _find_others(known: Knowledge, view: RegistryView) -> str:
    check_alone(known, view)
    return view.name


def _refuse_unseen(
    known: Knowledge, submit: Submit, request: StopRequest, found: FirstLook
) -> None:
    """Raise NeverSeen where a registry does not show the instance, and never has."""
    excused = known.may_be_absent | set(request.vouch)
    is_another = _is_another(known, found.presence)
    unseen = [
        view
        for view in known.registries
        if view.name not in excused and (is_another or not view.seen)
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
        try:
            submit(partial(ask, question))
        except AgentError as e:
            answered.put(e)
    end = known.clock.now() + wait
    for _ in questions:
        try:
            yield answered.get(timeout=max(0.0, end - known.clock.now()))
        except Empty:
            return
