"""What must hold of "serving", of what is put back, and of who has the instance at all."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deregister_agent.model import Drain, DrainKind, Outcome, Phase, Snapshot
from tests.simulation.plan import FAULTS_END
from tests.simulation.registry import FakeRegistry

if TYPE_CHECKING:
    from tests.simulation.world import World

ANSWERED_AFTER = (0.1, 0.4, 1.0)  # seconds after the question at which somebody hears the answer
PUT_BACK_BY = 6.0  # seconds that restoring takes, the app's readiness included


@dataclass(frozen=True, slots=True)
class Question:
    """Somebody has asked whether the instance takes traffic."""

    at: float
    since: float  # the same, by the agent's clock
    life: object


class ServingChecks:
    """The invariants of being in service."""

    def __init__(self, world: "World") -> None:
        self.world = world

    # --- "serving" as it is written down ---

    def decided(self, drain: Drain) -> None:
        """Judge that the agent has just called it restored."""
        for registry in self.world.registries:
            heard, wanted = registry.known, self._is_wanted(registry, drain)
            registry.removed = None
            if not wanted or self._is_left_alone(registry, drain):
                continue
            if heard is None or not heard[1]:
                self.world.broken(f"serving, and {registry.name} had not said that it lists it")
            elif not registry.listed and registry.changed <= heard[0]:
                self.world.broken(f"serving while {registry.name} does not list it")

    def _is_wanted(self, registry: FakeRegistry, drain: Drain) -> bool:
        """Tell whether restoring has to wait for *registry*: not where it never was in service."""
        excused = registry.names.may_be_absent or registry.name in drain.vouched
        excused |= not registry.was_shown and registry.known is not None and not registry.listed
        if drain.kind is DrainKind.RESTORE:
            return registry.told is not None and registry.told_by_agent
        return registry.removed is not None or not (excused or drain.outcome is Outcome.REFUSED)

    def _is_left_alone(self, registry: FakeRegistry, drain: Drain) -> bool:
        """Tell whether an operator has it out, and had so before: then it is for them to end."""
        before = registry.marked_before is not False or drain.kind is DrainKind.RESTORE
        return before and bool(registry.known_out_by)

    # --- "serving" as it is answered ---

    def ask(self) -> None:
        """Ask whether it takes traffic, as the API does, and judge what is answered."""
        world = self.world
        if world.agent_up is None or world.phase is not Phase.SERVING:
            return
        asked = Question(world.now, world.host.now(), world.host.life)
        for view in world.loop.known.registries:
            view.look_after(asked.since)
        world.loop._wake()
        for wait in ANSWERED_AFTER:
            world.timeline.after(wait, lambda: self._judge(asked))

    def _judge(self, asked: Question) -> None:
        """Judge the answer to a question of before."""
        world = self.world
        if world.host.life is not asked.life or world.phase is not Phase.SERVING:
            return
        if not world.loop.is_served(asked.since):
            return
        for registry in world.registries:
            here = registry.listed or registry.changed > asked.at
            if not here and not self._need_not_list(registry):
                world.broken(f"answers that it takes traffic, and {registry.name} lists it not")

    def _need_not_list(self, registry: FakeRegistry) -> bool:
        return registry.names.may_be_absent or registry.name in self.world.loop.drain.vouched

    # --- start-traffic in service ---

    def asked_to_put_back(self) -> None:
        """Judge start-traffic in service: what was lost must come back, where it may."""
        world = self.world
        views = zip(world.registries, world.loop.known.registries, strict=True)
        lost = [one for one, view in views if view.seen and view.kept is not None and _lacks(one)]
        if world.loop.known.process.app != world.app.process:
            return  # what was lost was another's
        if not lost or not (world.ready or world.presence.anyway):
            return
        if world.phase is Phase.RESTORING:
            told = [one for one in lost if self._answers(one)]  # others may yet be unreachable
            world.timeline.after(PUT_BACK_BY, lambda: self._put_back(told))
        elif all(self._answers(one) for one in lost):
            world.broken(f"does not put back what {lost[0].name} has lost")

    def _put_back(self, lost: list[FakeRegistry]) -> None:
        for registry in lost:
            if not registry.listed and self._answers(registry):
                self.world.broken(f"has not put back what {registry.name} had lost")

    # --- actions ---

    def asks_to_restore(self, registry: FakeRegistry) -> None:
        """Judge a restore() that reaches a registry where an operator may have it out."""
        job, drain = self.world.host.job, self.world.loop.drain
        assert job is not None
        lifts = drain.kind is DrainKind.RESTORE and registry.shown_out_by
        if lifts and registry.out_by and not job.faulty:
            self.world.broken(f"restores to {registry.name} what an operator has out")

    def restores(self, registry: FakeRegistry, snapshot: Snapshot | None) -> None:
        """Judge a restore() at the moment it takes effect."""
        self.world.say(f"agent restores to {registry.name} {snapshot}")
        if registry.removed is not None and snapshot != registry.removed:
            self.world.broken(f"restores {snapshot} to {registry.name}, not {registry.removed}")
        never = registry.removed is None and not registry.was_shown
        if registry.names.may_be_absent and never and snapshot is None:
            self.world.broken(f"puts it into {registry.name}, where it has never been")

    # --- presence ---

    def stopped(self, vouched: tuple[str, ...]) -> None:
        """Judge that stop-traffic has just begun a drain."""
        world = self.world
        for registry in world.registries:
            registry.ever_shown = registry.was_shown  # it is written down with the drain
            sure = self._answers(registry)
            excused = registry.names.may_be_absent or registry.name in vouched
            never = registry.names.misnamed and registry.told is None
            if never and sure and not excused:
                world.broken(f"is to take it out, and {registry.name} never showed it")

    def _answers(self, registry: FakeRegistry) -> bool:
        """Tell whether *registry* has surely answered a question that was just asked."""
        now, rates = self.world.now, self.world.plan
        well = rates.error_rate == rates.hang_rate == 0 or now >= FAULTS_END
        threadless = self.world.host.threadless_until
        return well and now >= max(registry.down_until, registry.hangs_until, threadless)

    def note_marks(self, before: Phase) -> None:
        """Note who had it out when the drain began that just has."""
        for registry in self.world.registries:
            answers = before is Phase.SERVING and self._answers(registry)
            if registry.out_by and registry.shown_out_by and answers:
                registry.marked_before = True
            elif registry.out_by or registry.shown_out_by or not self._answers(registry):
                registry.marked_before = None
            elif before is Phase.SERVING:
                registry.marked_before = False

    def withdraws(self, registry: FakeRegistry) -> None:
        """Judge a withdraw() from a registry that may never have had it."""
        drain = self.world.loop.drain
        excused = registry.names.may_be_absent or registry.name in drain.vouched
        if registry.names.misnamed and registry.told is None and not excused:
            self.world.broken(f"withdraws from {registry.name}, which never showed it")

    def drained(self, registry: FakeRegistry, drain: Drain) -> None:
        """Judge a "drained" for what *registry* lists under another name."""
        if self.world.app.process is None or registry.name in drain.vouched:
            return  # what it sends reaches nobody, or a person has said so
        if registry.listed_elsewhere and self._could_be_known(registry):
            self.world.broken(f"drained while {registry.name} lists it under another name")

    def _could_be_known(self, registry: FakeRegistry) -> bool:
        """Tell whether the agent had to find out that *registry* has another name for it."""
        if registry.names.tells and registry.elsewhere_since < self.world.checks.began:
            return True
        unsure = self.world.finder.unsure_until  # nobody could see who came after whom
        excused = unsure or registry.names.may_be_absent
        return not (excused or registry.shown_since_start)


def _lacks(registry: FakeRegistry) -> bool:
    """Tell whether the instance is in a registry in no way, and its catalog says so."""
    return registry.told is None and not registry.listed and registry.shown_out_by is None
