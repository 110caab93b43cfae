"""The redis_stream probe, with a real Redis behind it."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deregister_agent.probes.redis_stream.probe import Options, build
from tests.servers.redis import Redis

from . import Nothing, World, orders

GROUP = ("orders", "shop")


@contextmanager
def world() -> Iterator[World]:
    """Give a probe of a consumer that reads and acknowledges as the test says."""
    with tempfile.TemporaryDirectory() as folder, Redis(Path(folder)) as redis:
        held: list[str] = []

        def find() -> None:
            redis.call("XGROUP", "CREATE", *GROUP, "$", "MKSTREAM")
            redis.call("XGROUP", "CREATECONSUMER", *GROUP, "web-1")

        def lose() -> None:
            held.clear()
            redis.call("XGROUP", "DESTROY", *GROUP)

        def busy(count: int) -> None:
            while len(held) > count:
                redis.call("XACK", *GROUP, held.pop())
            while len(held) < count:
                held.append(str(redis.call("XADD", "orders", "*", "n", "1")))
                redis.call("XREADGROUP", "GROUP", "shop", "web-1", "STREAMS", "orders", ">")

        def delivered(consumer: str) -> Nothing:
            """Deliver an entry to a client that has gone as soon as it had it."""
            entry = str(redis.call("XADD", "orders", "*", "n", "1"))
            redis.call("XREADGROUP", "GROUP", "shop", consumer, "STREAMS", "orders", ">")
            return lambda: redis.call("XACK", *GROUP, entry)

        find()
        options = Options(
            kind="redis_stream",
            url=redis.url,
            streams=("orders",),
            group="shop",
            consumer="web-1",
            timeout=1.0,
        )
        yield World(
            build(options, orders(80)),
            "messages",
            busy,
            lose,
            find,
            lambda: delivered("web-1"),
            lambda: delivered("web-12"),
            redis.stop,
        )
