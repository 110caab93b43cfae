"""
The load: what the experiment sends, through all fronts, and messages of the broker.

``python -m compose.load FILE --net ... --broker ... --parts ...``, as the stack is described.
Ends at SIGTERM, or after an hour: it sends no more, waits for the answers still due, and
writes what became of all into FILE.
"""

import argparse
import json
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pika
from prometheus_client import start_http_server
from prometheus_client.core import REGISTRY, CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from compose.fronts import Fronts
from compose.places import BROKER, LOAD, Place
from compose.shop.consumer import MESSAGE, QUEUE
from compose.traffic.loads import PENDING, Load, Sent
from compose.traffic.mixes import at_every_door

RATE = 25.0  # requests a second
MESSAGES = 6.0  # messages a second: two consumers can take more
SHOWN = 5.0  # seconds between two lines of the log
LONGEST = 3600.0  # seconds after which it ends by itself
ALL = "messages and requests"

log = logging.getLogger("load")
logging.getLogger("pika").setLevel(logging.WARNING)


class Messages:
    """Puts messages into the queue, each confirmed by the broker, once started."""

    def __init__(self, broker: str) -> None:
        address, _, port = broker.rpartition(":")
        self._where = pika.ConnectionParameters(address, int(port))
        self.sent: list[Sent] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Send no more."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        with pika.BlockingConnection(self._where) as connection, connection.channel() as channel:
            channel.queue_declare(QUEUE, durable=True)
            channel.confirm_delivery()
            while not self._stopping.wait(1 / MESSAGES):
                one = Sent(f"m{len(self.sent)}", "message", time.monotonic(), MESSAGE, "the queue")
                self.sent.append(one)
                channel.basic_publish("", QUEUE, one.work.encode(), mandatory=True)
                one.lost, one.ended = "", time.monotonic()


class Seen(Collector):
    """What Prometheus sees of the load."""

    def __init__(self, load: Load, messages: Messages) -> None:
        self._load, self._messages = load, messages

    def collect(self) -> Iterator[Metric]:
        """Return what was sent and lost by now, by kind, and what waits for its answer."""
        every = [*self._load.sent, *self._messages.sent]
        sent = Counter(one.kind for one in every)
        lost = Counter(one.kind for one in every if one.lost not in ("", PENDING))
        for name, counts in (("load_sent", sent), ("load_lost", lost)):
            family = CounterMetricFamily(name, ALL, labels=["kind"])
            for kind in sent:
                family.add_metric([kind], counts[kind])
            yield family
        waiting = sum(one.lost == PENDING for one in every)
        yield GaugeMetricFamily("load_in_flight", ALL, value=waiting)


def run(load: Load, messages: Messages) -> None:
    """Send until SIGTERM, for LONGEST seconds at most."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    end = time.monotonic() + LONGEST
    load.start()
    while not stopping.wait(SHOWN) and time.monotonic() < end:
        log.info("sent %s lost %s", len(load.sent) + len(messages.sent), len(load.lost))
    messages.stop()
    load.stop()
    log.info("sent %s lost %s", len(load.sent) + len(messages.sent), len(load.lost))


def main() -> None:
    """Send until SIGTERM; then write one JSON object: what was sent, and what became of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    for name in ("net", "broker"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--parts", nargs="+", required=True)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    place = Place(given.net, parts=given.parts)
    load = Load(Fronts(place).targets, at_every_door, rate=RATE)
    messages = Messages(given.broker)
    if BROKER in place.parts:
        messages.start()
    REGISTRY.register(Seen(load, messages))
    start_http_server(LOAD, place.at("load"))
    run(load, messages)
    sent = [asdict(one) for one in (*load.sent, *messages.sent)]
    given.file.write_text(json.dumps({"sent": sent, "retried": load.pool.retried}))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
