"""
The app of this stack: requests, work that goes on after the answer, messages of a queue.

``gunicorn shop:app``. Each order is counted in Redis, under its own id, seconds after it
was accepted; each message when it has been dealt with. So Redis tells what was lost and
what was done twice. Nothing here takes care of a kill.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs

import pika
import redis
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

from deregister_agent.app import Work

VERSION = os.environ.get("SHOP_VERSION", "1")
LATER = 2.0  # seconds until the work that an order begins is finished
MESSAGE = 0.2  # seconds that one message takes
QUEUE = "orders"

work = Work(ignored=["/healthz"])
store = redis.Redis(host=os.environ["REDIS_HOST"], socket_timeout=5)
pool = work.executor(ThreadPoolExecutor(64))


def orders(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer ``/order?id=ID&seconds=S`` after S seconds; its work is finished 2 s later."""
    body = b"ok\n"
    if environ["PATH_INFO"] == "/order":
        asked = parse_qs(environ["QUERY_STRING"])
        pool.submit(finish, asked["id"][0])
        time.sleep(float(asked.get("seconds", ["0"])[0]))
        body = f"accepted by {os.environ['SHOP_NAME']} version {VERSION}\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def finish(order: str) -> None:
    """Do the work of one order."""
    time.sleep(LATER)
    store.hincrby("orders", order, 1)


class Consumer:
    """Takes messages from the broker until it is told to pause, in a thread of its own."""

    def __init__(self) -> None:
        self._running, self._paused = threading.Event(), threading.Event()
        work.on_stop(self.pause)
        work.on_start(self.resume)
        if not work.stopped:
            self._running.set()
        threading.Thread(target=self._run, daemon=True).start()

    def pause(self) -> None:
        """Return once no further message will be taken."""
        self._running.clear()
        self._paused.wait()

    def resume(self) -> None:
        """Take messages again."""
        self._running.set()

    def _run(self) -> None:
        while True:
            with contextlib.suppress(AMQPError, OSError):
                self._connected()
            time.sleep(1)

    def _connected(self) -> None:
        where = pika.ConnectionParameters(os.environ["BROKER_HOST"])
        with pika.BlockingConnection(where) as connection, connection.channel() as channel:
            channel.queue_declare(QUEUE, durable=True)
            channel.basic_qos(prefetch_count=1)
            while True:
                if self._running.is_set():
                    self._consume(channel)
                else:
                    self._paused.set()
                    connection.sleep(0.2)

    def _consume(self, channel: BlockingChannel) -> None:
        self._paused.clear()
        for method, _, body in channel.consume(QUEUE, inactivity_timeout=0.1):
            if method is not None and body is not None:
                with work.message():
                    time.sleep(MESSAGE)
                    store.hincrby("messages", body.decode(), 1)
                    channel.basic_ack(method.delivery_tag or 0)
            if not self._running.is_set():
                break
        channel.cancel()  # what the broker has sent ahead goes back to the queue


app = work.wsgi(orders)
work.serve(9001)
Consumer()
