"""Whether "drained" holds now: a standing answer, true when it is given or not given at all."""

from deregister_agent.engine.knowledge import Knowledge
from deregister_agent.engine.presence import is_out, never_seen
from deregister_agent.engine.probe_view import ProbeView
from deregister_agent.engine.registry_view import RegistryView
from deregister_agent.engine.view_context import FRESH
from deregister_agent.model import Outcome, Phase


def doubts(known: Knowledge) -> list[str]:
    """
    Return why it cannot be said now that the instance is drained; empty where it can.

    In "drained" each registry must have said within the last seconds that it sends
    nothing, and each probe that nothing is in hand and nothing has begun. Whatever is
    older says nothing: the agent may have been stopped in between, or started anew. In
    "gone" the word is about the process that has exited, until another is in its place.
    A probe that says work is in hand outranks an exit in each of them.
    """
    match known.drain.phase:
        case Phase.DRAINED:
            oldest = known.clock.now() - FRESH
            lines = [
                line for view in known.registries if (line := _of_registry(known, view, oldest))
            ]
            if known.drain.outcome in {Outcome.APP_EXITED, Outcome.ABSENT}:
                return lines + _of_process(known, oldest) + works_on(known)
            return lines + [line for view in known.probes if (line := _of_probe(known, view))]
        case Phase.GONE:
            return _of_successor(known)
        case _:
            return []


def refresh(known: Knowledge) -> None:
    """Have everything asked again that "drained" rests on and that has not been asked of late."""
    now = known.clock.now()
    for view in known.registries:
        if view.age.as_of < now - FRESH:
            view.look_after(now)
    for probe in known.probes:
        if probe.age.as_of < now - FRESH:
            probe.read_at(now)
    if known.process.age.as_of < now - FRESH:
        known.process.read_at(now)


def is_fresh(known: Knowledge) -> bool:
    """
    Tell whether everybody on whose word "drained" would rest has answered of late.

    An agent that was stopped must not decide by what it had been told before.
    """
    oldest = known.clock.now() - FRESH
    asked = [one for one in known.registries if not is_out(known, one, None)]
    return all(view.age.as_of >= oldest for view in (*known.quiet_views(), *asked))


def is_working(known: Knowledge) -> bool:
    """
    Tell whether the drained process has lasting work again.

    Whoever works may already be the next version: the process is looked at once more,
    and after the work was seen, before it is believed.
    """
    if known.drain.phase is not Phase.DRAINED:
        return False
    seen = [view.work_again.until for view in known.probes if view.work_again.lasting]
    moments = [moment for moment in seen if moment is not None]
    if not moments:
        return False
    if known.process.asked < max(moments):
        known.process.look_now()
        return False
    return True


def _of_registry(known: Knowledge, view: RegistryView, oldest: float) -> str:
    word = view.says(0.0)
    if word is None and is_out(known, view, word):
        return ""  # somebody vouches for it
    if view.look_error is not None:
        return str(view.look_error)
    if word is None or view.age.as_of < oldest:
        return f"{view.name} has not been asked of late whether it still does not list it"
    if word.listed:
        return f"{view.name} lists it again"
    if not is_out(known, view, word):
        return never_seen(view)
    return "; ".join(f"{view.name}: {straggler}" for straggler in word.awaited)


def _of_probe(known: Knowledge, view: ProbeView) -> str:
    now = known.clock.now()
    if view.error is not None:
        ago = now - known.drain.since
        return (
            f"it was drained {ago:.0f} s ago, and since then it cannot be told what the app has in "
            f"hand ({view.error}): if it was killed, go on"
        )
    if view.reading is None or view.asked is None or view.age.as_of < now - FRESH:
        return f"{view.name} has not been asked of late what is in hand"
    if busy := view.in_hand:
        return f"work has come again since it was drained: {busy} ({view.name})"
    last = view.work_again.until
    if last is not None and view.asked - last < known.policy.quiet:
        return f"work has come since it was drained: some {now - last:.1f} s ago ({view.name})"
    return ""


def _of_process(known: Knowledge, oldest: float) -> list[str]:
    if known.process.age.as_of < oldest:
        return ["it has not been looked of late whether the app is still away"]
    away = known.process.exited or known.process.is_nobody
    if known.process.left:
        return [f"somebody of the app lives on: {known.process.left}"]
    return [] if away else ["it is not known whether the app is still away"]


def works_on(known: Knowledge) -> list[str]:
    """Return what probes say to be in hand though the process has exited, or have yet to say."""
    lines = []
    for view in known.probes:
        if busy := view.in_hand:
            lines.append(
                f"its process has exited, and there is work in hand: {busy} ({view.name}): "
                "somebody of it works on, or the next version has begun"
            )
        elif view.reading is None and view.error is None:
            lines.append(f"the agent was restarted: {view.name} has not been asked yet")
    return lines


def _of_successor(known: Knowledge) -> list[str]:
    """Return why "drained" is no answer any more about whoever is there now."""
    presence = known.process.presence
    if presence is None:
        return ["the agent was restarted: it has yet to look whether another process is there"]
    running = presence.running
    lines = [
        f"{view.name} lists it"
        for view in known.registries
        if (word := view.says(0.0)) is not None and word.listed
    ]
    if running is not None and running != known.drain.process:
        return [*lines, "another process is in its place"]
    return lines + works_on(known)
