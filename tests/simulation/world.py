"""One simulated world: the agent in it, and everybody who acts on it."""

import logging
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

from deregister_agent.engine.instance_loop import InstanceLoop
from deregister_agent.errors import AgentError
from deregister_agent.model import Phase, Process, StopRequest
from tests.simulation.app import FakeApp, FakeFinder, FakeProbe, FakeReady
from tests.simulation.checks import EVERY, UNSEEN_AFTER, Checks
from tests.simulation.ending import all_is_well, judge_end
from tests.simulation.engine import Host
from tests.simulation.faulty_journal import FaultyJournal
from tests.simulation.happenings import happens
from tests.simulation.life import begin_life
from tests.simulation.plan import FAULTS_END, Plan, plan
from tests.simulation.platform import FakePlatform
from tests.simulation.presence_plan import presence_plan
from tests.simulation.registry import FakeRegistry

RESTORED_BY = FAULTS_END + 25.0
END = FAULTS_END + 45.0  # the outbox may rest for 30 s before it tries again
MEMORY = Path("/dev/shm")


class World:
    """All of it. run() lets it happen and returns what was broken, if anything was."""

    loop: InstanceLoop
    journal: FaultyJournal

    def __init__(self, seed: int, folder: Path, say: Callable[[str], None] | None = None) -> None:
        self.seed, self._folder, self._say = seed, folder, say
        self.plan: Plan = plan(seed)
        self.presence = presence_plan(seed, self.plan)
        self.more_chance = Random(f"more of world {seed}")  # for what was added later
        self.found: list[str] = []
        self.host = Host(seed, self.broken)
        self.timeline, self.chance = self.host.timeline, Random(f"world {seed}")
        self.host.late = self.plan.late_messages
        self.phase: Phase = Phase.SERVING
        self.agent_up: float | None = None
        self.dying: object = object()
        self.full_until = 0.0
        self.frozen_until = self.unseen_came = 0.0
        self.unseen: list[tuple[Process, float]] = []  # work done while it was: whose, and its end
        self.carried_by_a_wrong_date = False  # a deadline goes by the date over a reboot
        self.checks = Checks(self)
        self.registries = [
            FakeRegistry(self, f"registry-{n}", how, names)
            for n, (how, names) in enumerate(
                zip(self.plan.registries, self.presence.names, strict=True)
            )
        ]
        self.app, self.probe, self.finder = FakeApp(self), FakeProbe(self), FakeFinder(self)
        self.ready = [FakeReady(self)] if self.plan.readiness else []
        self.platform = FakePlatform(self)
        self._drains = 0

    @property
    def now(self) -> float:
        """Return the time, by no clock that can step."""
        return self.timeline.now

    @property
    def disk_full(self) -> bool:
        """Whether there is no room for the journal."""
        return self.now < self.full_until

    def say(self, text: str) -> None:
        """Tell whoever follows this world."""
        if self._say is not None:
            self._say(f"{self.now:9.4f}  {text}")

    def broken(self, text: str) -> None:
        """Note that something which must hold does not."""
        self.say(f"BROKEN: {text}")
        self.found.append(f"at {self.now:.4f}: {text}")

    def fault(self, rate: float) -> bool:
        """Draw whether a fault strikes."""
        return rate > 0 and self.now < FAULTS_END and self.chance.random() < rate

    def run(self) -> list[str]:
        """Let it happen, until its end or until something is broken."""
        self._begin()
        while not self.found and self.timeline.step(END):
            pass
        if not self.found:
            judge_end(self, self.checks.decisions)
        if self.agent_up is not None:
            self.journal.close()
        return self.found

    def _begin(self) -> None:
        self.say(f"{self.plan}")
        self.app.start()
        for registry in self.registries:
            if not registry.names.may_be_absent:
                registry.put(self.app.registration())
        self.start_agent()
        at = self.timeline.at
        at(self.plan.stop_at, self.stop_traffic)
        for one in self.plan.happenings:
            at(one.at, partial(happens, self, one, self.chance))
        for one in self.presence.happenings:
            at(one.at, partial(happens, self, one, self.more_chance))
        for when in self.presence.asks:
            at(when, self.checks.serving.ask)
        if self.plan.arrivals:
            at(0.0, self._arrival)
        for when, lasts in self.plan.strays:
            at(when, partial(self._stray, lasts))
        if self.plan.registers_every:
            at(self.plan.registers_every, self._register)
        at(EVERY, self._check)
        at(FAULTS_END, partial(all_is_well, self))
        at(RESTORED_BY, self._restored)

    def _check(self) -> None:
        self.checks.now()
        self.timeline.after(EVERY, self._check)

    # --- the agent ---

    def start_agent(self) -> None:
        """Begin a life of the agent on the journal that is there."""
        if self.agent_up is not None:
            return
        host = self.host
        host.life = object()
        self.agent_up = self.now
        self.say("agent starts")
        self.probe.known = self.finder.known = None
        for registry in self.registries:
            registry.known = None
        self.journal = FaultyJournal(self._folder / "journal.db", host)
        self.journal.world = self
        self.loop = begin_life(self, self.journal)

    def new_id(self) -> str:
        self._drains += 1
        return f"drain-{self._drains}"

    def kill_agent(self, down: float) -> None:
        """End the agent in the middle of whatever it does, and start it again later."""
        if self.agent_up is None:
            return
        self.say("agent dies")
        self.dying = self.host.life
        self.host.die()
        self.dying = object()
        self.agent_up = None
        self.journal.close()
        self.timeline.after(down, self.start_agent)

    def delivered_announcements(self) -> list[str]:
        """Return the ids of all announcements that the journal says were delivered."""
        rows = self.journal._file._db.execute("SELECT id FROM outbox WHERE delivered IS NOT NULL")
        return [row[0] for row in rows]

    # --- people and pipelines ---

    def stop_traffic(self, *, vouch: tuple[str, ...] = ()) -> None:
        """Ask for a drain."""
        if self.agent_up is None:
            return
        self.say(f"somebody asks to stop traffic {vouch or ''}")
        request = StopRequest(force=self.plan.force, vouch=vouch)
        before = self.loop.drain
        self._asks(lambda: self.loop.stop_traffic(request))
        if self.loop.drain.id != before.id:
            self.checks.serving.stopped(vouch)
            self.checks.serving.note_marks(before.phase)

    def start_traffic(self) -> None:
        """Ask for the instance to be put back."""
        if self.agent_up is not None and self.now < RESTORED_BY:
            self.say("somebody asks to start traffic")
            anyway = self.presence.anyway
            self._asks(lambda: self.loop.start_traffic("", "", anyway=anyway))

    def _asks(self, ask: Callable[[], None]) -> None:
        drain = self.loop.drain.id
        self.host.at_once = True
        try:
            ask()
        except AgentError as e:
            self.say(f"refused: {e}")
        finally:
            self.host.at_once = False
        if self.loop.drain.id != drain:
            self.checks.killed = None

    def start_app(self) -> None:
        """Start the app unless it runs."""
        if self.app.process is None:
            self.app.start()

    def app_dies(self) -> None:
        """Let the app crash; its supervisor, if it has one, starts it again."""
        self.app.exit("by itself")
        if self.plan.supervised:
            self.timeline.after(self.chance.uniform(0.1, 1.0), self.start_app)

    def busy_app_dies(self) -> None:
        """Let the process of an app that forks die while its children have work in hand."""
        if self.plan.children and self.app.in_hand and self.now < FAULTS_END:
            self.app_dies()
            if self.plan.shows_children:  # the page goes with the process, and nobody else tells
                self.probe.down_until = self.now + 3.0

    def _arrival(self) -> None:
        if self.app.process is not None and any(one.reaches for one in self.registries):
            longest = self.plan.longest_work if self.chance.random() < 0.2 else 0.1
            self.app.arrive(self.chance.uniform(0.001, longest))
        rate = self.plan.arrivals if self.now < FAULTS_END else 0.2
        self.timeline.after(self.chance.expovariate(rate), self._arrival)

    def _stray(self, lasts: float) -> None:
        """Let work come by no route, as a scanner or an operator brings it, after "drained"."""
        if self.phase is Phase.DRAINED and self.app.process is not None:
            self.say(f"work comes by no route ({lasts} s)")
            self.app.arrive(lasts)

    def freeze_agent(self, lasts: float) -> None:
        """Stop the agent's process for a time; work may come and go meanwhile."""
        self.say(f"agent is frozen ({lasts} s)")
        self.frozen_until = self.host.frozen_until = self.now + lasts
        if self.phase is Phase.DRAINING and not self.app.in_hand:
            self.timeline.after(UNSEEN_AFTER, partial(self._unseen, lasts - 0.2))
        self.timeline.after(lasts, self.checks.answers)

    def _unseen(self, lasts: float) -> None:
        if self.app.process is not None:
            self.say(f"work comes while the agent is frozen ({lasts} s)")
            self.app.arrive(lasts)
            self.unseen.append((self.app.process, self.now + lasts))
            self.unseen_came = self.now

    def _register(self) -> None:
        if self.app.process is not None:
            for registry in self.registries:
                if registry.how.app_registers:
                    registry.put(self.app.registration())
        assert self.plan.registers_every is not None
        self.timeline.after(self.plan.registers_every, self._register)

    def _restored(self) -> None:
        if self.phase is not Phase.SERVING:
            judge_end(self, self.checks.decisions)


def run(seed: int, say: Callable[[str], None] | None = None) -> list[str]:
    """Run one world; return what was broken in it."""
    logging.disable(logging.CRITICAL)
    place = MEMORY if MEMORY.is_dir() else None
    try:
        with tempfile.TemporaryDirectory(prefix="simulation-", dir=place) as folder:
            return World(seed, Path(folder), say).run()
    finally:
        logging.disable(logging.NOTSET)
