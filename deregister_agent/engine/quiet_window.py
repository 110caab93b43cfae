"""When an app is quiet: nothing in flight and nothing arriving, seen without a gap. Pure."""

from collections.abc import Sequence

from deregister_agent.model import Reading


class AnswerAge:
    """
    The moment of which a backend's last answer speaks.

    A backend that takes three seconds for each answer tells of their end. But where one
    answer took far longer than the one before, the agent may have been stopped while it
    waited: then it tells of the beginning.
    """

    def __init__(self) -> None:
        self.as_of = 0.0
        self._took = 0.0  # seconds that the last answer took

    def answered(self, asked: float, answered: float) -> None:
        """Take in when a question was *asked* and *answered*."""
        took = answered - asked
        self.as_of, self._took = asked + min(took, self._took), took


class QuietWindow:
    """
    The time that one probe has seen the app quiet.

    The window counts from the end of the first idle reading to the beginning of the
    last, which is the least that the readings prove. Where the app counts all work
    ever started, work that came and went between two readings ends the window too.
    A reading whose news may be late counts as if made so much earlier. Where the app
    counts nothing, a gap between two readings may hide work, and ends the window; and so
    where it does not say which process counts, as another one counts from nothing.
    """

    def __init__(self) -> None:
        self.gaps = 0  # how often a window ended because readings were too far apart
        self.since: float | None = None  # None too while the news may be older than the idleness
        self.until = 0.0
        self.late = 0.0  # how old its news may be
        self._earliest = 0.0  # somebody else has seen work in hand until then
        self._idle: float | None = None  # the end of the first idle reading
        self._last: Reading | None = None
        self._age = AnswerAge()  # of the last reading

    def broken(self) -> None:
        """Begin again from nothing: it is not known what the app has in hand."""
        self.since = self._idle = self._last = None

    def starts_after(self, moment: float) -> None:
        """Count from *moment* on at the earliest: by another word, work was in hand until then."""
        self._earliest = max(self._earliest, moment)
        if self.since is not None:
            self.since = self._idle = max(self.since, moment)

    def saw(self, reading: Reading, asked: float, answered: float, gap: float) -> None:
        """
        Take in a reading that was made between *asked* and *answered*.

        *gap* is how many seconds after the last one it may have begun and still be of
        the same window, where the app does not count all work ever started.
        """
        last, self._last = self._last, reading
        told = reading.started is not None and reading.mark != ""
        if last is not None and not told and asked - self._age.as_of > gap:
            self.gaps += self._idle is not None
            self._idle = None
        self._age.answered(asked, answered)
        if not reading.idle:
            self.since = self._idle = None
            return
        if self._idle is None or last is None or has_arrived(last, reading):
            self.since, self._idle = None, max(answered, self._earliest)
        self.until, self.late = asked - reading.late, reading.late
        if not reading.late or self.until >= self._idle:
            self.since = self._idle


def has_arrived(last: Reading, reading: Reading) -> bool:
    """Tell whether work has begun between two readings, as far as the app counts all work."""
    return last.started != reading.started or last.mark != reading.mark


def quiet_since(windows: Sequence[QuietWindow]) -> float | None:
    """Return since when all *windows* have been quiet together; None if any is not."""
    starts = [window.since for window in windows if window.since is not None]
    return max(starts) if starts and len(starts) == len(windows) else None


def quiet_for(windows: Sequence[QuietWindow]) -> float | None:
    """Return for how long all *windows* have been quiet together; None if any is not."""
    since = quiet_since(windows)
    if since is None:
        return None
    return max(0.0, min(window.until for window in windows) - since)


def lateness(windows: Sequence[QuietWindow]) -> float:
    """Return how old the news of the *windows* may be, at the worst."""
    return max((window.late for window in windows), default=0.0)
