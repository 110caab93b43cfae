"""What several probes need to count safely: one read at a time, without the probe's own work."""

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated

from pydantic import Field

from deregister_agent.errors import AgentError, excerpt
from deregister_agent.host.json_values import is_whole_number

MOST_IN_HAND = 2**31 - 2
"""More than this nobody has in hand. What is larger is a count that has fallen below zero where it
has no sign (2**32 - 1, 2**64 - 1), or the largest number of its type, which means "no limit"."""
MOST_STARTED = 2**53 - 1
"""Up to here a float shows every whole number: a larger counter may rise without a change."""

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
        self._last: Mapping[str, int] | None = None  # by the name of each counter
        self._mark = ""
        self._started = 0

    def count(self, value: int | Mapping[str, int], mark: str = "") -> int:
        """
        Return the work started so far, without the probe's own, when the app says *value*.

        *value* is one counter, or several by name: one that falls is noticed among others
        that rise. *mark* names the process that counts, where that is known: within one
        process no counter falls, so Unclear is raised. It is raised, too, for what no
        counter can be, and where fewer have started than the probe's own reads.
        """
        value = value if isinstance(value, Mapping) else {"": value}
        for name, one in value.items():
            a_count(one, f"the counter of started work {name}".rstrip(), most=MOST_STARTED)
        last, was, self._last, self._mark = self._last, self._mark, value, mark
        total = sum(value.values())
        if last is None:
            self._started = total
            return self._started
        rise = total - sum(last.values())
        fallen = [name for name in last if value.get(name, -1) < last[name]]
        if fallen and mark and mark == was:
            raise Unclear(_fell(fallen[0], last, value))
        if fallen:  # another process, whose work is new whatever its count
            self._started += total + 1
        elif rise < self._own:
            raise Unclear(
                f"the counter of started work rose by {rise} since the last read, "
                f"though each read adds {self._own}: other work may be hidden behind the read"
            )
        else:
            self._started += rise - self._own
        return self._started


def _fell(name: str, last: Mapping[str, int], now: Mapping[str, int]) -> str:
    told = f"{now[name]}" if name in now else "not there any more"
    return (
        f"the counter of started work {name} was {last[name]}, and is {told}, though the process "
        "is the same: its parts were read at different moments, or it counts something else"
    ).replace("  ", " ")


def a_count(value: object, what: str, *, most: int = MOST_IN_HAND) -> int:
    """Return *value*, which is the count of *what*. Raises Unclear for what no count can be."""
    if not is_whole_number(value) or value < 0:
        shown = excerpt(repr(value), 80)
        raise Unclear(f"{what} is {shown}, not a whole number of at least 0")
    if value > most:
        raise Unclear(
            f"{what} is {value}, more than there can be: the count has fallen below 0, "
            "or the number stands for no limit"
        )
    return value


def must_cover(started: int, in_flight: Mapping[str, int]) -> None:
    """
    Raise Unclear if fewer have *started*, in all, than are in flight of the only kind.

    Of several kinds it is not known which ones the counter tells of.
    """
    for kind, count in in_flight.items() if len(in_flight) == 1 else ():
        if count > started:
            raise Unclear(
                f"{kind} are {count}, but only {started} have ever been started: the two were read "
                "at different moments, or the counter does not count all work when it begins"
            )


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
