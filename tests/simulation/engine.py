"""The simulated host: one thread, one timeline, and an agent whose calls take simulated time."""

from collections import deque
from collections.abc import Callable
from queue import Empty
from random import Random
from typing import Any

from deregister_agent.host.threads import NoThread
from tests.simulation.timeline import CPU, Dead, Parked, Timeline

PAUSES = 0.1  # how many calls are interrupted by the rest of the world
EPOCH = 1_700_000_000.0


class Job:
    """
    One call that the agent has made on a thread of its own.

    It is asked at one time, takes effect at a later one, and is answered at a
    third: what it saw may be old news when the agent hears of it.
    """

    def __init__(self, host: "Host", run: Callable[[], None]) -> None:
        self.host, self._run = host, run
        self.life = host.life  # of the agent that made the call
        self.asked = host.timeline.now
        self.answer_in = 0.0  # seconds between taking effect and the answer
        self.on_answer: list[Callable[[], None]] = []
        self.faulty = False  # a fault struck it, or the world went on while it was under way
        self.may_pause = not host.at_once
        self._reads = 0
        self._post: Post | None = None
        self._item: Any = None
        self._over = False

    def take_effect(self) -> None:
        """Make the call."""
        host = self.host
        if self._over or host.life is not self.life:
            return
        self._reads = 0
        host.job = self
        try:
            self._run()
        except Parked as held:
            held.waiters.add(self.take_effect, held.until)
            return
        except Dead:
            self._over = True
            return
        finally:
            host.job = None
        self._over = True
        host.timeline.after(self.answer_in, self._answer)

    def strike(self) -> None:
        """Let it take effect though the agent that made it is dying."""
        self._over, self.may_pause = True, False
        self.host.job = self
        try:
            self._run()
        except Parked:
            pass
        finally:
            self.host.job = None

    @property
    def begun(self) -> bool:
        """Whether it has taken effect, or never will."""
        return self._over

    def clock(self) -> float:
        """Tell the time as the call sees it: asked first, answered after that."""
        self._reads += 1
        return self.asked if self._reads == 1 else self.host.timeline.now + self.answer_in

    def posts(self, post: "Post", item: Any) -> None:
        """Keep what it brings back until it is answered."""
        self._post, self._item = post, item

    def _answer(self) -> None:
        if self.host.life is not self.life:
            return
        for act in self.on_answer:
            act()
        if self._post is not None:
            self._post.arrived(self._item)


class Post:
    """Stands for the queue of a Calls: what a call brings back is in it only once answered."""

    def __init__(self, host: "Host", wake: Callable[[], None]) -> None:
        self._host, self._wake = host, wake
        self._there: deque[Any] = deque()

    def put(self, item: Any) -> None:
        """Take what the call under way brings back."""
        error = item[2].error
        if error is not None and "unexpected" in str(error):
            self._host.broken(f"a call failed in a way it should not: {error}")
        if self._host.job is None:
            self._there.append(item)  # of a call that could not be begun
        else:
            self._host.job.posts(self, item)

    def arrived(self, item: Any) -> None:
        """Let the loop have it."""
        self._there.append(item)
        self._wake()

    def get_nowait(self) -> Any:
        """Return what has arrived; raise Empty if nothing has."""
        if not self._there:
            raise Empty
        return self._there.popleft()


class Ticker:
    """Calls one tick() when it asks to be called, and sooner when it is woken."""

    def __init__(self, host: "Host", name: str) -> None:
        self._host, self._name = host, name
        self._life = host.life
        self._next = float("inf")
        self._ticks, self._second = 0, 0
        self.tick: Callable[[], float] = lambda: 60.0

    def wake(self) -> None:
        """Call it at once. Ignored in a call under way: its answer will wake the loop."""
        if self._host.job is None:
            self._schedule(self._host.timeline.now + CPU)

    def _schedule(self, when: float) -> None:
        if when < self._next:
            self._next = when
            self._host.timeline.at(when, lambda: self._due(when))

    def _due(self, when: float) -> None:
        if self._next != when or self._host.life is not self._life:
            return
        self._next = float("inf")
        if self._host.timeline.now < self._host.frozen_until:
            self._schedule(self._host.frozen_until + CPU)
            return
        self._count()
        rest = self.tick()
        self._schedule(self._host.timeline.now + max(CPU, rest))

    def _count(self) -> None:
        second = int(self._host.timeline.now)
        self._ticks = self._ticks + 1 if second == self._second else 1
        self._second = second
        if self._ticks == SPINNING:
            self._host.broken(f"{self._name} was called {SPINNING} times within a second: it spins")


SPINNING = 700


class Host:
    """The machine that the agent runs on: its clock, its boots, and the agent's calls."""

    def __init__(self, seed: int, broken: Callable[[str], None]) -> None:
        self.timeline = Timeline()
        self.chance = Random(seed)
        self.broken = broken
        self.job: Job | None = None
        self.life: object = None  # the present life of the agent
        self.at_once = False  # calls made now are answered now
        self.wall_step = 0.0
        self.threadless_until = 0.0  # until when no call can be begun
        self.frozen_until = 0.0  # until when the agent's process is stopped
        self._paused = False
        self.late = 0.03  # how many of all messages take long
        self._booted, self._boots = -1000.0, 1
        self._jobs: list[Job] = []

    # --- a Clock ---

    def now(self) -> float:
        """Return seconds since boot."""
        when = self.timeline.now if self.job is None else self.job.clock()
        return when - self._booted

    def wall(self) -> float:
        """Return what the host believes the date to be."""
        return EPOCH + self.timeline.now + self.wall_step

    def boot_id(self) -> str:
        """Return what names this boot."""
        return f"boot-{self._boots}"

    def reboot(self) -> None:
        """Begin another boot."""
        self._boots += 1
        self._booted = self.timeline.now - 1.0

    # --- calls ---

    def submit(self, job: Callable[[], None]) -> None:
        """Make a call that takes effect soon. Raises NoThread while there are none."""
        if self.timeline.now < self.threadless_until:
            raise NoThread("the host starts no thread")
        one = Job(self, job)
        if self.at_once:
            one.take_effect()
            return
        self._jobs = [other for other in self._jobs if not other.begun]
        self._jobs.append(one)
        one.answer_in = self.latency()
        self.timeline.after(self.latency(), one.take_effect)

    def pause(self) -> None:
        """Let the world go on, now and then, in the middle of a call: threads do the same."""
        job = self.job
        if job is None or not job.may_pause or self._paused or self.chance.random() > PAUSES:
            return
        self._paused, self.job, job.faulty = True, None, True
        end = self.timeline.now + self.latency()
        while self.timeline.step(end):
            pass
        self._paused, self.job = False, job
        if self.life is not job.life:
            raise Dead

    def latency(self) -> float:
        """Return how long a message takes, one way."""
        chance = self.chance.random()
        return chance * 0.01 if chance > self.late else self.chance.random() * 0.4

    def die(self) -> None:
        """End this life of the agent. Of its calls under way, some still reach their goal."""
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            if not job.begun and self.chance.random() < 0.5:
                job.strike()
        self.life = None
