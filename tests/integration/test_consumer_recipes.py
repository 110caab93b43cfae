"""The programs of the how-tos for consumers, each against the real broker, stopped under load."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import nats
import pika
import pytest

from tests.apps.recipe import Recipe, in_hand, program
from tests.servers.child import wait_until
from tests.servers.nats import Nats
from tests.servers.rabbitmq import own_host, shared

RABBIT, NATS = "rabbitmq-consumers.md", "nats-consumers.md"
PROGRAMS = [
    (RABBIT, "pika, in one thread"),
    (RABBIT, "pika, with a pool of threads"),
    (RABBIT, "aio-pika"),
    (NATS, "A subscription with a callback"),
    (NATS, "A pull subscription"),
]
ROUNDS, ORDERS = 4, 60


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
    with own_host(rabbit) as host:
        url = f"amqp://guest:guest@127.0.0.1:{rabbit.port}/{quote(host, safe='')}"
        connection = pika.BlockingConnection(pika.URLParameters(url))
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
        connection.close()


@contextmanager
def jetstream(folder: Path) -> Iterator[Broker]:
    """Give the subject *orders* in a stream of a server of its own."""
    with Nats(folder) as server, asyncio.Runner() as runner:
        client = runner.run(nats.connect(server.url))
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
        runner.run(client.close())


BROKERS = {RABBIT: rabbitmq, NATS: jetstream}


@pytest.mark.parametrize(("page", "heading"), PROGRAMS, ids=[name for _, name in PROGRAMS])
def test_stopped_means_stopped(tmp_path: Path, page: str, heading: str) -> None:
    """
    Every message counts while it is handled, and none is begun after "stopped".

    Nothing that was published is lost, also where handling it has failed at first.
    """
    app = tmp_path / "app"
    app.mkdir()
    with (
        BROKERS[page](tmp_path) as broker,
        Recipe(app, program(page, heading), broker.environment) as recipe,
    ):
        for number in range(ROUNDS):
            broker.publish(range(number * ORDERS, (number + 1) * ORDERS))
            handled = seen(recipe)
            wait_until(lambda h=handled: seen(recipe) > h + 5, "it is in the midst of them")  # type: ignore[misc]
            wait_until(lambda: recipe.ask("stop") == 200, "it has stopped")
            assert recipe.report()["stopped"] is True
            begun = recipe.record()
            broker.publish(range(-10, 0))
            wait_until(lambda: broker.waiting() >= 10, "more are waiting")
            wait_until(lambda: quiet(recipe), "it has nothing in hand")
            after = recipe.record()[len(begun) :]
            assert [line for line in after if line.startswith("begin")] == []
            assert in_hand(recipe.record()) == 0
            assert recipe.ask("start") == 200
        wait_until(lambda: seen(recipe) == ROUNDS * ORDERS, "all are handled")


def seen(recipe: Recipe) -> int:
    """Return how many orders were handled, after a look at what it tells."""
    recipe.must_tell_the_truth()
    return len({number for number in recipe.handled() if number >= 0})


def quiet(recipe: Recipe) -> bool:
    """Tell whether it says that nothing is in hand."""
    recipe.must_tell_the_truth()
    return not recipe.report()["in_flight"]["messages"]
