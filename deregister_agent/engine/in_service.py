"""Whether "serving" holds now: by what registries say after the question, never by the phase."""

import logging
from collections.abc import Mapping, Sequence

from deregister_agent.engine.knowledge import Knowledge
from deregister_agent.engine.new_record import StartRequest
from deregister_agent.engine.presence import (
    is_left_alone,
    is_needed,
    may_put_back,
    never_seen,
    note_in_drain,
    note_served,
)
from deregister_agent.engine.registry_view import RegistryView
from deregister_agent.engine.view_context import FRESH
from deregister_agent.errors import CannotRestore
from deregister_agent.host.clock import iso
from deregister_agent.model import Listing, Look, Phase

log = logging.getLogger(__name__)


def outdated(known: Knowledge, since: float) -> list[RegistryView]:
    """Return who has not answered a question of after *since*, and within the last seconds."""
    oldest = known.clock.now() - FRESH
    return [
        view
        for view in known.registries
        if is_needed(known, view)
        if view.looked < since or (view.look_error is None and view.age.as_of < oldest)
    ]


def unheard(known: Knowledge, since: float) -> list[str]:
    """Return why it cannot be said that the instance takes traffic: who has not told of late."""
    late = outdated(known, since)
    return [
        str(view.look_error or f"{view.name} has not been asked of late whether it lists it")
        for view in known.registries
        if view in late or (is_needed(known, view) and view.word is None)
    ]


def unlisted(known: Knowledge) -> list[str]:
    """Return which registries send no work to the instance in service, and whose turn it is."""
    if known.drain.phase is not Phase.SERVING:
        return []
    views = [view for view in known.registries if is_needed(known, view)]
    return [line for view in views if (line := _not_listed(known, view))]


def silent(known: Knowledge) -> list[str]:
    """Return which registries do not tell whether they list the instance, and why."""
    views = [view for view in known.registries if is_needed(known, view)]
    return [str(view.look_error) for view in views if view.look_error is not None]


def watch_over(known: Knowledge) -> None:
    """
    Write down what registries show of an instance in service, and log where one does not.

    Once when it is not listed everywhere, and once when it is again. Raises JournalError.
    """
    note_served(known)
    note_in_drain(known)
    said = tuple(unlisted(known))
    if bool(said) is not known.is_missed and known.drain.phase is Phase.SERVING:
        known.is_missed = bool(said)
        if said:
            log.warning("%s: in service, and: %s", known.instance, "; ".join(said))
        else:
            log.info("%s: every registry lists it again", known.instance)


def is_served(known: Knowledge, since: float) -> bool | None:
    """
    Tell whether every registry lists the instance in service, by words from after *since*.

    None: somebody has not told of late, or does not list it (yet). False: whoever does not
    list it had it out before as well, or somebody else has it out: that is for them to end.
    """
    if unheard(known, since):
        return None
    if not unlisted(known):
        return True
    return False if all(_is_settled(known, view) for view in known.registries) else None


def _is_settled(known: Knowledge, view: RegistryView) -> bool:
    word = view.word
    return not is_needed(known, view) or (
        word is not None and (word.listed or bool(word.look.out_by))
    )


def lost(known: Knowledge, looks: Mapping[str, Look]) -> list[RegistryView]:
    """Return which registries have had the instance, and lack it by their *looks*."""
    return [
        view
        for view in known.registries
        if view.name in looks and _lacks(view, looks[view.name])
        if view.owed or may_put_back(known, view)
    ]


def _lacks(view: RegistryView, look: Look) -> bool:
    """Tell whether a registry has lost what it had, or may have by an older journal."""
    if look.listing is Listing.ABSENT:
        return view.seen or view.owed
    return look.listing is Listing.OUT and view.owed and not look.out_by


def refuse_to_restore(known: Knowledge, views: Sequence[RegistryView], *, anyway: bool) -> None:
    """Raise CannotRestore where what *views* have lost must not, or cannot, be put back."""
    names = ", ".join(view.name for view in views)
    if not known.ready and not anyway:
        raise CannotRestore(
            known.instance.name,
            names,
            "no readiness check tells whether the app can take traffic; see to it, and then "
            "restore it anyway, or add one [[instance.ready]]",
        )
    for view in views:
        missing = view.registry.lost_by_restoring(view.kept) if view.kept is not None else ""
        if missing:
            raise CannotRestore(
                known.instance.name,
                view.name,
                f"putting it back would not bring back {missing}: restart the app, so that it "
                "registers itself, or set definition to a file that has them",
            )


def restore_detail(
    known: Knowledge, views: Sequence[RegistryView], asked: StartRequest
) -> dict[str, object]:
    """Return who asked to put back what *views* have lost, and from when it comes."""
    said = [_put_back(known, view) for view in views]
    return {"asked_by": asked.asked_by, "reason": asked.reason, "put_back": said}


def _put_back(known: Knowledge, view: RegistryView) -> str:
    shown = known.journal.registration(known.instance.name, view.name)
    if view.kept is None or shown is None:
        return f"{view.name}: by its options, as no registration was seen there"
    return f"{view.name}: as it was at {iso(shown.wall)}"


def _not_listed(known: Knowledge, view: RegistryView) -> str:
    word, name = view.word, known.instance.name
    if word is None or word.listed:
        return ""
    if by := word.look.out_by:
        before = " as before the drain," if is_left_alone(known, view, word) else ""
        return f"{view.name} has it out,{before} by another hand ({by}): theirs to end"
    if word.look.listing is Listing.OUT:
        return f"{view.name} has it, and sends it no work: see what it is waiting for there"
    if not (view.seen or view.owed):
        return never_seen(view)
    return f"{view.name} does not list it: to put it back: deregister-agent restore {name}"
