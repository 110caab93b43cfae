"""What a loop asks of its registries, phase by phase: withdraw, restore, keep."""

from collections.abc import Callable
from functools import partial

from deregister_agent.engine import presence
from deregister_agent.engine.knowledge import Knowledge
from deregister_agent.engine.registry_view import RegistryView
from deregister_agent.errors import AgentError
from deregister_agent.model import DrainKind, Phase
from deregister_agent.ports import Registry


def act(known: Knowledge) -> None:
    """Ask for the phase's action wherever it has yet to be done."""
    ask, now = action(known), known.clock.now()
    if ask is not None:
        for view in known.registries:
            view.act(partial(ask, known, view), now)
    keep(known)


def keep(known: Knowledge) -> None:
    """Prolong what would run out, wherever that is due."""
    if known.is_ready:
        for view in known.registries:
            view.keep(partial(_keep, known, view), known.clock.now())


def action(known: Knowledge) -> Callable[[Knowledge, RegistryView], None] | None:
    """Return what is asked of the registries now; None while nothing is."""
    match known.drain.phase:
        case Phase.WITHDRAWING if known.drain.announced is None:
            return _take_out
        case Phase.WITHDRAWING | Phase.EXPIRED if _may_hold_out(known):
            return _take_out
        case Phase.RESTORING if known.is_ready:
            return _put_back
        case _:
            return None


def keeping(known: Knowledge) -> frozenset[str]:
    """Return the registries that have to be told again and again that the app is ready."""
    return frozenset(view.name for view in known.registries if view.registry.keeps)


def _may_hold_out(known: Knowledge) -> bool:
    """
    Tell whether a drain may still withdraw whose end was announced: only its own process.

    After "expired", or a "drained" that was taken back, the platform may have replaced it, and
    then whoever registers is the next version: so the process must have been seen
    there, if it ever was, after the registries said that they list it.
    """
    words = [word for view in known.registries if (word := view.says(0.0)) and word.listed]
    if known.process.asked < max([known.since, *(word.asked for word in words)]):
        known.process.begin()
        return False
    presence = known.process.presence
    if presence is None or known.process.exited:
        return False
    return presence.running is not None or known.process.app is None  # None: never seen


# --- on threads of their own: the phase may have changed by the time they run ---


def _take_out(known: Knowledge, view: RegistryView) -> None:
    """Keep what restoring needs, then withdraw."""
    registry, drain = view.registry, known.drain.id
    presence.check(known, view)
    if known.drain.guarded:
        known.guard.check(registry)
    if not _taking_out(known, drain):
        return
    if not view.has_snapshot or _surely_lists(registry):
        snapshot = registry.snapshot()
        if snapshot is not None:
            known.journal.keep_snapshot(known.instance.name, view.name, snapshot)
            presence.note_found(known, view, snapshot)
    if _taking_out(known, drain):
        registry.withdraw()


def _taking_out(known: Knowledge, drain: str) -> bool:
    """
    Tell whether that *drain* still wants the instance out: a slow answer may come too late.

    Also for the next drain, which has to ask for itself.
    """
    now = known.drain
    return now.id == drain and now.phase in {Phase.WITHDRAWING, Phase.EXPIRED}


def _surely_lists(registry: Registry) -> bool:
    """Tell whether *registry* lists the instance; not knowing must not hold up withdraw."""
    try:
        return registry.lists()
    except AgentError:
        return False


def _put_back(known: Knowledge, view: RegistryView) -> None:
    """
    Restore from what was kept; nothing where there was nothing.

    A call that comes late, when the instance serves already and the snapshot has gone, must not
    go by the last good registration where somebody has the instance out: that would lift it.
    """
    kept = known.journal.snapshot(known.instance.name, view.name)
    if known.drain.phase is not Phase.RESTORING or not presence.is_waited_for(known, view):
        return
    if kept is not None and known.drain.kind is not DrainKind.RESTORE:
        view.registry.restore(kept)
        return
    if not view.registry.look().out_by:  # else it is out by another hand, and not for us to lift
        view.registry.restore(known.registration(view))


def _keep(known: Knowledge, view: RegistryView) -> float:
    """Prolong what was restored."""
    if known.drain.phase not in {Phase.SERVING, Phase.RESTORING}:
        return 0.0  # overtaken by stop-traffic, which withdraws once this has returned
    return view.registry.keep(known.registration(view))
