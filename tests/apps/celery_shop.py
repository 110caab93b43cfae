"""A Celery app for tests, whose tasks wait until a file is there, and a worker of it."""

import atexit
import os
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import cache
from pathlib import Path

from celery import Celery  # type: ignore[import-untyped]

from tests.servers.child import Child, wait_until
from tests.servers.redis import Redis

print("an app may print what it likes")
BROKER = os.environ.get("SHOP_BROKER", "")
app = Celery("shop", broker=BROKER)
app.conf.update(worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)


@app.task(name="shop.pack", rate_limit=os.environ.get("SHOP_RATE"))  # type: ignore[untyped-decorator]
def pack(until: str) -> None:
    """Work until that file is there, and then write down when that was."""
    while not Path(until).exists():
        time.sleep(0.01)
    Path(f"{until}.new").write_text(repr(time.monotonic()))
    Path(f"{until}.new").rename(f"{until}.ended")


class Worker(Child):
    """
    One worker with *slots* threads; it works in *folder*, for a broker of its own.

    With a *rate*, such as 1/h, the task begins no more often.
    """

    def __init__(
        self, folder: Path, redis: Redis, *, slots: int = 4, name: str = "w@here", rate: str = ""
    ) -> None:
        self.folder = folder
        self.environment = {"SHOP_BROKER": f"{redis.url}/0"} | ({"SHOP_RATE": rate} if rate else {})
        self.name = name
        self._sent: list[Path] = []
        command = [sys.executable, "-m", "celery", "-A", "tests.apps.celery_shop", "worker"]
        options = ["-P", "threads", "-c", str(slots), "-n", name, "-l", "INFO"]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        super().__init__(
            [*command, *options, *quiet],
            folder / f"{name}.log",
            environment=self.environment,
            folder=Path(__file__).parents[2],
        )
        self.wait_ready(lambda: " ready." in self.tail(), limit=60)

    def send(self, **how: float) -> Path:
        """Send a task, and return the file that ends it."""
        until = self.folder / f"{self.name}-{len(self._sent)}"
        self._sent.append(until)
        with Celery("client", broker=self.environment["SHOP_BROKER"]) as client:
            client.send_task("shop.pack", [str(until)], **how)
        return until

    def finish(self) -> None:
        """End every task that was sent, and wait until the worker has done them all."""
        for until in self._sent:
            until.touch()
        with Celery("client", broker=self.environment["SHOP_BROKER"]) as client:
            ask = client.control.inspect([self.name], timeout=5.0)
            wait_until(
                lambda: all(found() == {self.name: []} for found in (ask.reserved, ask.active)),
                "its tasks have ended",
                limit=60,
            )


@cache
def shared() -> tuple[Redis, Worker]:
    """
    Return a worker and its broker that all tests of this process share; they end with it.

    Let both go on where they were frozen, end the tasks that were sent, and kill neither.
    """
    stack = ExitStack()
    atexit.register(stack.close)
    folder = Path(tempfile.mkdtemp(prefix="celery-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    redis = stack.enter_context(Redis(folder))
    worker = stack.enter_context(Worker(folder, redis))
    return redis, worker
