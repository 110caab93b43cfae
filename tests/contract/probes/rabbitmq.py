"""The rabbitmq probe, with a real RabbitMQ and a real consumer behind it."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from deregister_agent.errors import ProbeError
from deregister_agent.probes.rabbitmq import Options, build
from tests.apps.rabbit_consumer import Consumer
from tests.servers.rabbitmq import own_host, shared

from . import World, orders, wait_for


@contextmanager
def world() -> Iterator[World]:
    """Give a probe of a consumer that takes and acknowledges as the test says."""
    with ExitStack() as stack:
        rabbit = shared()
        host = stack.enter_context(own_host(rabbit))
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("RABBIT", "guest")
        table = {
            "kind": "rabbitmq",
            "url": rabbit.url,
            "user": "guest",
            "password": {"env": "RABBIT"},
            "vhost": host,
            "lag": rabbit.lag,
            "timeout": 2.0,
        }
        probe = build(Options.model_validate_json(json.dumps(table)), orders(80))
        consumer = stack.enter_context(Consumer(rabbit, host=host))
        stack.callback(rabbit.cont)

        def told() -> int | None:
            with suppress(ProbeError):
                return probe.read(0.0).in_flight["messages"]
            return None

        def busy(count: int) -> None:
            consumer.take(count)
            wait_for(lambda: told() == count, f"{count} messages")

        def serve() -> None:
            before = probe.read(0.0).started
            consumer.take(1)
            consumer.take(0)
            wait_for(lambda: probe.read(0.0).started != before, "RabbitMQ tells of it")

        def lose() -> None:
            consumer.close()
            # What it tells of the consumer is late: the probe's ``lag`` is there for that.
            lists = (f"/api/vhosts/{host}/connections", f"/api/consumers/{host}")
            wait_for(
                lambda: not any(rabbit.call("GET", each) for each in lists),
                "RabbitMQ tells that it has gone",
            )

        def find() -> None:
            consumer.open()
            busy(0)

        busy(0)
        yield World(
            probe,
            "messages",
            busy,
            lose,
            find,
            "RabbitMQ takes back what a connection that is lost had in hand",
            "tests/integration/test_rabbitmq_consumers.py has others at the same broker",
            rabbit.stop,
            serve,
        )
