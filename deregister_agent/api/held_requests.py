"""Requests whose answers are held back: how many may be, how they end, and the stream of events."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from deregister_agent.api.history import event_record
from deregister_agent.api.problem import try_later
from deregister_agent.engine.agent import Agent
from deregister_agent.engine.instance_loop import InstanceLoop
from deregister_agent.errors import JournalError
from deregister_agent.journal.history import TimelineEvent
from deregister_agent.model import Phase
from deregister_agent.status import plain

SLICE = 2.0
"""Seconds between two looks of a wait at whether its client is still there."""
STREAM_FOR = 600.0
"""Seconds after which a stream of events ends by itself; the client comes again."""
HEARTBEAT = 15.0
"""Seconds of silence on a stream after which a comment is sent."""

_AT_ONCE = 100  # events read from the journal at a time


class HeldRequests:
    """
    The places for requests that wait, and the event that ends all of them.

    Each waiting request holds a thread; the cap leaves threads for other requests.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._places = threading.BoundedSemaphore(most)
        self._for_news = threading.BoundedSemaphore((most + 1) // 2)
        self.stopping = threading.Event()

    def enter(self) -> None:
        """Take a place. Raises Problem 503 when all are taken."""
        if not self._places.acquire(blocking=False):
            raise try_later(
                f"{self._most} requests are waiting already (server.max_waits); ask without wait"
            )

    def leave(self) -> None:
        """Give a place back."""
        self._places.release()

    def until(
        self,
        reached: Callable[[float], bool],
        timeout: float,
        gone: threading.Event,
    ) -> None:
        """
        Wait until *reached* or until *timeout* is over; not for a client that is *gone*.

        *reached* blocks for at most the seconds that it is given, and returns the answer.
        """
        if timeout <= 0 or reached(0.0):
            return
        self.enter()
        try:
            end = time.monotonic() + timeout
            while (left := end - time.monotonic()) > 0 and not self._over(gone):
                began, limit = time.monotonic(), min(left, SLICE)
                if reached(limit) or _cut_short(began, limit):
                    return
        finally:
            self.leave()

    def news(self, loop: InstanceLoop, cursor: str, timeout: float, gone: threading.Event) -> None:
        """
        Wait, as until() does, while the cursor of the status is *cursor*.

        Takes at most half of the places: a drain can do without news, and not without looks.
        """
        if timeout <= 0:
            return
        if not self._for_news.acquire(blocking=False):
            raise try_later(
                f"{(self._most + 1) // 2} requests are waiting for news already, half of "
                "server.max_waits; ask without wait"
            )
        try:
            self.until(partial(loop.has_changed, cursor), timeout, gone)
        finally:
            self._for_news.release()

    def looked(self, loop: InstanceLoop, timeout: float) -> list[str]:
        """Ask the registries again; return the names of those that did not answer."""
        self.enter()
        try:
            return loop.ask_registries(timeout)
        finally:
            self.leave()

    def asked(self, loop: InstanceLoop, timeout: float) -> float:
        """Ask the registries of an instance in service; return from when on words count."""
        if loop.drain.phase is not Phase.SERVING:
            return 0.0
        self.enter()
        try:
            return loop.ask_if_serving(timeout)
        finally:
            self.leave()

    def stream(self, agent: Agent, after: int, gone: threading.Event) -> Iterator[bytes]:
        """Yield the events that come after event number *after*, as text/event-stream."""
        end = time.monotonic() + STREAM_FOR
        beat = time.monotonic() + HEARTBEAT
        stopped = False
        yield b"retry: 1000\n\n"
        while time.monotonic() < end and not self._over(gone):
            try:
                events = agent.journal.events_after(after, _AT_ONCE)
            except JournalError:
                return  # the client comes again, and is then told why
            for event in events:
                yield _as_sent(event)
                after = event.id
            if events:
                beat = time.monotonic() + HEARTBEAT
                continue
            if stopped:
                return
            if time.monotonic() >= beat:
                yield b": still here\n\n"
                beat = time.monotonic() + HEARTBEAT
            began = time.monotonic()
            agent.wait_event(after, SLICE)
            stopped = _cut_short(began, SLICE)

    def _over(self, gone: threading.Event) -> bool:
        return gone.is_set() or self.stopping.is_set()


def _cut_short(began: float, limit: float) -> bool:
    """Whether a wait came back early: there is news, or the agent stops. Waiting on would spin."""
    return time.monotonic() - began < limit / 2


def _as_sent(event: TimelineEvent) -> bytes:
    data = json.dumps(event_record(event), default=plain)
    return f"id: {event.id}\nevent: {event.kind}\ndata: {data}\n\n".encode()
