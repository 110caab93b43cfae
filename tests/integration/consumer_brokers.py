"""The brokers of the how-tos' consumers, with their orders, for the tests that run these."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import nats
import pika

from tests.servers.nats import Nats
from tests.servers.rabbitmq import own_host, shared


@dataclass(frozen=True)
class Broker:
    """The broker of a program, as the test sees it."""

    environment: dict[str, str]
    publish: Callable[[range], None]  # orders by their numbers; returns when the broker has them
    waiting: Callable[[], int]  # how many it has not given to anybody


@contextmanager
def rabbitmq(folder: Path) -> Iterator[Broker]:
    """Give the queue *orders* in a virtual host of its own."""
    del folder
    rabbit = shared()
    with own_host(rabbit) as host, ExitStack() as stack:
        url = f"amqp://guest:guest@127.0.0.1:{rabbit.port}/{quote(host, safe='')}"
        connection = pika.BlockingConnection(pika.URLParameters(url))
        stack.callback(connection.close)
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("orders", durable=True)

        def publish(orders: range) -> None:
            for number in orders:
                channel.basic_publish("", "orders", str(number).encode())

        def waiting() -> int:
            count = channel.queue_declare("orders", passive=True).method.message_count
            assert count is not None
            return count

        yield Broker({"AMQP_URL": url}, publish, waiting)


@contextmanager
def jetstream(folder: Path) -> Iterator[Broker]:
    """Give the subject *orders* in a stream of a server of its own."""
    with Nats(folder) as server, asyncio.Runner() as runner, ExitStack() as stack:
        client = runner.run(nats.connect(server.url))
        stack.callback(lambda: runner.run(client.close()))
        stream = client.jetstream()
        runner.run(stream.add_stream(name="ORDERS", subjects=["orders"]))

        def publish(orders: range) -> None:
            for number in orders:
                runner.run(stream.publish("orders", str(number).encode()))

        def waiting() -> int:
            async def pending() -> int:
                consumers = await stream.consumers_info("ORDERS")
                return sum(consumer.num_pending or 0 for consumer in consumers)

            return runner.run(pending())

        yield Broker({"NATS_URL": server.url}, publish, waiting)
