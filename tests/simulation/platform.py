"""The release platform: it is told, and it kills and starts versions."""

from typing import TYPE_CHECKING

from deregister_agent.errors import NotifyError
from deregister_agent.model import Announcement, Event, Phase
from deregister_agent.ports import Notifier
from tests.simulation.checks import Kill

if TYPE_CHECKING:
    from tests.simulation.world import World


class FakePlatform(Notifier):
    """The release platform: a notifier, and the hand that kills and starts versions."""

    name = "platform"
    announces = frozenset(Announcement)

    def __init__(self, world: "World") -> None:
        self.world = world
        self.ids: dict[str, set[str]] = {}
        self.down_until = 0.0
        self._may_kill: str | None = None

    def announce(self, event: Event) -> None:
        """Take it, or not, or take it and not say so."""
        world = self.world
        if world.now < self.down_until or world.fault(world.plan.error_rate):
            raise NotifyError(self.name, "announce it", "connection refused")
        world.checks.announced(event)
        known = self.ids.setdefault(event.kind, set())
        if event.id not in known:
            known.add(event.id)
            self._act(event)
        if world.fault(world.plan.error_rate):
            raise NotifyError(self.name, "announce it", "the answer was cut off")

    def _act(self, event: Event) -> None:
        if event.kind in {Announcement.DRAINED, Announcement.FORCED}:
            self._may_kill = event.id
            if self.world.plan.platform_kills:
                delay = self.world.chance.uniform(0.0, 1.0)
                if self.world.plan.deaf:  # slow: the word may be taken back before it acts
                    delay += self.world.chance.uniform(0.5, 3.0)
                self.world.timeline.after(delay, lambda: self._kill(event))
        elif event.kind in {Announcement.TAKEN_BACK, Announcement.SERVING}:
            self._may_kill = None

    def _kill(self, event: Event) -> None:
        world = self.world
        if self._may_kill != event.id and not world.plan.deaf:
            return
        if self._may_kill == event.id:
            self._may_kill = None
        victim = world.app.process
        if victim is not None and victim == event.process:
            by_its_word = event.drain == world.loop.drain.id
            if by_its_word and world.phase not in {Phase.SERVING, Phase.RESTORING}:
                world.checks.killed = Kill(world.now, victim)
            world.app.exit("killed by the platform")
        world.timeline.after(world.chance.uniform(0.05, 1.5), world.start_app)
        if world.chance.random() < 0.5:
            world.timeline.after(world.chance.uniform(0.5, 3.0), world.start_traffic)
