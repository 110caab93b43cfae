"""What one look has shown: from what the loop knows to the facts that decide."""

from deregister_agent.engine.knowledge import Knowledge
from deregister_agent.engine.presence import is_back, is_left_alone, is_out
from deregister_agent.engine.quiet_window import lateness, quiet_for, quiet_since
from deregister_agent.engine.registry_view import RegistryView, RegistryWord
from deregister_agent.engine.standing import is_fresh, is_working, refresh
from deregister_agent.model import Outcome, Phase, Sighting


def sighting(known: Knowledge) -> Sighting:
    """Return the facts that are known now. Whatever is not known is left out."""
    process, drain = known.process, known.drain
    exited = process.exited and process.asked >= known.since
    came = drain.outcome is Outcome.ABSENT and process.asked >= known.since
    words = _words(known, _not_before(known))
    unlisted = all(is_out(known, view, word) for view, word in words)
    return Sighting(
        acknowledged=all(_is_acknowledged(known, view, word) for view, word in words),
        listed=_is_listed(known),
        unlisted=unlisted,
        withdrawn=unlisted and not any(word.awaited for _, word in words if word is not None),
        restored=all(is_back(known, view, word) for view, word in words),
        quiet_for=_quiet(known),
        exited=exited,
        left=exited and bool(process.left),
        replaced=process.running is not None if came else exited and process.successor is not None,
        nobody=drain.if_present and process.is_nobody,
        working=is_working(known),
        ready=known.is_ready,
        refused=any(view.refused is not None for view in known.registries),
    )


def _quiet(known: Knowledge) -> float | None:
    """Return for how long the app has been quiet, and was so when old routes had ended."""
    windows, since = known.quiet_windows(), known.clear()
    if known.drain.phase is not Phase.DRAINING or since is None:
        return None
    if not all(window.until >= since for window in windows):
        return None
    quiet = quiet_for(windows)
    if quiet is not None and quiet >= known.policy.quiet and not is_fresh(known):
        refresh(known)  # not sooner: a look under way would hold up the one that decides
        return None
    return quiet


def _not_before(known: Knowledge) -> float:
    """
    Return how fresh the registries' words must be to count.

    "Drained" rests on words asked for after the app had been quiet for long
    enough: an older one may have been overtaken by a new registration.
    """
    if known.drain.phase is Phase.GONE:
        return known.since
    windows = known.quiet_windows()
    quiet, began = _quiet(known), quiet_since(windows)
    if quiet is not None and began is not None and quiet >= known.policy.quiet:
        return began + known.policy.quiet + lateness(windows)
    return 0.0


def _is_acknowledged(known: Knowledge, view: RegistryView, word: RegistryWord | None) -> bool:
    """Tell whether a registry has taken the action, or need not."""
    if view.acknowledged is not None:
        return True
    if known.drain.phase is Phase.RESTORING:
        if word is None or word.asked < known.since:
            return False  # what was so before the wish may have changed since
        return is_left_alone(known, view, word)
    return view.name in known.drain.vouched and is_out(known, view, word)


def _words(known: Knowledge, not_before: float) -> list[tuple[RegistryView, RegistryWord | None]]:
    for view in known.registries:
        too_old = view.word is not None and view.word.asked < not_before
        if too_old and view.look_error is None:
            view.look_again.now()
    return [(view, view.says(not_before)) for view in known.registries]


def _is_listed(known: Knowledge) -> bool:
    """
    Tell whether a registry lists the instance that is under drain.

    After "drained", whoever is listed may already be the next version: the
    process is looked at once more, and after the word, before it is believed.
    """
    words = [view.says(0.0) for view in known.registries]
    asked = [word.asked for word in words if word is not None and word.listed]
    if not asked:
        return False
    if known.drain.phase is Phase.DRAINED and known.process.asked < max(asked):
        known.process.look_now()
        return False
    return True
