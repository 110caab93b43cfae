"""
Whether a registry's absence counts: only of what was seen present.

A registry that has never shown the instance says nothing by not showing it: perhaps it is
looked for in the wrong place, under the wrong name, in the wrong spelling. What was seen
counts for as long as the process that was seen is there, and after that only while it was
we who took it out.
"""

import json
from collections.abc import Mapping

from deregister_agent.engine.knowledge import Knowledge
from deregister_agent.engine.registry_view import ACTING, RegistryView, RegistryWord
from deregister_agent.errors import (
    AgentError,
    NeverSeen,
    NotRecognised,
    OtherRegistrations,
    UnrecognisedError,
)
from deregister_agent.journal.registrations import Registration
from deregister_agent.model import DrainKind, Listing, Look, Outcome, Phase, Snapshot
from deregister_agent.ports import Registry


def is_excused(known: Knowledge, view: RegistryView) -> bool:
    """Tell whether a registry that does not show the instance is taken at its word."""
    nobody = known.drain.if_present and known.process.is_nobody
    return nobody or view.name in known.may_be_absent or view.name in known.drain.vouched


def is_believed(known: Knowledge, view: RegistryView, look: Look) -> bool:
    """Tell whether a registry that does not list the instance is to be believed."""
    return look.listing is Listing.OUT or view.seen or is_excused(known, view)


def is_out(known: Knowledge, view: RegistryView, word: RegistryWord | None) -> bool:
    """Tell whether nothing new comes from a registry, by its *word*, or by who vouches for it."""
    if word is None:
        return view.name in known.drain.vouched and not view.sends
    return not word.listed and is_believed(known, view, word.look)


def is_waited_for(known: Knowledge, view: RegistryView) -> bool:
    """
    Tell whether a registry has to list the instance before it is in service again.

    Not one that did not have it before: because it has never shown it, or because the drain
    ended when that came out. Nor one that need not have it or was vouched for, unless it was
    withdrawn from after all. What was lost in service is put back where it had been seen,
    and is waited for there.
    """
    if view.has_snapshot:
        return True
    if known.drain.kind is DrainKind.RESTORE:
        return may_put_back(known, view)
    if view.name in known.may_be_absent.union(known.drain.vouched):
        return False
    return view.seen or (view.seen_once and not is_passed_over(known, view))


def may_put_back(known: Knowledge, view: RegistryView) -> bool:
    """Tell whether what a registry has lost in service is for us to put back, if it has had it."""
    return view.kept is not None or (view.seen and view.name not in known.may_be_absent)


def is_passed_over(known: Knowledge, view: RegistryView) -> bool:
    """Tell whether restoring goes on without a word of a registry that was not seen to have it."""
    lost_in_service = known.drain.kind is DrainKind.RESTORE
    refused = known.drain.outcome is Outcome.REFUSED
    return lost_in_service or refused or is_excused(known, view)


def is_needed(known: Knowledge, view: RegistryView) -> bool:
    """
    Tell whether the instance takes traffic only if a registry lists it, once it is in service.

    More than restoring waits for: what a drain that was refused has left as it was is not put
    back, and yet it is missing. And whoever has shown it since needs nobody to vouch any more.
    """
    return view.seen or not is_excused(known, view)


def is_back(known: Knowledge, view: RegistryView, word: RegistryWord | None) -> bool:
    """Tell whether a registry has the instance as it was before it was taken out."""
    if not is_waited_for(known, view):
        return word is not None or is_passed_over(known, view)
    return word is not None and (word.listed or is_left_alone(known, view, word))


def is_left_alone(known: Knowledge, view: RegistryView, word: RegistryWord) -> bool:
    """Tell whether somebody else has it out, and had so before: then that is for them to end."""
    if word.look.listing is not Listing.OUT or not word.look.out_by:
        return False  # where nobody else has it out, it may well be ours
    return known.drain.kind is DrainKind.RESTORE or bool(view.out_by)


def note(known: Knowledge, view: RegistryView, look: Look) -> None:
    """Write down that a registry shows the instance, where that is news. Raises JournalError."""
    if look.listing is Listing.ABSENT:
        return
    out_by = view.out_by if view.has_snapshot else look.out_by
    if view.seen and view.out_by == out_by:
        return
    known.journal.keep_registration(
        known.instance.name, view.name, Registration(view.identity, out_by, known.process.app)
    )
    view.seen, view.out_by = True, out_by


def note_found(known: Knowledge, view: RegistryView, snapshot: Snapshot) -> None:
    """Write down that there was something to take a *snapshot* of. Raises JournalError."""
    view.was_out = view.registry.was_out_by(snapshot)
    note(known, view, Look(Listing.OUT, out_by=view.was_out or view.out_by))
    view.has_snapshot = True


def note_served(known: Knowledge) -> None:
    """
    Write down what registries show of an instance in service, and the last good registration.

    Where one loses it altogether, start-traffic puts it back from that.
    """
    if known.drain.phase is not Phase.SERVING or known.process.presence is None:
        return  # not before it is known of which process a registry tells
    for view in known.registries:
        word = view.word
        if word is None or word.look.listing is Listing.ABSENT or word.asked < view.seen_from:
            continue
        news = word.listed and view.good is not None
        news = news and (not is_same(view.good, view.kept) or view.has_snapshot)
        if view.seen and view.out_by == word.look.out_by and not news:
            continue
        good = view.good if word.listed else None
        out_by, process = word.look.out_by, known.process.app
        shown = Registration(view.identity, out_by, process, good)
        known.journal.keep_registration(known.instance.name, view.name, shown)
        view.seen, view.out_by, view.kept = True, out_by, good or view.kept
        view.has_snapshot = view.has_snapshot and good is None  # of an older journal


def note_in_drain(known: Knowledge) -> None:
    """
    Write down what registries show of an instance that is withdrawn or put back.

    One may show it before the first of them lets it be withdrawn, or list it for the first
    time when it is put back, and lose it after that: then it is waited for. By whom it is out
    when it is put back says nothing of who had it out before. Raises JournalError.
    """
    if known.drain.phase not in ACTING or known.process.presence is None:
        return
    for view in known.registries:
        word = _shows(view)
        if word is None or view.seen or word.asked < view.seen_from:
            continue
        if known.drain.phase is not Phase.RESTORING or word.listed:
            note(known, view, word.look)


def is_same(one: Snapshot | None, other: Snapshot | None) -> bool:
    """Tell whether two snapshots say the same once they have been in the journal."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def forget(known: Knowledge) -> None:
    """Let nothing count that was seen of a process that has gone. Raises JournalError."""
    if any(view.seen for view in known.registries):
        known.journal.forget_registrations(known.instance.name)
    for view in known.registries:
        view.forget(known.clock.now())


def forget_untaken(known: Knowledge) -> None:
    """
    Let what was seen of a process that has exited in mid-drain count only where we took it out.

    Elsewhere it had gone before, and whoever comes back may register under another name.
    To be written down with the decision that another process is drained now.
    """
    for view in known.registries:
        if view.seen and not view.has_snapshot:
            view.forget(known.clock.now())


def counts_from(known: Knowledge, phase: Phase | None) -> Mapping[str, Registration] | None:
    """
    Return who counts as having shown the instance from *phase* on; None: who did before.

    A *phase* of None is the one that goes on, where another process has come into it.
    To be written down with the decision to enter it. In "gone" nobody does: the process
    that was seen has exited. In service those do that have it now. Who has shown it once
    is written down all the same, without counting.
    """
    match phase:
        case Phase.GONE:
            counting = []
        case Phase.SERVING:
            words = [(view, _shows(view)) for view in known.registries]
            counting = [(view, word.look.out_by) for view, word in words if word is not None]
        case Phase.WITHDRAWING | None:
            counting = [(view, view.out_by) for view in known.registries if view.seen]
        case _:
            return None
    app = known.process.app
    once = {view.name: Registration("") for view in known.registries if _is_known(view)}
    return once | {view.name: Registration(view.identity, by, app) for view, by in counting}


def _is_known(view: RegistryView) -> bool:
    """Tell whether a registry has ever shown the instance, as far as is known."""
    return view.seen or view.seen_once


def let_count(known: Knowledge, phase: Phase) -> None:
    """Let those count that counts_from() has returned for *phase*, now that it is entered."""
    for view in known.registries:
        if phase is Phase.GONE:
            view.forget(known.clock.now())
        elif phase is Phase.SERVING:
            word = _shows(view)
            view.seen_once |= view.seen
            view.seen, view.out_by = word is not None, "" if word is None else word.look.out_by


def _shows(view: RegistryView) -> RegistryWord | None:
    """Return the word of a registry if it has the instance, listed or out."""
    word = view.says(0.0)
    return None if word is None or word.look.listing is Listing.ABSENT else word


def check(known: Knowledge, view: RegistryView) -> None:
    """
    Ask a registry before it withdraws what has not been answered yet.

    Whether it has the instance, unless it was seen to; and whether it has it under other
    names too. Raises Refused, or RegistryError if it does not answer. On a thread of its own.
    """
    if not (view.seen or is_excused(known, view)):
        _check_seen(known, view)
    drain = known.drain
    if not (view.is_alone or view.name in drain.vouched):
        check_alone(known, view)
        view.is_alone = known.drain.id == drain.id  # what comes too late says nothing of the next


def check_alone(known: Knowledge, view: RegistryView) -> None:
    """Raise OtherRegistrations where a registry has the instance under other names too."""
    found = view.registry.other_registrations()
    if found:
        raise OtherRegistrations(known.instance.name, view.name, found)


def _check_seen(known: Knowledge, view: RegistryView) -> None:
    try:
        look = view.registry.look()
    except UnrecognisedError as e:
        raise NotRecognised(known.instance.name, view.name, e) from e
    if look.listing is Listing.ABSENT:
        raise NeverSeen(known.instance.name, view.name, look_alikes(view.registry))
    note(known, view, look)


def look_alikes(registry: Registry) -> list[str]:
    """Name what looks like the instance in a registry that does not show it."""
    try:
        return list(registry.look_alikes())
    except AgentError as e:
        return [f"what looks like it could not be looked for ({e})"]


def never_seen(view: RegistryView) -> str:
    """Say why the word of a registry that does not show the instance does not count."""
    return (
        f"{view.name} does not show it, and has not shown it before: it may be listed under "
        f"another name, where nobody looks; correct the options of {view.name}"
    )
