"""
The load: requests of every kind, through Nginx and straight to what Consul and etcd list.

``python -m compose.load FILE --gateway ... --consul ... --etcd ... --broker ...``. Messages go
to the broker meanwhile. Ends at SIGTERM: it sends no more, waits for the answers still due,
and writes what became of all into FILE.
"""

import argparse
import base64
import json
import logging
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pika
from prometheus_client import start_http_server
from prometheus_client.core import REGISTRY, CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bench.consumer import MESSAGE, QUEUE
from bench.loads import PENDING, Load, Sent

RATE = 25.0  # requests a second
MESSAGES = 6.0  # messages a second: two consumers can take more
SHOWN = 5.0  # seconds between two lines of the log
NGINX = 9  # entries of Nginx in the list of targets, beside three of Consul and three of etcd
ALL = "messages and requests"

log = logging.getLogger("load")
logging.getLogger("pika").setLevel(logging.WARNING)


class Everywhere:
    """Every way to the apps: of 15 requests 9 go through Nginx, 3 by Consul and 3 by etcd."""

    def __init__(self, gateway: str, consul: str, etcd: str) -> None:
        self._gateway, self._consul, self._etcd = gateway, consul, etcd

    def targets(self) -> Sequence[str]:
        """Return where requests may go now."""
        return [*[self._gateway] * NGINX, *self._by_consul(), *self._by_etcd()]

    def _by_consul(self) -> Sequence[str]:
        entries = _asked(f"{self._consul}/v1/health/service/shop?passing")
        return [f"{each['Service']['Address']}:{each['Service']['Port']}" for each in entries]

    def _by_etcd(self) -> Sequence[str]:
        key, end = (base64.b64encode(key).decode() for key in (b"shop/", b"shop0"))
        answer = _asked(f"{self._etcd}/v3/kv/range", {"key": key, "range_end": end})
        return [base64.b64decode(each["value"]).decode() for each in answer.get("kvs", [])]


def _asked(url: str, question: object = None) -> Any:
    body = None if question is None else json.dumps(question).encode()
    with urllib.request.urlopen(url, body, 30) as answer:  # noqa: S310 - http, as described
        return json.load(answer)


class Messages:
    """Puts messages into the queue, each confirmed by the broker, until told to stop."""

    def __init__(self, broker: str) -> None:
        address, _, port = broker.rpartition(":")
        self._where = pika.ConnectionParameters(address, int(port))
        self.sent: list[Sent] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send no more."""
        self._stopping.set()
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
    """Send until SIGTERM."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    load.start()
    while not stopping.wait(SHOWN):
        log.info("sent %s lost %s", len(load.sent) + len(messages.sent), len(load.lost))
    messages.stop()
    load.stop()
    log.info("sent %s lost %s", len(load.sent) + len(messages.sent), len(load.lost))


def main() -> None:
    """Send until SIGTERM; then write one JSON object: what was sent, and what became of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    for name in ("gateway", "consul", "etcd", "broker", "metrics"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    ways = Everywhere(given.gateway, given.consul, given.etcd)
    load, messages = Load(ways.targets, rate=RATE), Messages(given.broker)
    address, _, port = given.metrics.rpartition(":")
    REGISTRY.register(Seen(load, messages))
    start_http_server(int(port), address)
    run(load, messages)
    sent = [asdict(one) for one in (*load.sent, *messages.sent)]
    given.file.write_text(json.dumps({"sent": sent, "retried": load.pool.retried}))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
