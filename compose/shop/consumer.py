"""The app's side of the queue: takes messages until it is told to pause, in a thread."""

import contextlib
import threading
import time
from typing import Protocol

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

from compose.shop.counter import Commands
from deregister_agent.app import Work

QUEUE = "orders"
MESSAGE = 0.2  # seconds that one message takes
AGAIN = 1.0  # seconds between two attempts to reach the broker


class Book(Protocol):
    """Where it is written down what was accepted and finished."""

    def accepted(self, work: str, until: float) -> None:
        """Note work that was accepted now, and until when it will be in hand."""

    def finished(self, work: str) -> None:
        """Note that it is finished."""


class Consumer:
    """Takes one message after the other, and counts each before it is acknowledged."""

    def __init__(
        self, broker: tuple[str, int], redis: tuple[str, int], work: Work, book: Book
    ) -> None:
        self._where = pika.ConnectionParameters(*broker)
        self._redis, self._work, self._book = redis, work, book
        self._running, self._paused = threading.Event(), threading.Event()
        work.on_stop(self.pause)
        work.on_start(self._running.set)
        if not work.stopped:
            self._running.set()
        threading.Thread(target=self._run, daemon=True).start()

    def pause(self) -> None:
        """Return once no further message will be taken."""
        self._running.clear()
        self._paused.wait()

    def _run(self) -> None:
        while True:
            with contextlib.suppress(AMQPError, OSError):
                self._connected()
            self._paused.set()  # without a connection it takes nothing
            time.sleep(AGAIN)

    def _connected(self) -> None:
        with pika.BlockingConnection(self._where) as connection, connection.channel() as channel:
            channel.queue_declare(QUEUE, durable=True)
            channel.basic_qos(prefetch_count=1)
            while True:
                self._paused.clear()  # before the look: whoever pauses then waits for the next
                if self._running.is_set():
                    self._consume(channel)
                else:
                    self._paused.set()
                    connection.sleep(0.2)

    def _consume(self, channel: BlockingChannel) -> None:
        for method, _, body in channel.consume(QUEUE, inactivity_timeout=0.1):
            if method is not None and body is not None:
                self._take(channel, method.delivery_tag or 0, body.decode())
            if not self._running.is_set():
                break
        channel.cancel()  # what the broker has sent ahead goes back to the queue

    def _take(self, channel: BlockingChannel, tag: int, name: str) -> None:
        with self._work.message():
            self._book.accepted(name, time.monotonic() + MESSAGE)
            time.sleep(MESSAGE)
            with Commands(self._redis[1], self._redis[0]) as redis:
                redis.finished(name)
            self._book.finished(name)
            channel.basic_ack(tag)
