"""One life of the agent: the real loop and outbox, on the simulated host."""

from random import Random
from typing import TYPE_CHECKING

from deregister_agent.engine.instance_loop import InstanceLoop
from deregister_agent.engine.knowledge import AgentContext, InstanceSetup
from deregister_agent.engine.outbox import Outbox
from deregister_agent.journal.journal import Decision, Journal
from deregister_agent.model import Instance, Phase
from tests.simulation.engine import Post, Ticker

if TYPE_CHECKING:
    from tests.simulation.world import World

INSTANCE = Instance("web-1", "web", "127.0.0.1", 8080)


def begin_life(world: "World", journal: Journal) -> InstanceLoop:
    """Put the agent together as agent.py does, and wake it."""
    host = world.host
    ticker, mail = Ticker(host, "the loop"), Ticker(host, "the outbox")

    def written(decision: Decision, _: int) -> None:
        if decision.drain.phase is Phase.DRAINING and world.plan.freezes is not None:
            world.timeline.after(world.plan.freezes, lambda: world.freeze_agent(1.5))
        if decision.drain.phase is Phase.DRAINING and world.plan.dies is not None:
            world.timeline.after(world.plan.dies, world.busy_app_dies)
        world.phase = decision.drain.phase
        mail.wake()
        world.checks.decided(decision)

    chance = Random(f"agent {world.seed} {world.now}")
    context = AgentContext(journal, host, host.submit, chance, written, world.new_id)
    platform = world.platform
    setup = InstanceSetup(
        INSTANCE,
        world.plan.policy,
        world.registries,
        [world.probe],
        world.finder,
        world.ready,
        {platform.name: platform.announces},
        frozenset(one.name for one in world.registries if one.names.may_be_absent),
    )
    loop = InstanceLoop(setup, context, ticker.wake)
    outbox = Outbox(context, mail.wake)
    outbox.add(INSTANCE.name, {platform.name: platform}, loop.stands_by)
    loop._calls._ended = Post(host, ticker.wake)  # type: ignore[assignment]
    outbox._calls._ended = Post(host, mail.wake)  # type: ignore[assignment]
    ticker.tick, mail.tick = loop.tick, outbox.tick
    ticker.wake()
    mail.wake()
    return loop
