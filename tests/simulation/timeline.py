"""What happens, in order, and what waits for something to change."""

import heapq
from collections.abc import Callable
from itertools import count

CPU = 0.0005  # seconds that one turn of a loop takes: nothing happens in no time at all


class Timeline:
    """What happens, in order. Equal times keep the order in which they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = count()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, when: float, happens: Callable[[], None]) -> None:
        """Let it happen at *when*, or now if that is past."""
        heapq.heappush(self._heap, (max(when, self.now), next(self._order), happens))

    def after(self, delay: float, happens: Callable[[], None]) -> None:
        """Let it happen *delay* seconds from now."""
        self.at(self.now + delay, happens)

    def step(self, end: float) -> bool:
        """Let the next thing happen; False if there is nothing more before *end*."""
        if not self._heap or self._heap[0][0] > end:
            self.now = end
            return False
        self.now, _, happens = heapq.heappop(self._heap)
        happens()
        return True


class Parked(BaseException):
    """Raised by a fake whose answer is not due yet: its call is made again when it may be."""

    def __init__(self, waiters: "Waiters", until: float) -> None:
        super().__init__()
        self.waiters, self.until = waiters, until


class Dead(BaseException):
    """Raised in a call whose agent has died while it was under way."""


class Waiters:
    """Calls held until something changes."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._held: list[Callable[[], None]] = []

    def add(self, again: Callable[[], None], until: float) -> None:
        """Call *again* at the next change, or *until* then."""
        self._held.append(again)
        self._timeline.at(until, again)

    def wake(self) -> None:
        """Something has changed."""
        held, self._held = self._held, []
        for again in held:
            self._timeline.after(CPU, again)
