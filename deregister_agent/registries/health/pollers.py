"""Who polls a health check, and what each of them was answered last, how often in a row."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address

FORGET = 3
"""A poller that has been silent for so many intervals is gone: a balancer that was removed."""


class PollAnswer(StrEnum):
    """What a poll was answered."""

    HEALTHY = "healthy"  # as the app says
    SICK = "sick"  # as the app says, or because it does not
    OUT = "out"  # withdrawn: whatever the app says


@dataclass(slots=True)
class _Poller:
    said: PollAnswer
    times: int  # in a row
    last: float


class Polls:
    """
    Counts answers in a row for each source address. Any thread may use it.

    What is lost at a restart of the agent is learned again: that only takes longer.
    """

    def __init__(
        self, every: float, networks: Iterable[IPv4Network | IPv6Network], needed: int
    ) -> None:
        self._every, self._networks, self._needed = every, tuple(networks), needed
        self._lock = threading.Lock()
        self._pollers: dict[str, _Poller] = {}
        self._in_hand = 0  # polls that may still be answered "healthy"
        self._began = time.monotonic()

    @contextmanager
    def in_hand(self) -> Iterator[None]:
        """Count a poll whose answer is not known yet: nothing is proven meanwhile."""
        with self._lock:
            self._in_hand += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_hand -= 1

    def answered(self, source: str, said: PollAnswer) -> None:
        """Count an answer that has been sent."""
        if not self._counts(source):
            return
        now = time.monotonic()
        with self._lock:
            known = self._pollers.get(source)
            times = known.times + 1 if known is not None and known.said is said else 1
            self._pollers[source] = _Poller(said, times, now)

    def known(self) -> bool:
        """Tell whether every poller has had the time to poll since the counting began."""
        return time.monotonic() - self._began >= self._every

    def anybody(self) -> bool:
        """Tell whether anybody polls."""
        with self._lock:
            return bool(self._here())

    def missing(self, wanted: PollAnswer) -> list[str]:
        """Say who has yet to be answered *wanted* often enough; empty once all have been."""
        with self._lock:
            here = self._here()
            late = [
                f"{source} was answered {wanted} {one.times if one.said is wanted else 0} of "
                f"{self._needed} times"
                for source, one in here.items()
                if one.said is not wanted or one.times < self._needed
            ]
            if self._in_hand and not late:
                late.append("a poll is being answered")
        if not late and not self.known():
            late.append(f"others may yet poll, as that may take {self._every:g} s")
        return late or ([] if here else ["nobody polls"])

    def _here(self) -> dict[str, _Poller]:
        """Return those who poll, and forget those who have stopped."""
        oldest = time.monotonic() - FORGET * self._every
        self._pollers = {who: one for who, one in self._pollers.items() if one.last >= oldest}
        return self._pollers

    def _counts(self, source: str) -> bool:
        if not self._networks:
            return True
        address = ip_address(source.partition("%")[0])
        return any(address in network for network in self._networks)
