"""Calls that may hang, kept off the loop: each on its own thread, each under way once at most."""

import logging
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from deregister_agent.errors import AgentError
from deregister_agent.host import threads
from deregister_agent.host.clock import Clock

log = logging.getLogger(__name__)

IDLE_THREAD = 30.0  # seconds after which a thread with nothing to do ends


class Submit(Protocol):
    """Runs a job soon, on another thread; the simulation has its own."""

    def __call__(self, job: Callable[[], None]) -> None:
        """Run *job* later. Never blocks. Raises AgentError if nothing can run it now."""
        ...


class Threads:
    """
    Runs jobs on daemon threads, as many as there are jobs, and reuses them.

    Not concurrent.futures: its threads are joined when the interpreter exits, so
    one hung registry would hold up the end of the agent, and a bounded pool
    would let it hold up other registries.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._free = 0
        self._lock = threading.Lock()

    def submit(self, job: Callable[[], None]) -> None:
        """Run *job* on a free thread, or on a new one. Raises NoThread."""
        with self._lock:
            if self._free:
                self._free -= 1
            else:
                threads.start(self._work)
        self._jobs.put(job)

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_THREAD)
            except Empty:
                with self._lock:
                    if self._free:
                        self._free -= 1
                        return
                continue  # a job is on its way to this thread
            job()
            with self._lock:
                self._free += 1


@dataclass(frozen=True, slots=True)
class CallResult:
    """How a call ended: its value or its error, and when it was begun and answered."""

    asked: float
    answered: float
    value: Any = None
    error: AgentError | None = None


Then = Callable[[CallResult], None]
"""Takes in the result of a call."""


class FailureLog:
    """Logs when a call begins to fail and when it works again; status says what goes on between."""

    def __init__(self) -> None:
        self._last: AgentError | None = None

    def note(self, error: AgentError | None) -> None:
        """Note how the call has ended this time."""
        if error is not None and self._last is None:
            log.warning("will try again: %s", error)
        elif error is None and self._last is not None:
            log.info("no more: %s", self._last)
        self._last = error


class Backoff:
    """When to try again: at once, then after waits that grow from *first* to *cap*, with jitter."""

    def __init__(self, first: float, cap: float, chance: random.Random) -> None:
        self._first, self._cap, self._chance = first, cap, chance
        self._wait = first
        self.due = 0.0

    def now(self) -> None:
        """Make the next try due at once, and the wait after it the shortest."""
        self._wait, self.due = self._first, 0.0

    def later(self, now: float) -> None:
        """Make the next try due after the present wait, and double the wait."""
        self.due = now + self._wait * self._chance.uniform(0.5, 1.0)
        self._wait = min(self._cap, self._wait * 2)

    def after(self, wait: float, now: float) -> None:
        """Make the next try due in *wait* seconds, and the wait after it the shortest."""
        self._wait, self.due = self._first, now + wait


class Calls:
    """
    The calls that one loop has under way.

    At most one call of each name is under way: a hung call is waited for, and
    never made a second time. Results are handed over in collect(), on the loop's
    own thread, so what the loop knows never changes in the middle of a tick.
    """

    def __init__(self, submit: Submit, clock: Clock, wake: Callable[[], None]) -> None:
        self._submit, self._clock, self._wake = submit, clock, wake
        self._under_way: set[str] = set()
        self._ended: SimpleQueue[tuple[str, Then, CallResult]] = SimpleQueue()

    def busy(self, name: str) -> bool:
        """Tell whether the call of that name is under way."""
        return name in self._under_way

    def due(self, name: str, again: Backoff) -> Iterator[float]:
        """Yield when the call of that name is due; a call under way will wake the loop."""
        if name not in self._under_way:
            yield again.due

    def start(self, name: str, call: Callable[[], Any], then: Then) -> None:
        """Begin a call unless it is under way; collect() gives its result to *then*."""
        if name in self._under_way:
            return
        self._under_way.add(name)
        try:
            self._submit(lambda: self._run(name, call, then))
        except AgentError as e:  # else it would be under way for ever
            now = self._clock.now()
            self._end(name, then, CallResult(now, now, error=e))

    def _run(self, name: str, call: Callable[[], Any], then: Then) -> None:
        asked = self._clock.now()
        try:
            value, error = call(), None
        except AgentError as e:
            value, error = None, e
        except Exception as e:  # a third party's bug must end as an unknown, not as silence
            log.exception("%s failed in a way it should not", name)
            value, error = None, AgentError(f"{name}: unexpected {type(e).__name__}: {e}")
        self._end(name, then, CallResult(asked, self._clock.now(), value, error))

    def _end(self, name: str, then: Then, result: CallResult) -> None:
        self._ended.put((name, then, result))
        self._wake()

    def collect(self) -> None:
        """Hand over the results that have come since the last time."""
        while True:
            try:
                name, then, result = self._ended.get_nowait()
            except Empty:
                return
            self._under_way.discard(name)
            then(result)
