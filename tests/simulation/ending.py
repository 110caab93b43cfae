"""The end of a world: all faults end, somebody sees to what people did, and all is judged."""

from typing import TYPE_CHECKING

from deregister_agent.model import OnDeadline, Phase, RestoreWhen
from tests.simulation.life import INSTANCE

if TYPE_CHECKING:
    from tests.simulation.world import World


def all_is_well(world: "World") -> None:
    """End all faults; somebody undoes what people did, and asks for what the policy leaves."""
    world.full_until = 0.0
    world.start_app()
    if world.agent_up is None:
        world.timeline.after(0.5, lambda: all_is_well(world))
        return
    world.say("all is well from now on")
    world.app.renamed = False  # somebody has corrected its configuration
    policy, phase = world.plan.policy, world.loop.drain.phase
    if phase is Phase.SERVING:
        _see_to_what_is_lost(world)
        return
    _lift_marks(world)
    by_itself = {
        Phase.GONE: policy.restore is RestoreWhen.WHEN_READY,
        Phase.EXPIRED: world.loop.drain.on_deadline is OnDeadline.RESTORE,
    }
    if not by_itself.get(phase):
        world.start_traffic()
    world.timeline.after(4.0, lambda: _list_what_nobody_will(world))


def _lift_marks(world: "World") -> None:
    """Let operators end what they have out, but where it was so before the drain."""
    for registry in world.registries:
        if registry.out_by and registry.marked_before is not True:
            registry.set_mark("")


def _see_to_what_is_lost(world: "World") -> None:
    """Let somebody put back what was lost in service: the agent, if they ask it."""
    if world.presence.puts_back:
        world.start_traffic()
        world.checks.serving.asked_to_put_back()
        world.timeline.after(7.0, lambda: _lift_marks(world))
        world.timeline.after(8.0, lambda: _list_what_nobody_will(world))
    else:
        _lift_marks(world)
        _list_what_nobody_will(world)


def _list_what_nobody_will(world: "World") -> None:
    """Register the app where the agent has nothing to restore from."""
    for registry in world.registries:
        kept = world.journal.snapshot(INSTANCE.name, registry.name)
        here = (registry.told is not None and not registry.held_out) or (
            registry.names.misnamed and registry.elsewhere
        )
        missing = not here and not registry.names.may_be_absent
        if missing and (kept is None or world.phase is Phase.SERVING):
            registry.put(world.app.registration())


def judge_end(world: "World", decisions: dict[str, int]) -> None:
    """Judge where the world ends, long after the last fault."""
    if world.phase is not Phase.SERVING:
        world.broken(f"left out of service: {world.phase}: {world.loop.status().blocking}")
    for registry in world.registries:
        by_name = registry.listed or registry.listed_elsewhere or registry.names.may_be_absent
        if not by_name and not registry.shown_out_by:
            world.broken(f"left out of service: {registry.name} does not list it")
    _judge_announcements(world, decisions)


def _judge_announcements(world: "World", decisions: dict[str, int]) -> None:
    pending = world.journal.pending_announcements()
    if pending:
        world.broken(f"never announced: {[one.event.id for one in pending]}")
    sent = {event for ids in world.platform.ids.values() for event in ids}
    said = [one for one in world.delivered_announcements() if one not in sent]
    if said:
        world.broken(f"noted as announced, and the platform never heard it: {said}")
    for kind, ids in world.platform.ids.items():
        if len(ids) > decisions.get(kind, 0):
            world.broken(f"{kind} has come with more ids than there were decisions: {ids}")
