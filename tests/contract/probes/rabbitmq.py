"""The rabbitmq probe, with a real RabbitMQ and a real consumer behind it."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deregister_agent.errors import ProbeError
from deregister_agent.probes.rabbitmq import Options, build
from tests.rabbit_consumer import Consumer
from tests.servers.rabbitmq import RabbitMQ

from . import World, orders, wait_for


@contextmanager
def world() -> Iterator[World]:
    """Give a probe of a consumer that takes and acknowledges as the test says."""
    with tempfile.TemporaryDirectory() as folder, RabbitMQ(Path(folder)) as rabbit:
        (Path(folder) / "password").write_text("guest")
        table = {
            "kind": "rabbitmq",
            "url": rabbit.url,
            "user": "guest",
            "password": {"file": os.fspath(Path(folder) / "password")},
            "lag": rabbit.lag,
            "timeout": 2.0,
        }
        probe = build(Options.model_validate_json(json.dumps(table)), orders(80))
        consumer = Consumer(rabbit)

        def told() -> int | None:
            with suppress(ProbeError):
                return probe.read(0.0).in_flight["messages"]
            return None

        def busy(count: int) -> None:
            consumer.take(count)
            wait_for(lambda: told() == count, f"{count} messages")

        def find() -> None:
            consumer.open()
            busy(0)

        try:
            busy(0)
            yield World(probe, "messages", busy, consumer.close, find, rabbit.stop)
        finally:
            rabbit.cont()
            consumer.close()
