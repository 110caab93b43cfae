"""What must hold in every world, judged by the world's own truth."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deregister_agent.drain import is_safe_to_kill
from deregister_agent.engine.view_context import FRESH
from deregister_agent.journal.journal import Decision
from deregister_agent.model import (
    UNFINISHED,
    Announcement,
    Drain,
    Event,
    Outcome,
    Phase,
    Process,
)
from tests.simulation.app import FakeApp
from tests.simulation.registry import FakeRegistry
from tests.simulation.serving_checks import ServingChecks

if TYPE_CHECKING:
    from tests.simulation.world import World

HAIR = 1e-6
LATEST = 0.45  # seconds between what a call sees and its answer
UNSEEN_AFTER = 0.05  # seconds after which work comes to the app of a frozen agent
RACE = 1.0  # seconds in which the agent cannot yet know of a kill
DEADLINE_SLACK = 1.0
EVERY = 0.5  # seconds between two looks at what must not go on for long
STEADY = 2.5  # seconds without trouble after which bounds hold
NOTICED = 8.0  # seconds within which a registration after "drained" must be noticed
UNREADY_KNOWN = 5.0  # seconds after which the agent must know that the app is not ready
SLOW = 2.2  # seconds that a drain in a calm world may take beyond what it has to


@dataclass(frozen=True, slots=True)
class Kill:
    """The platform has killed the process that it was told is safe to kill."""

    at: float
    process: Process


class Checks:
    """The invariants. Each is a sentence in the message it breaks with."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.serving = ServingChecks(world)
        self.killed: Kill | None = None
        self.trouble = 0.0  # when the agent itself was last hindered
        self.decisions: dict[str, int] = {}
        self._id, self.began = "", 0.0  # of the drain
        self._end = float("inf")  # when the drain must have ended, by no clock that can step
        self._passed: set[str] = set()  # drains that the guard let pass
        self._listed_since: float | None = None
        self._working_since: float | None = None

    # --- decisions ---

    def decided(self, decision: Decision) -> None:
        """Judge what the agent has just written down."""
        drain, before = decision.drain, decision.detail.get("from")
        self.world.say(f"agent: {decision.kind} {dict(decision.detail)} outcome={drain.outcome}")
        for announcement in decision.announcements:
            self.decisions[announcement] = self.decisions.get(announcement, 0) + 1
        if decision.kind != drain.phase:
            return
        self._note_begin(drain, before)
        match drain.phase:
            case Phase.SETTLING:
                self._passed.add(drain.id)
            case Phase.WITHDRAWING | Phase.DRAINING if before == Phase.DRAINED:
                if self.killed and self.world.now - max(self.killed.at, self._unsure) < RACE:
                    self.killed = None
            case Phase.DRAINED:
                self._drained(drain)
            case Phase.EXPIRED if self.world.plan.calm or self._must_not_expire(drain):
                self._prompt(self.world.now, "expired")
            case Phase.SERVING:
                self.serving.decided(drain)
            case _:
                pass

    def _note_begin(self, drain: Drain, before: object) -> None:
        """Note when the drain began, and until when it must have ended."""
        if drain.phase is Phase.WITHDRAWING and drain.id != self._id:
            self._id, self.began = drain.id, self.world.now
        again = drain.phase is Phase.DRAINING and before == Phase.DRAINED
        new = drain.phase is Phase.WITHDRAWING and before not in {Phase.SETTLING, Phase.DRAINING}
        if new or again:
            self._end = self.world.now + drain.limit

    def _drained(self, drain: Drain) -> None:
        if drain.outcome is Outcome.APP_EXITED:
            heard = max(self.world.app.exited_at, self.world.probe.heard_busy)
            work = min(self._last_work(), heard)  # a child that ends with its page tells no more
            proof = min(self._exited(drain), work + self.world.plan.policy.quiet)
        else:
            proof = self._quiet(drain)
        for registry in self.world.registries:
            self._out(registry, proof, drain)
            self.serving.drained(registry, drain)
        if self.world.plan.calm:
            self._prompt(self.world.now, "drained")

    def _exited(self, drain: Drain) -> float:
        app, known = self.world.app, self.world.finder.known
        asked, seen = known or (0.0, 0.0)
        if app.process == drain.process or known is None:
            self.world.broken("drained (app-exited) while the process is alive")
        elif app.process is not None and app.began <= seen:
            self.world.broken("drained (app-exited) while another process was in its place")
        if app.orphans and self._sees_orphans():
            self.world.broken("drained (app-exited) while a child of the app has work in hand")
        return asked

    def _sees_orphans(self) -> bool:
        """
        Tell whether the agent can know that somebody works on after an exit.

        A probe that has had no answer for a quiet time speaks of nobody, by decision 15.
        """
        plan, probe = self.world.plan, self.world.probe
        of_late = self.world.now - probe.heard_busy < plan.policy.quiet - HAIR
        return plan.shows_children or probe.said_busy or of_late

    def _quiet(self, drain: Drain) -> float:
        """Return since when the app had been quiet for long enough."""
        app, idle_at = self.world.app, self.world.probe.known
        if idle_at is None:
            self.world.broken("drained, and the app was never seen idle")
            return 0.0
        if any(arrived <= idle_at for arrived in app.all_work.values()):
            self.world.broken("drained while the app has work in hand")
        relisted = any(
            (r.known and r.changed > r.known[0]) or r.blip > idle_at for r in self.world.registries
        )
        elsewhere = any(r.listed_elsewhere for r in self.world.registries)  # judged beside this
        excused = relisted or elsewhere or self.world.plan.late_clients > 0
        vouched = [r for r in self.world.registries if r.name in drain.vouched]
        excused |= self._just_unseen(app) or not all(map(self._has_told, vouched))
        if app.last_arrival > idle_at and not excused:
            self.world.broken("drained, and work arrived after the app was last seen idle")
        last = self._last_work()
        if not self.world.plan.counts_work:
            self._hidden(idle_at)
        if not self.world.plan.counts_work or last > idle_at:
            return 0.0
        if idle_at - last < self.world.plan.policy.quiet - HAIR:
            self.world.broken(
                f"drained when the app had been quiet for {idle_at - last:.3f} s only"
            )
        return last + self.world.plan.policy.quiet

    def _just_unseen(self, app: FakeApp) -> bool:
        """Whether the last work came while the agent was frozen, and is too new to be known."""
        came = self.world.unseen_came
        return app.last_arrival == came and self.world.now - came <= FRESH + LATEST

    def _hidden(self, idle_at: float) -> None:
        """Judge a quiet time without a counter: what came while the agent was frozen ends it."""
        began = idle_at - self.world.plan.policy.quiet
        for process, end in self.world.unseen:
            if process == self.world.app.process and began + HAIR < end < idle_at:
                self.world.broken("drained, and work that nobody saw was in its quiet time")

    def _last_work(self) -> float:
        return max(self.world.app.last_arrival, self.world.app.last_busy)

    def _out(self, registry: FakeRegistry, proof: float, drain: Drain) -> None:
        heard = registry.known
        unheard = not self._has_told(registry) or (heard is not None and not heard[1])
        if registry.name in drain.vouched and (unheard or registry.told is None):
            return  # a person has said so
        if heard is None or heard[1]:
            self.world.broken(f"drained, and {registry.name} had not said that it let go")
        elif registry.sends and registry.changed <= heard[0]:
            self.world.broken(f"drained while {registry.name} sends work")
        elif heard[0] < proof - HAIR:
            self.world.broken(
                f"drained by a word of {registry.name} that is {proof - heard[0]:.3f} s too old"
            )

    def _has_told(self, registry: FakeRegistry) -> bool:
        """Tell whether the agent has heard in this drain how it stands in *registry* now."""
        known = registry.known
        return known is not None and known[0] >= max(registry.changed, self.began)

    def _must_not_expire(self, drain: Drain) -> bool:
        """Tell whether this drain, for which somebody vouches, has met with no fault beside."""
        plan, world = self.world.plan, self.world
        named = not any(one.names.misnamed for one in world.registries)
        named &= world.presence.renames is None
        others = [one for one in world.registries if one.name not in drain.vouched]
        silent = [one.hangs_until for one in world.registries]
        silent += [one.down_until for one in others]
        well = plan.error_rate == plan.hang_rate == plan.lie_rate == 0 and plan.counts_work
        well &= max(silent) <= self.began and plan.late_messages < 0.1
        well &= drain.limit > plan.policy.settle + plan.policy.quiet + EVERY
        return bool(drain.vouched) and well and named

    def _unhindered(self, world: "World") -> float:
        """Return from when on nothing has been in the way of the agent."""
        if world.plan.calm:
            return 0.0
        errors = [one.agents_error for one in world.registries if world.now > one.down_until]
        seeing = max(world.probe.down_until, world.finder.unsure_until)
        assert world.agent_up is not None
        return max(seeing, self.trouble, world.agent_up, *errors)

    def _prompt(self, now: float, how: str) -> None:
        world, policy = self.world, self.world.plan.policy
        if world.app.all_work or any(registry.listed for registry in world.registries):
            return
        settled = max(registry.changed for registry in world.registries) + policy.settle
        clear = max(registry.old_routes for registry in world.registries)
        quiet = max(settled, world.app.last_busy, world.app.last_arrival) + policy.quiet
        due = max(quiet, clear, self._unhindered(world))
        if now > due + SLOW:
            world.broken(f"{how} {now - due:.1f} s after it could have been drained")

    @property
    def _unsure(self) -> float:
        """Return until when nobody could tell which process runs."""
        return min(self.world.now, self.world.finder.unsure_until)

    # --- actions ---

    def withdraws(self, registry: FakeRegistry) -> None:
        """Judge a withdraw() at the moment it takes effect."""
        world = self.world
        drain, job = world.loop.drain, world.host.job
        assert job is not None
        world.say(f"agent withdraws from {registry.name}")
        self.serving.withdraws(registry)
        if self.killed and job.asked > max(self.killed.at, world.frozen_until) + RACE:
            world.broken("withdraws the version that came after the kill")
        few = registry.others_count < world.plan.policy.min_others
        free = drain.forced or drain.id in self._passed or not registry.how.counts
        if registry.listed and few and not free and not job.faulty:
            world.broken(f"withdraws from {registry.name}, which lists too few others")
        if registry.told is not None:
            kept = world.journal.snapshot(world.loop.instance.name, registry.name)
            if kept is None and registry.told_at <= registry.read_at:
                world.broken(f"withdraws from {registry.name} without a snapshot")
            elif kept != registry.told and registry.listed and not job.faulty:
                world.broken(f"withdraws from {registry.name} with a snapshot that is not true")
            registry.removed = kept

    def keeps(self, registry: FakeRegistry) -> None:
        """Judge a keep() at the moment it takes effect."""
        world = self.world
        not_yet_out = world.phase is Phase.WITHDRAWING and registry.removed is None
        if world.phase not in {Phase.SERVING, Phase.RESTORING} and not not_yet_out:
            world.broken(f"keeps it in {registry.name} while {world.phase}")
        if world.now - world.app.ready_until > UNREADY_KNOWN:
            world.broken(f"keeps it in {registry.name} though the app has long not been ready")

    def announced(self, event: Event) -> None:
        """Judge an announcement at the moment it reaches the platform."""
        self.world.say(f"platform hears {event.kind}")
        phase = self.world.phase
        if event.kind == Announcement.DRAINED and phase not in {Phase.DRAINED, Phase.GONE}:
            self.world.broken(f"announces drained while {phase}")
        if event.kind == Announcement.FORCED and phase not in {Phase.EXPIRED, Phase.GONE}:
            self.world.broken(f"announces forced while {phase}")
        again = event.id in self.world.platform.ids.get(event.kind, ())
        if event.kind == Announcement.DRAINED and phase is Phase.DRAINED and not again:
            vouched = self.world.loop.drain.vouched
            for registry in self.world.registries:
                if registry.known is None and registry.name not in vouched:
                    self.world.broken(f"announces drained, and has not asked {registry.name} since")
            since = [
                r.changed
                for r in self.world.registries
                if r.listed and r.told and (r.name not in vouched or self._has_told(r))
            ]
            if since and self.world.now - min(since) > NOTICED:
                self.world.broken("announces drained though it has been listed again for long")

    # --- answers ---

    def answers(self) -> None:
        """Judge what a pipeline is answered that asks now whether it may kill."""
        world = self.world
        if world.agent_up is None or world.now < world.frozen_until:
            return
        drain = world.loop.drain
        safe = is_safe_to_kill(drain.phase, drain.outcome)
        if not safe or not world.loop.stands_by(Announcement.DRAINED):
            return
        oldest = world.now - FRESH - LATEST
        for registry in world.registries if drain.phase is Phase.DRAINED else ():
            told = self._has_told(registry) and registry.heard_since < world.now - LATEST
            known = registry.name not in drain.vouched or told
            if registry.listed and registry.changed < oldest and known:
                world.broken(f"answers drained while {registry.name} lists it")
        in_hand = world.app.in_hand.values() if world.app.process == drain.process else ()
        if any(arrived < oldest for arrived in in_hand):
            world.broken("answers drained while the drained process has work in hand")
        left = world.app.orphans.values() if world.app.process is None else ()
        if world.probe.said_busy and any(arrived < oldest for arrived in left):
            world.broken("answers drained while a child of the exited process has work in hand")

    # --- bounds ---

    def now(self) -> None:
        """Judge what must not go on for long."""
        world = self.world
        hindered = world.disk_full or world.now < world.host.threadless_until
        if world.agent_up is None or hindered or world.now < world.frozen_until:
            self.trouble = world.now
        self.answers()
        self._taken_back()
        self._works_on()
        if world.now - self.trouble < STEADY:
            self._end += EVERY
            return
        drain = world.loop.drain
        late = max(world.host.now() - drain.deadline, world.now - self._end)
        if world.carried_by_a_wrong_date:
            late = world.host.now() - drain.deadline
        if drain.phase in UNFINISHED and late > DEADLINE_SLACK:
            world.broken(f"still {drain.phase} {late:.1f} s after the deadline")

    def _taken_back(self) -> None:
        world = self.world
        wrong = (
            world.phase is Phase.DRAINED
            and world.app.process is not None
            and world.app.process == world.loop.drain.process
            and any(registry.listed for registry in world.registries)
        )
        if not wrong:
            self._listed_since = None
            return
        errors = max(registry.agents_error for registry in world.registries)
        began = max(self._listed_since or world.now, self.trouble, errors)
        self._listed_since = began
        if world.now - began > NOTICED:
            world.broken("drained is not taken back though it is listed again")

    def _works_on(self) -> None:
        """Judge a "drained" whose process has had work in hand for long."""
        world, app = self.world, self.world.app
        same = world.phase is Phase.DRAINED and app.process == world.loop.drain.process
        if not same or not app.in_hand or world.now < world.probe.down_until:
            self._working_since = None
            return
        began = max(self._working_since or world.now, self.trouble)
        self._working_since = began
        if world.now - began > NOTICED:
            world.broken("drained is not taken back though it works again")
