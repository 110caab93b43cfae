"""When an app is quiet: nothing in flight and nothing arriving, seen without a gap. Pure."""

from collections.abc import Sequence

from deregister_agent.model import Reading


class QuietWindow:
    """
    The time that one probe has seen the app quiet.

    It counts from the end of the first idle reading to the begin of the last one,
    which is the least that the readings prove. Where the app counts all work ever
    started, work that came and went between two readings ends the window too.
    """

    def __init__(self) -> None:
        self.since: float | None = None
        self.until = 0.0
        self._last: Reading | None = None

    def broken(self) -> None:
        """Begin anew: it is not known what the app has in hand."""
        self.since = self._last = None

    def saw(self, reading: Reading, asked: float, answered: float) -> None:
        """Take in a reading that was made between *asked* and *answered*."""
        last, self._last = self._last, reading
        if not reading.idle:
            self.since = None
        elif self.since is None or last is None or _arrived(last, reading):
            self.since, self.until = answered, asked
        else:
            self.until = asked


def _arrived(last: Reading, reading: Reading) -> bool:
    return last.started != reading.started or last.mark != reading.mark


def quiet_since(windows: Sequence[QuietWindow]) -> float | None:
    """Return since when all *windows* are quiet at the same time; None if one is not."""
    starts = [window.since for window in windows if window.since is not None]
    return max(starts) if starts and len(starts) == len(windows) else None


def quiet_for(windows: Sequence[QuietWindow]) -> float | None:
    """Return for how long all *windows* have been quiet together; None if one is not."""
    since = quiet_since(windows)
    if since is None:
        return None
    return max(0.0, min(window.until for window in windows) - since)
