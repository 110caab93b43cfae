"""What a probe makes of one read after another: in turn, and without its own starts."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Doubt(Exception):  # noqa: N818 - a probe makes a ProbeError of it
    """Why an answer does not tell what is in flight: a fragment of a sentence."""


class Turn:
    """Lets one read in at a time: two at once would count each other as work of the app."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @contextmanager
    def taken(self, limit: float) -> Iterator[float]:
        """Wait for the turn, and give the seconds that are then left of *limit*."""
        deadline = time.monotonic() + limit
        if not self._lock.acquire(timeout=limit):
            raise Doubt(f"an earlier read did not end within {limit:g} s")
        try:
            yield max(0.001, round(deadline - time.monotonic(), 3))
        finally:
            self._lock.release()


class Starts:
    """
    Turns an app's counter of started work into one that the probe's own reads do not move.

    It never goes back and never repeats after a restart of the app, so every
    change of it means that work has started. Of a read that failed it is not known
    whether the app has counted it: it is taken for work, which only costs time.
    """

    def __init__(self, own: int) -> None:
        self._own = own
        self._last: int | None = None
        self._started = 0

    def count(self, value: int) -> int:
        """Return the work started so far, without the probe's own, when the app says *value*."""
        last, self._last = self._last, value
        if last is None:
            self._started = value
        elif value < last:  # another process, whose work is new whatever its count
            self._started += value + 1
        elif value - last < self._own:
            raise Doubt(
                f"the counter of started work rose by {value - last} since the last read, "
                f"though each read adds {self._own}: other work may be hidden behind the read"
            )
        else:
            self._started += value - last - self._own
        return self._started


def above(kind: str, count: int, baseline: int) -> int:
    """Return *count* without what it shows when the app is idle. Raises Doubt if it is less."""
    if count < baseline:
        raise Doubt(
            f"{kind} are {count}, which is less than the baseline of {baseline}: "
            "the app does not count what the baseline says it does; correct the baseline"
        )
    return count - baseline


def is_named(name: object, wanted: str) -> bool:
    """Tell whether *name* is *wanted*, in which only ``*`` stands for something else: any text."""
    pattern = ".*".join(re.escape(part) for part in wanted.split("*"))
    return isinstance(name, str) and re.fullmatch(pattern, name, re.DOTALL) is not None
