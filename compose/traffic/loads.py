"""An open-loop client: so many requests a second of every kind, whatever becomes of them."""

import asyncio
import random
import threading
import time
from asyncio import IncompleteReadError
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from compose.traffic.channels import Channels
from compose.traffic.kinds import (
    LostError,
    Order,
    Pool,
    Request,
    events,
    keep_alive,
    later,
    message,
    plain,
    stream,
    upload,
    websocket,
)
from compose.traffic.targets import HTTP, QUEUE, RPC, Targets

Discover = Callable[[], Targets]
"""Return the targets listed now; raises when nobody can say."""

RATE = 25.0
REFRESH = 1.0  # seconds for which a client uses the list of targets that it got
LIMIT = 45.0  # seconds for one request
PENDING = "not over"
NOBODY = "nobody listed"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request, and between how many seconds it takes."""

    name: str
    request: Request
    shortest: float
    longest: float
    door: str = HTTP


FAST = Kind("fast", plain, 0.0, 0.0)
LATER = Kind("background", later, 2.0, 10.0)
SLOW = Kind("slow", plain, 3.0, 3.0)
REPORT = Kind("report", plain, 12.0, 12.0)
KEPT = Kind("keep-alive", keep_alive, 0.0, 0.2)
MESSAGE = Kind("message", message, 0.5, 4.0, QUEUE)
HTTP_MIX = (
    (FAST, LATER, SLOW, KEPT, Kind("upload", upload, 2.0, 2.0)),
    (FAST, LATER, FAST, KEPT, Kind("stream", stream, 2.0, 2.0)),
    (FAST, LATER, SLOW, KEPT, Kind("events", events, 3.0, 3.0)),
    (FAST, LATER, FAST, KEPT, Kind("websocket", websocket, 2.0, 2.0)),
)
COUNTED = frozenset({LATER.name, MESSAGE.name})
"""Kinds whose work is done after the answer, and counted in Redis."""
REPORT_EVERY = 200


@dataclass(slots=True)
class Sent:
    """One request and what became of it; ``lost`` is the cause, empty when it was answered."""

    work: str
    kind: str
    at: float  # monotonic
    seconds: float
    target: str = ""
    lost: str = PENDING
    ended: float = 0.0


class Load:
    """
    Sends *rate* requests a second; the same seed makes the same requests.

    With a *count*, it ends after so many. Open loop: a late answer does not slow the
    sender. It uses its list of targets for REFRESH seconds, as clients of a registry do,
    and keeps it while the registry is away. With *over*, that is told of each request that
    has ended, and the load itself remembers only those that have not, or were lost.
    """

    def __init__(
        self,
        discover: Discover,
        kinds: Callable[[int], Kind],
        *,
        rate: float = RATE,
        count: int | None = None,
        over: Callable[[Sent], None] | None = None,
    ) -> None:
        self.pool = Pool()
        self.number = 0  # of requests sent
        self.late = 0.0  # seconds by which the sender itself was behind its plan, at worst
        self._remembered: dict[str, Sent] = {}
        self._discover, self._kinds, self._rate, self._count = discover, kinds, rate, count
        self._over = over
        self._targets = discover()
        self._chance = random.Random(1)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    @property
    def sent(self) -> list[Sent]:
        """The requests, in the order in which they were sent."""
        return list(self._remembered.values())

    @property
    def lost(self) -> list[Sent]:
        """The requests that are over and were not answered as they should have been."""
        return [one for one in self.sent if one.lost not in ("", PENDING)]

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def finish(self) -> None:
        """Let it send all that it is to send, and every request end."""
        if self._count is None:
            raise ValueError("a load without a count has no end: stop() it")
        self._thread.join()

    def stop(self) -> None:
        """Send no more, and let every request end, for LIMIT seconds at most."""
        self._stopping.set()
        self._thread.join()

    async def _run(self) -> None:
        channels = Channels()
        refresh = asyncio.create_task(self._refresh(channels))
        under_way: set[asyncio.Task[None]] = set()
        began = time.monotonic()
        while not self._stopping.is_set() and self.number != self._count:
            task = asyncio.create_task(self._one(self.number, channels))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            self.number += 1
            ahead = began + self.number / self._rate - time.monotonic()
            self.late = max(self.late, -ahead)
            await asyncio.sleep(max(0.0, ahead))
        await asyncio.gather(*under_way)
        refresh.cancel()
        with suppress(asyncio.CancelledError):
            await refresh
        self.pool.close()
        await channels.close()

    async def _refresh(self, channels: Channels) -> None:
        while True:
            await asyncio.sleep(REFRESH)
            with suppress(Exception):  # whatever it is: the client goes on with what it knows
                self._targets = await asyncio.to_thread(self._discover)
                channels.keep(self._targets.get(RPC, ()))

    async def _one(self, number: int, channels: Channels) -> None:
        kind = self._kinds(number)
        seconds = round(self._chance.uniform(kind.shortest, kind.longest), 2)
        one = Sent(f"r{number}", kind.name, time.monotonic(), seconds)
        self._remembered[one.work] = one
        if targets := self._targets.get(kind.door):
            one.target = self._chance.choice(targets)
            order = Order(one.work, one.target, seconds, self.pool, channels)
            one.lost = await _cause(kind.request(order))
        else:
            one.lost = NOBODY
        one.ended = time.monotonic()
        if self._over is not None:
            self._over(one)
            if not one.lost:
                del self._remembered[one.work]


async def _cause(request: Awaitable[None]) -> str:
    """Wait for a request; return why it was lost, or nothing."""
    try:
        await asyncio.wait_for(request, LIMIT)
    except LostError as e:
        return str(e)
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "no answer"
    except (OSError, IncompleteReadError, asyncio.LimitOverrunError):
        return "cut off"
    return ""
