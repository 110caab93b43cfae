"""The celery probe, with a real worker and its broker behind it."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from deregister_agent.probes.celery import Options, build
from tests.apps.celery_shop import shared

from . import Nothing, World, orders, wait_for


@contextmanager
def world() -> Iterator[World]:
    """Give a probe of a worker whose tasks last as long as the test says."""
    redis, worker = shared()
    held: list[Path] = []
    options = Options(
        kind="celery",
        app="tests.apps.celery_shop",
        worker=worker.name,
        python=(sys.executable,),
        folder=Path(__file__).parents[3],
        env=dict(worker.environment),
        timeout=12.0,
    )
    probe = build(options, orders(80))

    def busy(count: int) -> None:
        while len(held) < count:
            held.append(worker.send())
        while len(held) > count:
            held.pop().touch()
        wait_for(lambda: probe.read(0.0).in_flight["tasks"] == count, f"{count} tasks", 60)

    def serve() -> None:
        before = probe.read(0.0).started
        worker.send().touch()
        wait_for(lambda: probe.read(0.0).started != before, "a task has begun", 60)
        wait_for(lambda: probe.read(0.0).idle, "it has ended", 60)

    def outlives() -> Nothing:
        task = worker.send()  # nobody waits for its result
        wait_for(lambda: not probe.read(0.0).idle, "the task has begun", 60)
        return task.touch

    with ExitStack() as stack:
        stack.callback(worker.finish)
        stack.callback(worker.cont)
        stack.callback(redis.cont)
        yield World(
            probe,
            "tasks",
            busy,
            worker.stop,
            worker.cont,
            outlives,
            "tests/integration/test_probe_celery.py has other workers at the same broker",
            redis.stop,
            serve,
        )
