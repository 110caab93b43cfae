"""
The shop's other doors: calls by gRPC, and messages of a queue, which is a stream of real Redis.

They run inside the app. The consumer takes messages until the agent says stop; what it
has in hand it deals with and acknowledges. After a kill the next process of the same
name first takes what the last one had not acknowledged, as a consumer of Redis should.
"""

import threading
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

from compose.shop.counter import GROUP, QUEUE, Commands
from deregister_agent.app import Work

MESSAGES = 32  # messages that one process has in hand at a time
AT_ONCE = 4  # messages that are taken at a time, so that each instance gets some
BLOCK = 100  # milliseconds that Redis may hold the question for messages

Place = tuple[str, int]
"""An address and a port."""


class Ledger(Protocol):
    """Where the app notes what it accepts and finishes."""

    def accepted(self, work: str, until: float) -> None:
        """Note work that was accepted now, and until when it will be in hand."""

    def finished(self, work: str) -> None:
        """Note that it is finished."""


class Door(Protocol):
    """One of them, open."""

    def close(self) -> None:
        """Take nothing more, and finish what is in hand."""


def _connected(redis: Place) -> Commands:
    return Commands(redis[1], redis[0])


class Consumer:
    """Takes messages in a thread of its own, and deals with them in others."""

    def __init__(self, redis: Place, name: str, work: Work, ledger: Ledger) -> None:
        self._name, self._redis, self._ledger = name, redis, ledger
        self._running, self._paused = threading.Event(), threading.Event()
        self._free = threading.Semaphore(MESSAGES)
        self._pool: Executor = work.executor(ThreadPoolExecutor(MESSAGES), "messages")
        self._dealing, self._guard = _connected(redis), threading.Lock()
        work.on_stop(self.pause)
        work.on_start(self.resume)
        self.resume()
        threading.Thread(target=self._run, daemon=True).start()

    def pause(self) -> None:
        """Return once no further message will be taken."""
        self._running.clear()
        self._paused.wait()

    def resume(self) -> None:
        """Take messages again."""
        self._paused.clear()
        self._running.set()

    def close(self) -> None:
        """Take no more messages, and finish those in hand."""
        self.pause()
        self._pool.shutdown()

    def _run(self) -> None:
        with _connected(self._redis) as connection:
            with suppress(OSError):  # another instance has made the group
                connection.call("XGROUP", "CREATE", QUEUE, GROUP, "0", "MKSTREAM")
            self._take(connection, "0")  # what an earlier process of this name had in hand
            while True:
                if not self._running.is_set():
                    self._paused.set()
                    self._running.wait()
                self._take(connection, ">")

    def _take(self, connection: Commands, after: str) -> None:
        """Take a few messages, and count each as in hand before anything else happens."""
        self._free.acquire()
        self._free.release()
        count = ("COUNT", str(AT_ONCE if after == ">" else MESSAGES), "BLOCK", str(BLOCK))
        who = ("XREADGROUP", "GROUP", GROUP, self._name)
        reply = connection.call(*who, *count, "STREAMS", QUEUE, after)
        for entry, fields in reply[0][1] if reply else ():
            self._free.acquire()
            self._pool.submit(self._deal_with, entry.decode(), *(f.decode() for f in fields[1::2]))

    def _deal_with(self, entry: str, work: str, seconds: str) -> None:
        try:
            self._ledger.accepted(work, time.monotonic() + float(seconds))
            time.sleep(float(seconds))
            with self._guard:
                self._dealing.finished(work, "XACK", QUEUE, GROUP, entry)
            self._ledger.finished(work)
        finally:
            self._free.release()


class Doors:
    """Those that one app has."""

    def __init__(self, work: Work, ledger: Ledger) -> None:
        self._work, self._ledger = work, ledger
        self._open: list[Door] = []

    def add(self, door: Door) -> None:
        """Take in one that is open."""
        self._open.append(door)

    def consume(self, redis: Place, name: str) -> None:
        """Take messages from that Redis under this name."""
        self.add(Consumer(redis, name, self._work, self._ledger))

    def close(self) -> None:
        """Take nothing more, and finish what is in hand: as graceful as can be."""
        for door in self._open:
            door.close()
