"""The programs of the how-to on messages, with the real clients, as the page has them."""

import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from channels_redis.core import RedisChannelLayer
from confluent_kafka import Consumer, Producer, TopicPartition

from deregister_agent.app import Work
from deregister_agent.demo.stage import free_ports
from tests.servers.redis import Redis
from tests.unit.test_app_promises import until

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "count-messages.md"
PENDING = "return redis.call('XPENDING', 'orders', 'shop')[1]"
SHOP = """
import asyncio, time
from pathlib import Path

def begun(body):
    name = bytes(body).decode()
    with open("taken", "a") as file:
        file.write(name + "\\n")
    return name

def handle(body):
    name = begun(body)
    while not (Path("release").exists() or Path("release-" + name).exists()):
        time.sleep(0.01)
    Path("ended-" + name).touch()
"""

ASYNC_SHOP = SHOP.replace("def handle", "async def handle").replace(
    "time.sleep", "await asyncio.sleep"
)
WORKER = """
import os, django
from django.conf import settings
from django.core.management import call_command

settings.configure(
    ASGI_APPLICATION="recipe.application",
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={"default": {
        "BACKEND": "recipe.PausingLayer",
        "CONFIG": {"hosts": [{"address": os.environ["REDIS"], "socket_timeout": 30}]},
    }},
)
django.setup()
call_command("runworker", "orders")
"""


def recipe(title: str, number: int = 0) -> str:
    """Return a program of the page, by its heading."""
    section = PAGE.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    programs = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return str(programs[number])


class Program:
    """A program of the page as a child process, and what it has done."""

    def __init__(self, folder: Path, text: str, shop: str, **env: str) -> None:
        (self.port,) = free_ports(1)
        self.folder = folder
        (folder / "recipe.py").write_text(text.replace("9001", str(self.port)))
        (folder / "shop.py").write_text(shop)
        (folder / "worker.py").write_text(WORKER)
        program = "worker.py" if "application =" in text else "recipe.py"
        with (folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, program],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
                stdout=log,
                stderr=log,
            )

    def ask(self, path: str = "", method: str = "GET") -> Any:
        """Ask its page."""
        url = f"http://127.0.0.1:{self.port}/-/work{path}"
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=60) as said:
            return json.loads(said.read())

    def in_flight(self) -> dict[str, int]:
        """Return what is in flight, without the kinds of which there is nothing."""
        return {kind: count for kind, count in self.ask()["in_flight"].items() if count}

    def taken(self) -> list[str]:
        """Return the messages that came to it, in turn."""
        file = self.folder / "taken"
        return file.read_text().splitlines() if file.exists() else []

    def release(self, name: str = "") -> None:
        """Let one message be done, or all from now on."""
        (self.folder / (f"release-{name}" if name else "release")).touch()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition; say what the program wrote if it does not come about."""
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                if condition():
                    return
            if time.monotonic() > end or self.process.poll() is not None:
                pytest.fail((self.folder / "log").read_text() + f"\ntaken: {self.taken()}")
            time.sleep(0.02)


@contextmanager
def running(folder: Path, text: str, shop: str = SHOP, **env: str) -> Iterator[Program]:
    program = Program(folder, text, shop, **env)
    try:
        program.until(lambda: program.in_flight() == {})
        yield program
    finally:
        program.process.send_signal(signal.SIGKILL)
        program.process.wait(60)


Send = Callable[[str], None]
"""Sends a message with that body."""


def one_drain(program: Program, send: Send) -> None:
    """Stop with a message in hand and more to come; then finish, start again, and get them."""
    send("first")
    program.until(lambda: program.taken() == ["first"])
    assert program.in_flight() == {"messages": 1}
    assert program.ask("/stop", "POST")["stopped"]
    for name in ("second", "third"):
        send(name)
    assert program.in_flight() == {"messages": 1}
    program.release("first")
    program.until(lambda: program.in_flight() == {})
    assert (program.folder / "ended-first").exists()
    for _ in range(100):  # longer than any client of the page waits between two looks
        assert program.taken() == ["first"]
        time.sleep(0.02)
    assert program.ask()["stopped"]


def and_back(program: Program) -> None:
    """Start again: what came in meanwhile is taken, one after another, and counts."""
    assert not program.ask("/start", "POST")["stopped"]
    program.until(lambda: len(program.taken()) == 2)
    assert program.in_flight() == {"messages": 1}
    program.release()
    program.until(lambda: program.in_flight() == {} and len(program.taken()) == 3)
    assert sorted(program.taken()) == ["first", "second", "third"]


class TestRedis:
    def test_streams(self, redis: Redis, tmp_path: Path) -> None:
        """What was in hand is acknowledged, what came later is delivered to nobody meanwhile."""
        redis.call("FLUSHALL")
        with running(tmp_path, recipe("Redis streams"), REDIS=redis.url) as program:
            program.until(lambda: redis.call("EXISTS", "orders") == 1)
            one_drain(program, lambda body: redis.call("XADD", "orders", "*", "body", body))
            assert redis.call("EVAL", PENDING, "0") == 0
            and_back(program)
            assert redis.call("EVAL", PENDING, "0") == 0

    @pytest.mark.parametrize("pop", ["blmove", "blpop"])
    def test_lists(self, redis: Redis, tmp_path: Path, pop: str) -> None:
        """What came later stays in the list; BLPOP stops as well as BLMOVE."""
        redis.call("FLUSHALL")
        text = recipe("Redis lists")
        if pop == "blpop":
            text = text.replace(
                'body = redis.blmove("orders", "orders:web-1", timeout=1)',
                'body = (redis.blpop("orders", timeout=1) or (0, None))[1]',
            )
            assert "blpop" in text
        with running(tmp_path, text, REDIS=redis.url) as program:
            one_drain(program, lambda body: redis.call("LPUSH", "orders", body))
            assert redis.call("LLEN", "orders") == 2
            and_back(program)
            assert redis.call("LLEN", "orders") == redis.call("LLEN", "orders:web-1") == 0


class MockCluster:
    """
    The broker of librdkafka's makers, in this process: it speaks the protocol of Kafka.

    Made by the producer's setting test.mock.num.brokers (librdkafka's CONFIGURATION.md).
    """

    def __init__(self) -> None:
        self._producer = Producer({"test.mock.num.brokers": 1, "log_level": 3})
        known = self._producer.list_topics(timeout=60).brokers.values()
        self.address = ",".join(f"{broker.host}:{broker.port}" for broker in known)

    def send(self, body: str) -> None:
        self._producer.produce("orders", value=body.encode())
        assert self._producer.flush(60) == 0

    def committed(self) -> int:
        """Return how many messages the group has committed."""
        one = Consumer({"bootstrap.servers": self.address, "group.id": "shop", "log_level": 3})
        parts = one.list_topics("orders", timeout=60).topics["orders"].partitions
        offsets = one.committed([TopicPartition("orders", part) for part in parts], timeout=60)
        one.close()
        return sum(max(offset.offset, 0) for offset in offsets)


@pytest.mark.parametrize("client", ["confluent-kafka", "aiokafka"])
class TestKafka:
    def test_a_drain(self, client: str, tmp_path: Path) -> None:
        """Stopped, it gets nothing; what was in hand is committed; started, it gets the rest."""
        kafka = MockCluster()
        # This cluster keeps who has left until its session ends, 45 s by default.
        text = (
            recipe(client)
            .replace('"group.id"', '"session.timeout.ms": 6000, "group.id"')
            .replace("group_id=", "session_timeout_ms=6000, group_id=")
        )
        assert "6000" in text
        with running(tmp_path, text, KAFKA=kafka.address) as program:
            one_drain(program, kafka.send)
            assert kafka.committed() == 1
            and_back(program)
            program.until(lambda: kafka.committed() == 3)


class TestPause:
    def test_aiokafka_needs_partitions(self) -> None:
        """The hook that people write is refused where it is registered."""

        async def main() -> None:
            consumer = AIOKafkaConsumer("orders", bootstrap_servers="127.0.0.1:1")
            work = Work()
            for hook in (consumer.pause, partial(consumer.pause), consumer.resume):
                with pytest.raises(TypeError, match=r"AIOKafkaConsumer\.\w+.* acts on partitions"):
                    work.on_stop(hook)
            await consumer.stop()

        asyncio.run(main())

    def test_confluent_kafka_does_not_tell_and_is_not_believed(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Its functions have no signature in Python: the ask fails, and is no stop."""
        work = Work()
        consumer = Consumer({"bootstrap.servers": "127.0.0.1:1", "group.id": "x", "log_level": 0})
        work.on_stop(consumer.pause)  # type: ignore[type-var] # its stubs tell, its code does not
        with caplog.at_level(logging.ERROR):
            work.ask(stop=True)
            until(work.settled)
        assert "a hook failed in process" in str(work.trouble())
        assert not work.stopped
        assert "partitions" in caplog.text
        consumer.close()


class Layer:
    """Sends to the workers of Channels, as a view would."""

    def __init__(self, redis: Redis) -> None:
        redis.call("FLUSHALL")
        self._redis = redis

    def send(self, body: str, group: str = "") -> None:
        """Send a message to a worker, or to all that have joined a group."""
        message = {"type": "order.made", "body": body.encode()}

        async def one() -> None:
            layer = RedisChannelLayer(hosts=[self._redis.url])
            await (layer.group_send(group, message) if group else layer.send("orders", message))
            await layer.close_pools()

        asyncio.run(one())

    def left(self) -> int:
        """Return how many messages no worker has taken."""
        return int(self._redis.call("ZCARD", "asgiorders"))


CHANNELS = recipe("Channels")
CONSUMERS = {
    "async": (CHANNELS, ASYNC_SHOP),
    "sync": (
        CHANNELS.replace("AsyncConsumer", "SyncConsumer")
        .replace("async def order_made", "def order_made")
        .replace("await handle", "handle"),
        SHOP,
    ),
}


class TestChannels:
    @pytest.mark.parametrize("kind", CONSUMERS)
    def test_a_drain(self, redis: Redis, tmp_path: Path, kind: str) -> None:
        """A worker that waits has nothing in hand; stopped, it leaves messages to others."""
        layer = Layer(redis)
        text, shop = CONSUMERS[kind]
        with running(tmp_path, text, shop, REDIS=redis.url) as program:
            one_drain(program, layer.send)
            assert layer.left() == 2
            and_back(program)
            assert layer.left() == 0

    @pytest.mark.parametrize("kind", CONSUMERS)
    def test_what_the_worker_has_taken_already(
        self, redis: Redis, tmp_path: Path, kind: str
    ) -> None:
        """A stop does not give back what is in the worker's queue: all of it is in hand."""
        layer = Layer(redis)
        text, shop = CONSUMERS[kind]
        names = [f"n{number}" for number in range(20)]
        with running(tmp_path, text, shop, REDIS=redis.url) as program:
            for name in names:
                layer.send(name)
            program.until(lambda: layer.left() == 0 and program.taken() == names[:1])
            assert program.ask("/stop", "POST")["stopped"]
            for name in names:
                assert program.in_flight() == {"messages": 1}
                assert not (tmp_path / f"ended-{name}").exists()
                program.release(name)
            assert not any(program.ask("?wait=60")["in_flight"].values())
            assert (tmp_path / f"ended-{names[-1]}").exists()
            assert program.taken() == names

    def test_messages_of_a_group(self, redis: Redis, tmp_path: Path) -> None:
        """With the page's dispatch they count; they come to the consumer past the middleware."""
        layer = Layer(redis)
        joined = recipe("Channels", 1) + "\n"
        text = CHANNELS.replace("class Orders(AsyncConsumer):\n", joined).replace(
            "        await handle",
            '        await self.channel_layer.group_add("all", self.channel_name)\n'
            "        await handle",
        )
        with running(tmp_path, text, ASYNC_SHOP, REDIS=redis.url) as program:
            program.release("first")
            layer.send("first")
            program.until(lambda: program.taken() == ["first"] and program.in_flight() == {})
            layer.send("second", group="all")
            program.until(lambda: program.taken() == ["first", "second"])
            assert program.in_flight() == {"messages": 1}
            program.release()
            program.until(lambda: program.in_flight() == {})

    def test_a_consumer_that_fails(self, redis: Redis, tmp_path: Path) -> None:
        """Its message is over, and the next one makes another consumer."""
        layer = Layer(redis)
        text = CHANNELS.replace(
            "await handle(", 'await (1 / 0 if message["body"] == b"bad" else handle)('
        )
        with running(tmp_path, text, ASYNC_SHOP, REDIS=redis.url) as program:
            layer.send("bad")
            program.until(lambda: "Exception inside application" in (tmp_path / "log").read_text())
            assert program.in_flight() == {}
            layer.send("good")
            program.until(lambda: program.taken() == ["good"])
            assert program.in_flight() == {"messages": 1}
