"""A client that discovers its targets and keeps them under load, without retries."""

import http.client
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Discover = Callable[[], Sequence[str]]
"""Return the targets listed now, as ``address:port``."""

SLOW_EVERY = 8  # of so many requests, one is slow
REQUEST_TIMEOUT = 30.0  # seconds, beyond those that the request itself takes


@dataclass(frozen=True, slots=True)
class LostRequest:
    """A request without the right answer."""

    at: float  # seconds after the load began
    target: str
    seconds: float  # how long the answer was to take
    cause: str


@dataclass(slots=True)
class LoadTally:
    """Counts of what became of the requests so far."""

    sent: int = 0
    answered: int = 0
    lost: list[LostRequest] = field(default_factory=list)
    by_target: dict[str, int] = field(default_factory=dict)

    @property
    def in_flight(self) -> int:
        """The count of requests that have been sent and not answered yet."""
        return self.sent - self.answered - len(self.lost)


class Load:
    """
    Sends *rate* requests a second, fast and slow, each to a target listed just then.

    Open loop: a late answer does not slow the sender. No retries: every request
    that the app loses shows in the tally.
    """

    def __init__(self, discover: Discover, rate: float = 40.0, slow: float = 3.0) -> None:
        self.tally = LoadTally()
        self._discover, self._rate, self._slow = discover, rate, slow
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._chance = random.Random(1)  # noqa: S311 - only a spread over targets
        self._began = 0.0

    def start(self) -> None:
        """Begin to send."""
        self._began = time.monotonic()
        self._sender.start()

    def stop(self, limit: float = REQUEST_TIMEOUT) -> LoadTally:
        """Send no more; wait at most *limit* seconds for the answers still due."""
        self._stopping.set()
        self._sender.join()
        end = time.monotonic() + limit
        while self.tally.in_flight and time.monotonic() < end:
            time.sleep(0.02)
        return self.tally

    def _send(self) -> None:
        number = 0
        while not self._stopping.wait(max(0.0, self._due(number) - time.monotonic())):
            seconds = self._slow if number % SLOW_EVERY == 0 else 0.0
            self._one(seconds)
            number += 1

    def _due(self, number: int) -> float:
        return self._began + number / self._rate

    def _one(self, seconds: float) -> None:
        targets = self._discover()
        with self._lock:
            self.tally.sent += 1
        if not targets:
            self._lose("nobody", seconds, "no target is listed")
            return
        target = self._chance.choice(targets)
        threading.Thread(target=self._request, args=(target, seconds), daemon=True).start()

    def _request(self, target: str, seconds: float) -> None:
        connection = http.client.HTTPConnection(target, timeout=seconds + REQUEST_TIMEOUT)
        try:
            connection.request("GET", f"/work?seconds={seconds}")
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as e:
            self._lose(target, seconds, f"{type(e).__name__}: {e}")
            return
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK or body != b"ok\n":
            self._lose(target, seconds, f"HTTP {answer.status}")
            return
        with self._lock:
            self.tally.answered += 1
            self.tally.by_target[target] = self.tally.by_target.get(target, 0) + 1

    def _lose(self, target: str, seconds: float, cause: str) -> None:
        with self._lock:
            at = time.monotonic() - self._began
            self.tally.lost.append(LostRequest(round(at, 3), target, seconds, cause))
