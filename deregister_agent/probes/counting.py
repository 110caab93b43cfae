"""What several probes need to count safely: one read at a time, without the probe's own work."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from pydantic import Field

from deregister_agent.errors import AgentError

WorkKind = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
"""A kind of work in hand: requests, tasks, messages."""
WorkCount = Annotated[int, Field(ge=0)]


class Unclear(AgentError):  # noqa: N818 - the reason, which a probe makes a ProbeError of
    """Why an answer does not tell what is in flight: a fragment of a sentence."""


class ReadLock:
    """Lets one read in at a time: two at once would count each other as work of the app."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @contextmanager
    def held(self, limit: float) -> Iterator[float]:
        """Wait until no other read is under way, and give the seconds then left of *limit*."""
        end = time.monotonic() + limit
        if not self._lock.acquire(timeout=limit):
            raise Unclear(f"an earlier read did not end within {limit:g} s")
        try:
            yield max(0.001, round(end - time.monotonic(), 3))
        finally:
            self._lock.release()


class StartedCounter:
    """
    Turns an app's counter of started work into one that the probe's own reads do not move.

    The counter never goes back and never repeats after a restart of the app, so every
    change of it means that work has started. Whether the app has counted a read that
    failed is not known: such a read is taken for work, which only costs time.
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
            raise Unclear(
                f"the counter of started work rose by {value - last} since the last read, "
                f"though each read adds {self._own}: other work may be hidden behind the read"
            )
        else:
            self._started += value - last - self._own
        return self._started


def above_baseline(kind: str, count: int, baseline: int) -> int:
    """Return *count* without what an idle app shows. Raises Unclear if *count* is less."""
    if count < baseline:
        raise Unclear(
            f"{kind} are {count}, which is less than the baseline of {baseline}: "
            "the app does not count what the baseline says it does; correct the baseline"
        )
    return count - baseline


def fits_name(name: object, wanted: str) -> bool:
    """Tell whether *name* is *wanted*, in which only ``*`` has a meaning: any text."""
    pattern = ".*".join(re.escape(part) for part in wanted.split("*"))
    return isinstance(name, str) and re.fullmatch(pattern, name, re.DOTALL) is not None
