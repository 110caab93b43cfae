"""What goes on arriving at an app that its registries have let go. Pure."""

from collections import deque

from deregister_agent.model import Reading

OF_LATE = 5.0  # seconds of which it is told how much has arrived


class Arrivals:
    """
    How much work has begun since the registries let go, by one counter of work ever started.

    It counts from the first reading on. Where another process answers, its work of before
    is not known, and the count goes on from what it says first.
    """

    def __init__(self) -> None:
        self.total = 0
        self.since: float | None = None  # when the first reading was begun; None: none yet
        self.last = 0.0  # when the last reading that showed new work was answered
        self._started: int | None = None
        self._mark = ""
        self._of_late: deque[tuple[float, int]] = deque()

    def saw(self, reading: Reading, asked: float, answered: float) -> None:
        """Take in a reading that was made between *asked* and *answered*."""
        before, told = self._started, reading.started
        same, self._mark = reading.mark == self._mark, reading.mark
        self._started = told
        if self.since is None:
            self.since = asked
        if before is None or told is None or not same or told <= before:
            return
        self.total += told - before
        self.last = answered
        self._of_late.append((answered, told - before))
        self._forget(answered)

    def of_late(self, now: float) -> int:
        """Return how much has begun in the last OF_LATE seconds."""
        self._forget(now)
        return sum(count for _, count in self._of_late)

    def _forget(self, now: float) -> None:
        while self._of_late and self._of_late[0][0] < now - OF_LATE:
            self._of_late.popleft()
