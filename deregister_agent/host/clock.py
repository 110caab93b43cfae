"""Time that ignores the wall clock's steps and outlives the process: CLOCK_BOOTTIME."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """What the agent needs of time; the simulation has one of its own."""

    def now(self) -> float:
        """Return seconds since boot, sleep included. Comparable only within one boot."""
        ...

    def wall(self) -> float:
        """Return seconds since 1970, as the host believes; it may step."""
        ...

    def boot_id(self) -> str:
        """Return the name of this boot; when it is another, every process of before has exited."""
        ...


class SystemClock:
    """The host's own clock (man 2 clock_gettime, man 5 proc: sys/kernel/random/boot_id)."""

    def __init__(self) -> None:
        self._boot_id = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()

    def now(self) -> float:
        """Return seconds since boot, sleep included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        """Return seconds since 1970."""
        return time.time()

    def boot_id(self) -> str:
        """Return this boot's id, read once."""
        return self._boot_id


def iso(wall: float) -> str:
    """Return *wall* as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
