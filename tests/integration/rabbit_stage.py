"""What the tests of the rabbitmq probe begin with: probes, apps that poll, and whole drains."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from deregister_agent.engine.agent import Agent
from deregister_agent.engine.instance_loop import InstanceLoop
from deregister_agent.engine.knowledge import InstanceSetup
from deregister_agent.errors import ProbeError
from deregister_agent.host.clock import SystemClock
from deregister_agent.host.process_finder import ProbeMark
from deregister_agent.journal.journal import Journal
from deregister_agent.model import Instance, Policy
from deregister_agent.probes.rabbitmq import Options, RabbitMQProbe, build
from deregister_agent.registries import file
from tests.apps.rabbit_consumer import Consumer
from tests.loops import LIMIT
from tests.servers.rabbitmq import RabbitMQ

INSTANCE = Instance("orders-1", "orders", "127.0.0.1", 80)
QUIET = 0.2


def options(url: str, **more: object) -> Options:
    """Return the probe's options; the password is in the environment as RABBIT."""
    table = {"kind": "rabbitmq", "url": url, "user": "guest", "password": {"env": "RABBIT"}}
    return Options.model_validate_json(json.dumps(table | {"timeout": 10.0} | more))


def probe(url: str, **more: object) -> RabbitMQProbe:
    """Return the probe as a configuration would make it."""
    return build(options(url, **more), INSTANCE)


def told(asked: RabbitMQProbe) -> dict[str, int] | None:
    """Return what the probe says is in hand; None where it does not know."""
    with suppress(ProbeError):
        return dict(asked.read(0.0).in_flight)
    return None


def started(asked: RabbitMQProbe) -> int | None:
    """Return how much work the probe says was begun; None where it does not know."""
    with suppress(ProbeError):
        return asked.read(0.0).started
    return None


def error(asked: RabbitMQProbe) -> str:
    """Return why the probe does not know; empty where it does."""
    try:
        asked.read(0.0)
    except ProbeError as e:
        return str(e)
    return ""


@contextmanager
def draining(folder: Path, asked: RabbitMQProbe) -> Iterator[tuple[InstanceLoop, Agent]]:
    """Run an agent with the probe, and a file that lists the instance."""
    path = folder / "targets.json"
    path.write_text(json.dumps([{"targets": ["127.0.0.1:80"]}]))
    listed = file.build(file.Options(kind="file", path=path), INSTANCE)
    policy, clock = Policy(deadline=LIMIT, quiet=QUIET, min_others=0), SystemClock()
    setup = InstanceSetup(INSTANCE, policy, [listed], [asked], ProbeMark(clock))
    agent = Agent(Journal(folder / "journal.db", clock), clock, [(setup, {})])
    agent.start()
    try:
        yield agent.instances[INSTANCE.name], agent
    finally:
        agent.stop()


class Poller:
    """
    An app that asks for messages again and again, in a thread, until it is ended.

    Each is acknowledged as soon as it is there, so it is hardly ever in hand when somebody
    looks. *publishes*: whether it finds a message each time; *auto_ack*: whether none of its
    messages is ever unacknowledged; *new_channels*: whether it opens a channel for each.
    """

    def __init__(
        self,
        rabbit: RabbitMQ,
        host: str,
        *,
        publishes: bool = True,
        auto_ack: bool = False,
        new_channels: bool = False,
    ) -> None:
        self._consumer = Consumer(rabbit, host=host)
        self._publishes, self._auto_ack, self._new_channels = publishes, auto_ack, new_channels
        self._over = threading.Event()
        self.asked = 0
        self._thread = threading.Thread(target=self._poll)
        self._thread.start()

    def _poll(self) -> None:
        while not self._over.wait(0.3):
            channel = self._consumer.channel
            if self._publishes:
                channel.basic_publish("", "orders", b"x")
            method, _, _ = channel.basic_get("orders", auto_ack=self._auto_ack)
            self.asked += 1
            if method is not None and method.delivery_tag is not None and not self._auto_ack:
                channel.basic_ack(method.delivery_tag)
            if self._new_channels:
                self._consumer.new_channel()

    def end(self) -> None:
        """Ask for no more messages; the connection stays."""
        self._over.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()
        self._consumer.close()
