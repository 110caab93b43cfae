"""Work that comes to a process after it was called drained. Pure."""

from collections import deque

from deregister_agent.engine.quiet_window import has_arrived
from deregister_agent.model import Reading

APART = 1.0  # seconds between two readings that both have work in hand: it stays
OFTEN, WITHIN = 3, 10.0  # readings with new work, in so many seconds: it keeps coming


class WorkAgain:
    """
    What the readings of one probe say of work since "drained".

    A health check or a scrape that is counted as work is short and rare: while it lasts,
    and for as long as an app must be quiet after it, "drained" is not said. But the word
    is taken back only for work that stays or keeps coming, or each poll of a monitor
    would take it back anew.
    """

    def __init__(self) -> None:
        self._last: Reading | None = None  # of the drained process
        self._seen: deque[float] = deque()  # when readings showed work, of the last WITHIN seconds
        self._held: float | None = None  # since when each reading has had work in hand
        self.lasting = False  # it stays, or keeps coming
        self.until: float | None = None  # when work was seen last; None: none since "drained"

    def begin(self, last: Reading | None) -> None:
        """Begin a phase in which no work should come; *last* was read before it."""
        self._last = last
        self._seen.clear()
        self._held = self.until = None
        self.lasting = False

    def saw(self, reading: Reading, asked: float, answered: float) -> None:
        """Take in a reading that was made between *asked* and *answered*."""
        last, self._last = self._last, reading
        began = last is not None and has_arrived(last, reading)
        if reading.idle:
            self._held = None
        elif self._held is None:
            self._held = asked
        if reading.idle and not began:
            return
        self.until = answered
        self._seen.append(asked)
        while self._seen[0] < asked - WITHIN:
            self._seen.popleft()
        stays = self._held is not None and asked - self._held >= APART
        self.lasting = stays or len(self._seen) >= OFTEN
