"""What a loop asks of its registries, phase by phase: withdraw, restore, keep."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from deregister_agent.engine.registry_view import RegistryView
from deregister_agent.engine.sighting import is_ready
from deregister_agent.errors import AgentError
from deregister_agent.model import Phase
from deregister_agent.ports import Registry

if TYPE_CHECKING:
    from deregister_agent.engine.instance_loop import InstanceLoop


def act(loop: "InstanceLoop") -> None:
    """Ask for the phase's action wherever it has yet to be done."""
    ask, now = action(loop), loop.clock.now()
    if ask is not None:
        for view in loop.registries:
            view.act(partial(ask, loop, view), now)
    if is_ready(loop):
        for view in loop.registries:
            view.keep(partial(_keep, loop, view), now)


def action(loop: "InstanceLoop") -> "Callable[[InstanceLoop, RegistryView], None] | None":
    """Return what is asked of the registries now; None while nothing is."""
    match loop.drain.phase:
        case Phase.WITHDRAWING:
            return _take_out
        case Phase.EXPIRED if _may_hold_out(loop):
            return _take_out
        case Phase.RESTORING if is_ready(loop):
            return _put_back
        case _:
            return None


def keeping(loop: "InstanceLoop") -> frozenset[str]:
    """Return the registries that have to be told again and again that the app is ready."""
    return frozenset(view.name for view in loop.registries if view.registry.keeps)


def _may_hold_out(loop: "InstanceLoop") -> bool:
    """
    Tell whether an expired drain may still withdraw: only from the process it was about.

    After "expired" was announced the platform may have replaced it, and then
    whoever registers is the next version: so the process must have been seen
    there, if it ever was, after the registries said that they list it.
    """
    words = [word for view in loop.registries if (word := view.says(0.0)) and word.listed]
    if loop.process.asked < max([loop.since, *(word.asked for word in words)]):
        loop.process.begin()
        return False
    presence = loop.process.presence
    if presence is None or loop.process.exited:
        return False
    return presence.running is not None or loop.process.app is None  # None: never seen


# --- on threads of their own: the phase may be another one by the time they run ---


def _take_out(loop: "InstanceLoop", view: RegistryView) -> None:
    """Keep what restoring needs, then withdraw."""
    registry, name = view.registry, loop.instance.name
    if loop.drain.guarded:
        loop.guard.check(registry)
    if not _taking_out(loop):
        return
    if loop.journal.snapshot(name, view.name) is None or _surely_lists(registry):
        snapshot = registry.snapshot()
        if snapshot is not None:
            loop.journal.keep_snapshot(name, view.name, snapshot)
    if _taking_out(loop):
        registry.withdraw()


def _taking_out(loop: "InstanceLoop") -> bool:
    """Tell whether that has not been overtaken while the registry was slow to answer."""
    return loop.drain.phase in {Phase.WITHDRAWING, Phase.EXPIRED}


def _surely_lists(registry: Registry) -> bool:
    """Tell whether it lists the instance; a registry that cannot say must not hold up withdraw."""
    try:
        return registry.lists()
    except AgentError:
        return False


def _put_back(loop: "InstanceLoop", view: RegistryView) -> None:
    """Restore from what was kept."""
    view.registry.restore(loop.journal.snapshot(loop.instance.name, view.name))


def _keep(loop: "InstanceLoop", view: RegistryView) -> float:
    """Prolong what was restored."""
    if loop.drain.phase not in {Phase.SERVING, Phase.RESTORING}:
        return 0.0  # overtaken by stop-traffic, which withdraws once this has returned
    return view.registry.keep(loop.journal.snapshot(loop.instance.name, view.name))
