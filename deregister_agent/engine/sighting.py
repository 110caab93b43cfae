"""What one look has shown: from what the loop knows to the facts that decide."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deregister_agent.engine.quiet_window import QuietWindow, lateness, quiet_for, quiet_since
from deregister_agent.engine.registry_view import Word
from deregister_agent.model import Phase, Sighting

if TYPE_CHECKING:
    from deregister_agent.engine.instance_loop import InstanceLoop

ARRIVES = 0.2  # seconds in which the app has taken in what was sent to it


def sighting(loop: "InstanceLoop") -> Sighting:
    """Say what is known now. Whatever is not known is left out."""
    exited = loop.process.exited and loop.process.asked >= loop.since
    words = _words(loop, _not_before(loop))
    known = [word for word in words if word is not None]
    all_known = len(known) == len(words)
    return Sighting(
        acknowledged=all(view.acknowledged is not None for view in loop.registries),
        listed=_is_listed(loop),
        unlisted=all_known and not any(word.listed for word in known),
        withdrawn=all_known and not any(word.listed or word.awaited for word in known),
        restored=all_known and all(word.listed for word in known),
        quiet_for=_quiet(loop),
        exited=exited,
        replaced=exited and loop.process.successor is not None,
        ready=is_ready(loop),
        refused=any(view.refused is not None for view in loop.registries),
    )


def is_ready(loop: "InstanceLoop") -> bool:
    """Tell whether the app's readiness checks pass; without any, start-traffic is believed."""
    return all(check.ready for check in loop.ready)


def quiet_windows(loop: "InstanceLoop") -> Sequence[QuietWindow]:
    """
    Return what shows that the app is quiet: its probes, or that there is no app any more.

    One that has exited has nothing in hand. It must stay away for as long as an app
    must be quiet: a supervisor may be about to start it again, and what it starts
    has not been drained.
    """
    if loop.process.exited and loop.process.successor is None:
        return [loop.process.window]
    return [probe.window for probe in loop.probes]


def clear(loop: "InstanceLoop") -> float | None:
    """
    Return from when on the app shows all that old routes have brought; None if that is not known.

    What one brought in its last moment has yet to reach the app, and to be counted there.
    """
    since = [view.clear for view in loop.registries if view.clear is not None]
    if len(since) < len(loop.registries):
        return None
    return max(since, default=0.0) + min(ARRIVES, loop.policy.quiet)


def _quiet(loop: "InstanceLoop") -> float | None:
    """Return for how long the app has been quiet, and was when old routes had ended."""
    windows, since = quiet_windows(loop), clear(loop)
    if loop.drain.phase is not Phase.DRAINING or since is None:
        return None
    return quiet_for(windows) if all(window.until >= since for window in windows) else None


def _not_before(loop: "InstanceLoop") -> float:
    """
    Return how fresh the registries' words must be to count.

    "Drained" rests on words asked for after the app had been quiet for long
    enough: an older one may have been overtaken by a new registration.
    """
    if loop.drain.phase is Phase.GONE:
        return loop.since
    windows = quiet_windows(loop)
    quiet, began = _quiet(loop), quiet_since(windows)
    if quiet is not None and began is not None and quiet >= loop.policy.quiet:
        return began + loop.policy.quiet + lateness(windows)
    return 0.0


def _words(loop: "InstanceLoop", not_before: float) -> list[Word | None]:
    for view in loop.registries:
        too_old = view.word is not None and view.word.asked < not_before
        if too_old and view.look_error is None:
            view.look_again.now()
    return [view.says(not_before) for view in loop.registries]


def _is_listed(loop: "InstanceLoop") -> bool:
    """
    Tell whether a registry lists the instance that is under drain.

    After "drained", whoever is listed may already be the next version: the
    process is looked at once more, and after the word, before it is believed.
    """
    words = [view.says(0.0) for view in loop.registries]
    asked = [word.asked for word in words if word is not None and word.listed]
    if not asked:
        return False
    if loop.drain.phase is Phase.DRAINED and loop.process.asked < max(asked):
        loop.process.look_now()
        return False
    return True
