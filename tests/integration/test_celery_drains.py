"""Drains of a Celery worker by the recipe of the docs, under load, with a real broker."""

import json
import random
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from deregister_agent.config.backends import find
from deregister_agent.engine.agent import Agent
from deregister_agent.engine.instance_loop import InstanceLoop
from deregister_agent.engine.knowledge import InstanceSetup
from deregister_agent.host.clock import SystemClock
from deregister_agent.host.process_finder import ProbeMark
from deregister_agent.journal.journal import Journal
from deregister_agent.model import Instance, Outcome, Phase, Policy, StopRequest
from tests.apps.celery_shop import Worker
from tests.docs.test_docs import ROOT, blocks
from tests.loops import eventually, until
from tests.servers.rabbitmq import own_host, shared
from tests.servers.redis import Redis

RECIPE = ROOT / "docs" / "how-to" / "drain-a-celery-worker.md"
QUEUES = ("celery", "mail")
DEADLINE = 300.0  # seconds: each act of the recipe starts a Python with Celery in it
FOLLOWS = "from tests.apps.celery_shop import app\n__all__ = ['app']\n"


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "redis":
        (tmp_path / "redis").mkdir()
        with Redis(tmp_path / "redis") as redis:
            yield f"{redis.url}/0"
    else:
        rabbit = shared()
        with own_host(rabbit) as host:
            yield f"amqp://guest:guest@127.0.0.1:{rabbit.port}/{quote(host, safe='')}"


def backend(port: Any, table: dict[str, Any], worker: Worker, folder: Path) -> Any:
    """Return what the recipe's table means for that worker and this Python."""
    ours = {"PYTHONPATH": str(ROOT), "CELERY_WORKER": worker.name, "CELERY_QUEUES": "celery mail"}
    changed = {
        **table,
        "folder": str(folder),
        "env": {**ours, **worker.environment},
        "timeout": 30.0,
        "name": "recipe",
    }
    for key in ("withdraw", "restore", "lists", "python"):
        if key in table:
            changed[key] = [sys.executable, *table[key][1:]]
    if "worker" in table:
        changed["worker"] = worker.name
    module = find(port, table["kind"])
    options = module.Options.model_validate_json(json.dumps(changed))
    return module.build(options, Instance("worker-1", "shop", "127.0.0.1", 1))


@contextmanager
def recipe(folder: Path, worker: Worker) -> Iterator[tuple[InstanceLoop, Agent]]:
    """Run an agent as the page says, with its script in a folder with the app."""
    (table,) = tomllib.loads(blocks(RECIPE, "toml")[0])["instance"]
    (folder / "shop").mkdir()
    (folder / "shop" / "__init__.py").touch()
    (folder / "shop" / "celery.py").write_text(FOLLOWS)
    (folder / "celery_queues.py").write_text(blocks(RECIPE, "python")[0])
    registry = backend("registries", table["registry"][0], worker, folder)
    probe = backend("probes", table["probe"][0], worker, folder)
    clock = SystemClock()
    policy = Policy(deadline=DEADLINE, quiet=2.0, min_others=0)
    instance = Instance("worker-1", "shop", "127.0.0.1", 1)
    setup = InstanceSetup(instance, policy, [registry], [probe], ProbeMark(clock))
    agent = Agent(Journal(folder / "journal.db", clock), clock, [(setup, {})])
    agent.start()
    try:
        yield agent.instances["worker-1"], agent
    finally:
        agent.stop()


def still_at_work(worker: Worker) -> list[str]:
    """Return the pieces that have begun and not ended, in processes that have not been killed."""
    begun: dict[tuple[str, str], int] = {}
    for line in worker.diary.read_text().splitlines():
        what, piece, pid = line.split()
        if what in ("begin", "end"):
            step = 1 if what == "begin" else -1
            begun[piece, pid] = begun.get((piece, pid), 0) + step
    return [p for (p, pid), left in begun.items() if left and Path(f"/proc/{pid}").exists()]


def drained(loop: InstanceLoop) -> None:
    """Stop traffic, and return when it is drained; fail with any other outcome."""
    loop.stop_traffic(StopRequest())
    drain = until(loop, lambda drain: drain.outcome is not None, "an outcome", limit=DEADLINE)
    assert drain.outcome is Outcome.DRAINED, loop.status().blocking


def serving(loop: InstanceLoop) -> None:
    """Start traffic, and return when the worker consumes again."""
    loop.start_traffic("", "")
    until(loop, lambda drain: drain.phase is Phase.SERVING, "serving", limit=DEADLINE)


def test_the_recipe(tmp_path: Path, broker: str) -> None:
    """Both queues are taken away and given back; what was begun is ended, and nothing is lost."""
    with (
        Worker(tmp_path, broker, pool="prefork", slots=2, command_line=["-Q", ",".join(QUEUES)])
        as worker,
        recipe(tmp_path, worker) as (loop, _),
    ):  # fmt: skip
        eventually(lambda: not loop.status().error, "it is known")
        ends = [worker.send(queue=queue) for queue in QUEUES]
        eventually(lambda: len(worker.noted("begin")) == 2, "both work")
        loop.stop_traffic(StopRequest())
        held = "2 tasks in flight (recipe)"
        eventually(lambda: loop.status().blocking == (held,), held)
        late = [worker.send(queue=queue) for queue in QUEUES]
        for end in [*ends, *late]:
            end.touch()
        drain = until(loop, lambda drain: drain.outcome is not None, "an outcome")
        assert drain.outcome is Outcome.DRAINED
        assert sorted(worker.noted("end")) == sorted(map(str, ends))
        serving(loop)
        eventually(lambda: len(worker.noted("end")) == 4, "those that came later are done")


class Load(threading.Thread):
    """Sends tasks that end in all ways there are, until it is told to stop."""

    def __init__(self, worker: Worker, seed: int) -> None:
        super().__init__()
        self._worker, self._random = worker, random.Random(seed)
        self._stop_sending = threading.Event()
        self.sent = 0
        self.start()

    def run(self) -> None:
        with self._worker.client() as client:
            while not self._stop_sending.wait(self._random.uniform(0.0, 0.2)):
                self._send(client)
                self.sent += 1

    def stop(self) -> None:
        """Send no more."""
        self._stop_sending.set()
        self.join()

    def _send(self, client: Any) -> None:
        how = self._random.choice(("plain", "late", "twice", "limit", "later", "revoked", "killed"))
        task = {"late": "shop.nap_late", "twice": "shop.nap_twice"}.get(how, "shop.nap")
        ways: dict[str, dict[str, Any]] = {
            "limit": {"soft_time_limit": 1, "time_limit": 2},
            "later": {"countdown": self._random.uniform(0.1, 3.0)},
        }
        more = ways.get(how, {})
        more["queue"] = self._random.choice(QUEUES)
        # One that is revoked and ends between two readings would be taken for terminated.
        long = how in ("limit", "killed", "revoked")
        duration = 4.0 if long else self._random.uniform(0.0, 1.0)
        sent = client.send_task(task, [f"{how}-{self.sent}", duration], **more)
        if how in ("revoked", "killed"):
            self._stop_sending.wait(self._random.uniform(0.0, 0.3))
            client.control.revoke(sent.id, terminate=how == "killed")


@pytest.mark.timeout(7200)  # a drain takes 15 to 60 s: most of it is starting Pythons
@pytest.mark.parametrize("drains", [2, pytest.param(50, marks=pytest.mark.nightly)])
def test_a_day_in_the_life(tmp_path: Path, broker: str, drains: int) -> None:
    """Never "drained" with a piece of work begun and not ended, and always drained in the end."""
    queues = ["-Q", ",".join(QUEUES)]
    with (
        Worker(tmp_path, broker, pool="prefork", slots=6, command_line=queues) as worker,
        recipe(tmp_path, worker) as (loop, _),
    ):
        load = Load(worker, seed=drains)
        try:
            for _ in range(drains):
                begun = len(worker.noted("begin"))
                eventually(lambda n=begun: len(worker.noted("begin")) >= n + 5, "it works")  # type: ignore[misc]
                drained(loop)
                assert still_at_work(worker) == []
                counted, at = len(worker.noted("begin")), time.monotonic()
                assert loop.drain.phase is Phase.DRAINED
                eventually(lambda t=at: time.monotonic() > t + 1, "a second")  # type: ignore[misc]
                assert len(worker.noted("begin")) == counted
                serving(loop)
        finally:
            load.stop()
