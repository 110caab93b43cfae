"""
The load: orders through Nginx and straight to what Consul and etcd list, and messages.

``python load.py``. Open loop: a late answer does not slow the sender. No retries. Ends at
SIGTERM: it sends no more, waits for the answers still due, and writes what became of all
into ``/tmp/load.json``.
"""

import base64
import http.client
import itertools
import json
import logging
import os
import random
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pika
from prometheus_client import Counter, Gauge, start_http_server

RATE = float(os.environ.get("RATE", "25"))
SLOW_EVERY, SLOW = 8, 3.0  # one order in so many takes so many seconds
LIMIT = 30.0  # seconds for one answer
SHOWN = 5.0  # seconds between two lines of the log
DIRECT_EVERY = 5  # of five orders one goes by Consul, one by etcd, and three through Nginx

_SENT = Counter("load_sent", "Orders and messages sent.", ["way"])
_LOST = Counter("load_lost", "Those that were not answered as they should have been.", ["way"])
_IN_FLIGHT = Gauge("load_in_flight", "Orders that wait for their answer.")

log = logging.getLogger("load")
logging.getLogger("pika").setLevel(logging.WARNING)


class Tally:
    """What became of the orders and messages."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.accepted: list[str] = []
        self.messages: list[str] = []
        self.lost: list[dict[str, Any]] = []
        self.sent = 0

    def send(self, way: str) -> None:
        """Note that one order is on its way."""
        _SENT.labels(way).inc()
        _IN_FLIGHT.inc()
        with self._lock:
            self.sent += 1

    def answer(self, order: str) -> None:
        """Note an order that was accepted."""
        _IN_FLIGHT.dec()
        with self._lock:
            self.accepted.append(order)

    def lose(self, order: str, way: str, cause: str) -> None:
        """Note an order that was not."""
        log.warning("lost %s by %s: %s", order, way, cause)
        _IN_FLIGHT.dec()
        _LOST.labels(way).inc()
        with self._lock:
            self.lost.append({"order": order, "way": way, "cause": cause})

    @property
    def in_flight(self) -> int:
        """How many orders wait for their answer."""
        with self._lock:
            return self.sent - len(self.accepted) - len(self.lost)


def gateway() -> Sequence[str]:
    """Return Nginx."""
    return [os.environ["GATEWAY"]]


def consul() -> Sequence[str]:
    """Return what Consul lists as healthy, asked just now."""
    url = f"{os.environ['CONSUL']}/v1/health/service/shop?passing"
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - http, from the environment
        entries = json.load(answer)
    return [f"{each['Service']['Address']}:{each['Service']['Port']}" for each in entries]


def etcd() -> Sequence[str]:
    """Return what etcd lists, asked just now."""
    prefix, end = (base64.b64encode(key).decode() for key in (b"shop/", b"shop0"))
    question = json.dumps({"key": prefix, "range_end": end}).encode()
    with urllib.request.urlopen(f"{os.environ['ETCD']}/v3/kv/range", question, 5) as answer:  # noqa: S310 - as above
        entries = json.load(answer).get("kvs", [])
    return [base64.b64decode(each["value"]).decode() for each in entries]


def way_of(number: int) -> Callable[[], Sequence[str]]:
    """Return how the order of that number finds its instance."""
    return {1: consul, 2: etcd}.get(number % DIRECT_EVERY, gateway)


def order(tally: Tally, number: int) -> None:
    """Send one order, and note what becomes of it."""
    way, name = way_of(number), uuid4().hex
    seconds = SLOW if number % SLOW_EVERY == 0 else 0.0
    tally.send(way.__name__)
    try:
        target = random.choice(way())  # noqa: S311 - only a spread over targets
        connection = http.client.HTTPConnection(target, timeout=LIMIT)
        connection.request("GET", f"/order?id={name}&seconds={seconds}")
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
    except (OSError, IndexError, http.client.HTTPException) as e:
        tally.lose(name, way.__name__, f"{type(e).__name__}: {e}")
        return
    if answer.status != http.HTTPStatus.OK or not body.startswith(b"accepted"):
        tally.lose(name, way.__name__, f"HTTP {answer.status} from {target}")
        return
    tally.answer(name)


def publish(tally: Tally, stopping: threading.Event) -> None:
    """Put messages into the queue, as many as two consumers can take, each confirmed."""
    where = pika.ConnectionParameters(os.environ["BROKER_HOST"])
    with pika.BlockingConnection(where) as connection, connection.channel() as channel:
        channel.queue_declare("orders", durable=True)
        channel.confirm_delivery()
        while not stopping.wait(1 / 6):
            name = uuid4().hex
            channel.basic_publish("", "orders", name.encode(), mandatory=True)
            _SENT.labels("broker").inc()
            tally.messages.append(name)


def main() -> None:
    """Send until SIGTERM; then write one JSON object: what was accepted, and what was lost."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    stopping, tally = threading.Event(), Tally()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    start_http_server(9100)
    publisher = threading.Thread(target=publish, args=(tally, stopping))
    publisher.start()
    began = shown = time.monotonic()
    for number in itertools.count():
        if stopping.wait(max(0.0, began + number / RATE - time.monotonic())):
            break
        threading.Thread(target=order, args=(tally, number), daemon=True).start()
        if time.monotonic() - shown > SHOWN:
            shown = time.monotonic()
            log.info("sent %s in flight %s lost %s", tally.sent, tally.in_flight, len(tally.lost))
    end = time.monotonic() + LIMIT
    while tally.in_flight and time.monotonic() < end:
        time.sleep(0.05)
    publisher.join(LIMIT)
    result = {"accepted": tally.accepted, "messages": tally.messages, "lost": tally.lost}
    Path("/tmp/load.json").write_text(json.dumps({"sent": tally.sent, **result}))  # noqa: S108 - in a container
    log.info("sent %s lost %s", tally.sent, len(tally.lost))


if __name__ == "__main__":
    main()
