"""Consumers of messages and tasks, with the real broker behind them where there is one."""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

from celery import Celery  # type: ignore[import-untyped]

from tests.apps.celery_shop import Worker
from tests.apps.pages import document, pages
from tests.apps.rabbit_consumer import Consumer
from tests.contract.probes.pulsar import stats
from tests.held_work import Counts, Stand
from tests.servers.child import wait_until
from tests.servers.rabbitmq import own_host, shared
from tests.servers.redis import Redis

HELD = 3
SLOTS = 2  # tasks that the worker does at a time
GROUP = ("orders", "shop")


@contextmanager
def rabbitmq(folder: Path) -> Iterator[Stand]:
    """Set up a consumer that acknowledges late."""
    with ExitStack() as stack:
        rabbit = shared()
        (folder / "password").write_text("guest")
        host = stack.enter_context(own_host(rabbit))
        consumer = stack.enter_context(Consumer(rabbit, host=host))

        def counts() -> Counts:
            channels = rabbit.call("GET", f"/api/vhosts/{quote(host, safe='')}/channels")
            assert isinstance(channels, list)
            return {"messages": sum(c.get("messages_unacknowledged", HELD) for c in channels)}

        def begin() -> None:
            consumer.take(HELD)
            wait_until(lambda: counts()["messages"] == HELD, "it shows")

        def end() -> float:
            consumer.take(0)
            return time.monotonic()

        table = {
            "kind": "rabbitmq", "url": rabbit.url, "user": "guest", "vhost": host,
            "password": {"file": str(folder / "password")}, "lag": rabbit.lag, "timeout": 10.0,
        }  # fmt: skip
        in_hand = {"messages": HELD, "consumers": 0}
        yield Stand(table, 80, in_hand, begin, end, counts, rabbit.lag)


@contextmanager
def redis_stream(folder: Path) -> Iterator[Stand]:
    """Set up a consumer of a stream that acknowledges late."""
    with Redis(folder) as redis:
        redis.call("XGROUP", "CREATE", *GROUP, "$", "MKSTREAM")
        redis.call("XGROUP", "CREATECONSUMER", *GROUP, "web-1")
        held: list[str] = []

        def begin() -> None:
            for _ in range(HELD):
                held.append(str(redis.call("XADD", "orders", "*", "n", "1")))
                redis.call("XREADGROUP", "GROUP", "shop", "web-1", "STREAMS", "orders", ">")

        def end() -> float:
            redis.call("XACK", *GROUP, *held)
            held.clear()
            return time.monotonic()

        def counts() -> Counts:
            told = redis.call("XPENDING", *GROUP)
            assert isinstance(told, list)
            assert isinstance(told[0], int)
            return {"messages": told[0]}

        table = {
            "kind": "redis_stream", "url": redis.url, "streams": ["orders"], "group": "shop",
            "consumer": "web-1", "timeout": 10.0,
        }  # fmt: skip
        yield Stand(table, 80, {"messages": HELD}, begin, end, counts)


@contextmanager
def pulsar(folder: Path) -> Iterator[Stand]:
    """Say what a broker's admin API would: there is no real one here."""
    del folder
    held = {"web-1": 0}
    with pages(lambda _: document(stats(*held.items(), ("web-2", 5)))) as server:

        def hold(count: int) -> float:
            held["web-1"] = count
            return time.monotonic()

        table = {
            "kind": "pulsar", "url": server.url, "topics": ["persistent://public/default/orders"],
            "subscription": "shop", "consumer": "web-1", "count_consumers": False, "timeout": 10.0,
        }  # fmt: skip
        yield Stand(
            table,
            80,
            {"messages": HELD},
            lambda: hold(HELD),
            lambda: hold(0),
            lambda: {"messages": held["web-1"]},
        )


@contextmanager
def celery(folder: Path) -> Iterator[Stand]:
    """Have tasks at work, and one that was prefetched."""
    with Redis(folder) as redis, Worker(folder, redis, slots=SLOTS) as worker:
        held: list[Path] = []
        client = Celery("client", broker=worker.environment["SHOP_BROKER"])
        ask = client.control.inspect([worker.name], timeout=10.0)
        in_hand = {"tasks": SLOTS, "reserved": 1, "scheduled": 0}

        def counts() -> Counts:
            told = {"reserved": ask.reserved(), "tasks": ask.active()}
            return {what: len(answer[worker.name]) for what, answer in told.items()} | {
                "scheduled": 0
            }

        def begin() -> None:
            held.extend(worker.send() for _ in range(SLOTS + 1))
            wait_until(lambda: counts() == in_hand, "it has them")

        def end() -> float:
            for until in held:
                until.touch()
            ended = [Path(f"{until}.ended") for until in held]
            held.clear()
            wait_until(lambda: all(file.exists() for file in ended), "they end", pause=0.001)
            return max(float(file.read_text()) for file in ended)

        table = {
            "kind": "celery", "app": "tests.apps.celery_shop", "worker": worker.name,
            "python": [sys.executable], "folder": str(Path(__file__).parents[2]),
            "env": worker.environment, "timeout": 20.0,
        }  # fmt: skip
        with client:
            yield Stand(table, 80, in_hand, begin, end, counts)
        worker.finish()
