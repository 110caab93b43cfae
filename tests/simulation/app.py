"""The app, its page, its readiness and its process, as they are and as they can be seen."""

from itertools import count
from typing import TYPE_CHECKING

from deregister_agent.errors import ProbeError
from deregister_agent.model import UNFINISHED, Presence, Process, Reading, Snapshot
from tests.simulation.plan import FAULTS_END
from tests.simulation.registry import TIMEOUT
from tests.simulation.timeline import Parked, Waiters

if TYPE_CHECKING:
    from tests.simulation.world import World

LONG_AGO = float("-inf")
KIND = "requests"


class FakeApp:
    """The app: one process after another, and the work it has in hand."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.process: Process | None = None
        self.last: Process | None = None  # the one that was there last
        self.version = 0
        self.renamed = False  # whether this version registers under another name
        self.started = 0
        self.in_hand: dict[int, float] = {}  # work, and when it arrived
        self.orphans: dict[int, float] = {}  # the same of children that have outlived the process
        self.last_busy = self.last_arrival = LONG_AGO
        self.ready_at = self.began = 0.0
        self.exited_at = LONG_AGO
        self._was_ready = LONG_AGO
        self.idle_or_gone = Waiters(world.timeline)
        self._pids, self._work = count(100), count(1)

    def start(self) -> None:
        """Start a new process; where that is its way, it registers itself."""
        pid, before = next(self._pids), self.last
        self.version += 1
        self._choose_name()
        self.process = self.last = Process(self.world.host.boot_id(), ((pid, pid * 10),))
        self.started = 0
        self.began = self.world.now
        self.ready_at = self.world.now + self.world.chance.choice((0.0, 0.3, 1.5))
        self.world.say(f"app: process {pid} starts, version {self.version}")
        for registry in self.world.registries:
            registry.meets(before)
            if registry.how.app_registers:
                registry.put(self.registration())

    def _choose_name(self) -> None:
        """Let a new version have another name; what crashes in mid-drain comes back as it was."""
        world, first = self.world, self.world.presence.renames
        new = self.version == 1 or world.phase not in UNFINISHED or world.loop.drain.announced
        if first is not None and new and world.now < FAULTS_END:
            self.renamed = self.version >= first

    def exit(self, why: str) -> None:
        """End the process."""
        if self.process is None:
            return
        self.world.say(f"app: process {self.process.pids[0][0]} ends ({why})")
        self._was_ready = self.ready_until
        self.process, self.exited_at = None, self.world.now
        if self.world.plan.children:
            self.orphans |= self.in_hand
        self.in_hand.clear()
        self.idle_or_gone.wake()

    def end_all(self) -> None:
        """End the process and all that has outlived one, as a reboot does."""
        self.exit("reboot")
        self.orphans.clear()

    @property
    def all_work(self) -> dict[int, float]:
        """The work in hand and when it arrived: of the process, and of what outlived one."""
        return self.in_hand | self.orphans

    def registration(self) -> Snapshot:
        """Return how this version registers."""
        return {"version": self.version}

    def arrive(self, lasts: float) -> None:
        """Take in one piece of work."""
        number = next(self._work)
        self.in_hand[number] = self.last_arrival = self.world.now
        self.started += 1
        self.world.timeline.after(lasts, lambda: self._finish(number))

    def _finish(self, number: int) -> None:
        where = self.orphans if number in self.orphans else self.in_hand
        if where.pop(number, None) is not None:
            self.last_busy = self.world.now
            if not self.all_work:
                self.idle_or_gone.wake()

    @property
    def ready(self) -> bool:
        """Whether it could serve."""
        return self.process is not None and self.world.now >= self.ready_at

    @property
    def ready_until(self) -> float:
        """When it was ready last."""
        return self.world.now if self.ready else self._was_ready


class FakeProbe:
    """Counts the work of the app and its children; answers while there is anybody of it."""

    name = "page"

    def __init__(self, world: "World") -> None:
        self.world = world
        self.known: float | None = None  # as of when the agent last heard that it was idle
        self.heard_busy = LONG_AGO  # when the agent last heard of work in hand
        self.said_busy = False  # whether that is the last it heard
        self.down_until = 0.0

    def read(self, wait: float) -> Reading:
        """Say what is in hand; hold the answer while there is something, where that is asked."""
        world, app = self.world, self.world.app
        job = world.host.job
        assert job is not None
        job.on_answer.append(self._heard_nothing)
        nobody = app.process is None and not app.orphans
        if nobody or world.now < self.down_until:
            raise ProbeError(self.name, "read what is in flight", "connection refused")
        if world.fault(world.plan.error_rate):
            raise ProbeError(self.name, "read what is in flight", "it answered 502")
        if world.fault(world.plan.hang_rate):
            job.answer_in += TIMEOUT
            raise ProbeError(self.name, "read what is in flight", "no answer in time")
        if world.plan.holds and app.all_work and world.now < job.asked + wait:
            job.on_answer.clear()
            raise Parked(app.idle_or_gone, job.asked + wait)
        when = world.now
        if app.all_work:
            job.on_answer.append(self._heard_busy)
        else:
            job.on_answer.append(lambda: self._heard(when))
        started = app.started if world.plan.counts_work else None
        mark = str(app.last) if world.presence.says_who else ""
        return Reading({KIND: len(app.all_work)}, started, mark)

    def _heard(self, when: float) -> None:
        self.known = when

    def _heard_busy(self) -> None:
        self.heard_busy, self.said_busy = self.world.now, True

    def _heard_nothing(self) -> None:
        self.said_busy = False


class FakeFinder:
    """Sees processes truly, as a finder by port does."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.unsure_until = 0.0
        self.known: tuple[float, float] | None = None  # when last asked, and seen, that it exited

    def look(self, was: Process | None) -> Presence:
        """Tell whether *was* has exited and who is there."""
        running = self.world.app.process
        if self.world.now < self.unsure_until:
            return Presence(exited=False, running=None, note="cannot see it")
        exited = was is not None and running != was
        if exited:
            when, job = self.world.now, self.world.host.job
            assert job is not None
            job.on_answer.append(lambda: self._heard(job.asked, when))
        seen = exited and self.world.plan.shows_children and self.world.app.orphans
        return Presence(exited, running, left="a child works on" if seen else "")

    def _heard(self, asked: float, seen: float) -> None:
        self.known = (asked, seen)

    def wait_exit(self, was: Process, timeout: float) -> None:
        """Hold the call until *was* has exited."""
        job = self.world.host.job
        assert job is not None
        if self.world.app.process == was and self.world.now < job.asked + timeout:
            raise Parked(self.world.app.idle_or_gone, job.asked + timeout)

    def heard(self, mark: str) -> None:
        """Ignore what the app says of itself."""


class FakeReady:
    """The app's readiness."""

    name, passes, every = "ready", 2, 0.5

    def __init__(self, world: "World") -> None:
        self.world = world

    def ask(self) -> None:
        """Pass or raise."""
        if not self.world.app.ready or self.world.fault(self.world.plan.error_rate):
            raise ProbeError(self.name, "call the app ready", "it answered 503")
