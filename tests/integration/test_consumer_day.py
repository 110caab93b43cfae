"""A day in the life of an aio-pika consumer: a real agent deploys it again and again under load."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deregister_agent.config.backends import find
from deregister_agent.engine.instance_loop import InstanceLoop
from deregister_agent.model import Instance, Outcome, Phase, Policy, StopRequest
from tests.apps.recipe import Recipe, in_hand, program
from tests.integration.consumer_brokers import rabbitmq
from tests.loops import LIMIT, running_loop, until
from tests.servers.child import wait_until

ORDERS = 40
LONG = "1.5"  # seconds that some take: much longer than the app must be quiet
PROBE = {
    "kind": "http_json",
    "in_flight": {"messages": "/in_flight/messages", "tasks": "/in_flight/tasks"},
    "started": "/started",
    "mark": "/process/mark",
    "wait_parameter": "wait",
    "timeout": 20.0,
}
REGISTRY = {"kind": "http", "preset": "app", "timeout": 30.0}


@contextmanager
def agent_of(folder: Path, recipe: Recipe) -> Iterator[InstanceLoop]:
    """Run an agent that stops the consumer by its hooks and reads what it counts."""
    instance = Instance("web", "web", "127.0.0.1", recipe.port)
    made = {}
    for port, table in (("probes", PROBE), ("registries", REGISTRY)):
        backend = find("probes" if port == "probes" else "registries", str(table["kind"]))
        options = backend.Options.model_validate_json(json.dumps(table | {"url": recipe.url}))
        made[port] = backend.build(options, instance)
    policy = Policy(deadline=LIMIT, quiet=0.2, min_others=0)
    with running_loop(folder, instance, [made["registries"]], [made["probes"]], policy) as loop:
        yield loop


@pytest.mark.parametrize(
    "deploys",
    [3, pytest.param(50, marks=[pytest.mark.nightly, pytest.mark.timeout(1500)])],
)
def test_never_drained_with_a_message_in_hand(tmp_path: Path, deploys: int) -> None:
    """
    Whatever messages fail, time out and come back: "drained" is said of an idle app only.

    Some are given up after a time while the thread with them works on; that is work in hand
    as long as the record shows no end of it.
    """
    app = tmp_path / "app"
    app.mkdir()
    impatient = program("rabbitmq-consumers.md", "aio-pika").replace(", 30)", ", 0.1)")
    with (
        rabbitmq(tmp_path) as broker,
        Recipe(app, impatient, broker.environment | {"SHOP_LONG": LONG}) as recipe,
        agent_of(tmp_path, recipe) as loop,
    ):
        published = 0
        for _ in range(deploys):
            handled = len(recipe.handled())
            for _ in range(2):
                broker.publish(range(published, published + ORDERS))
                published += ORDERS
                wait_until(lambda h=handled: len(recipe.handled()) > h, "it is at work")  # type: ignore[misc]
            loop.stop_traffic(StopRequest())
            drain = until(loop, lambda drain: drain.outcome is not None, "an outcome")
            record = recipe.record()
            assert drain.outcome is Outcome.DRAINED
            assert in_hand(record) == set()
            broker.publish(range(published, published + ORDERS))
            published += ORDERS
            wait_until(lambda: broker.waiting() >= ORDERS, "more are waiting")
            assert loop.drain.phase is Phase.DRAINED
            assert recipe.record() == record
            loop.start_traffic("deployed", "a test")
            until(loop, lambda drain: drain.phase is Phase.SERVING, "serving")
        wait_until(lambda: recipe.handled() == set(range(published)), "all are handled", limit=60.0)
        record = recipe.record()
        assert any(line.startswith("failed") for line in record)
