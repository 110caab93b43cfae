"""A Celery app for tests, whose tasks wait until a file is there, and a worker of it."""

import atexit
import importlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

from celery import Celery  # type: ignore[import-untyped]
from celery.exceptions import SoftTimeLimitExceeded  # type: ignore[import-untyped]

from tests.servers.child import Child, wait_until
from tests.servers.redis import Redis

print("an app may print what it likes")
BROKER = os.environ.get("SHOP_BROKER", "")
DIARY = os.environ.get("SHOP_DIARY", os.devnull)
app = Celery("shop", broker=BROKER)
app.conf.update(worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)
app.conf.update(json.loads(os.environ.get("SHOP_SETTINGS", "{}")))


def note(what: str, piece: str) -> None:
    """Write a line down that no kill can tear or lose: one write, at the end of the file."""
    file = os.open(DIARY, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(file, f"{what} {piece} {os.getpid()}\n".encode())
    finally:
        os.close(file)


def work(until: str) -> None:
    """Work until that file is there, and then write down when that was."""
    note("begin", until)
    while not Path(until).exists():
        time.sleep(0.01)
    Path(f"{until}.new").write_text(repr(time.monotonic()))
    note("end", until)
    Path(f"{until}.new").rename(f"{until}.ended")


@app.task(name="shop.pack", rate_limit=os.environ.get("SHOP_RATE"))  # type: ignore[untyped-decorator]
def pack(until: str) -> None:
    """Work until that file is there."""
    work(until)


@app.task(name="shop.pack_late", acks_late=True)  # type: ignore[untyped-decorator]
def pack_late(until: str) -> None:
    """Work until that file is there; the broker keeps the task until then."""
    work(until)


@app.task(name="shop.clean_up")  # type: ignore[untyped-decorator]
def clean_up(until: str) -> None:
    """Work until that file is there, whoever says that it is enough."""
    while True:
        try:
            return work(until)
        except SoftTimeLimitExceeded:
            note("told to stop", until)


@app.task(name="shop.try_again", bind=True)  # type: ignore[untyped-decorator]
def try_again(self: Any, until: str, countdown: float) -> None:
    """Work until that file is there, and then come back later, as often as it takes."""
    work(until)
    raise self.retry(countdown=countdown, max_retries=None)


def _nap(piece: str, duration: float) -> None:
    note("begin", piece)
    try:
        time.sleep(duration)
    finally:
        note("end", piece)


@app.task(name="shop.nap")  # type: ignore[untyped-decorator]
def nap(piece: str, duration: float) -> None:
    """Work for that long, and note the end however it comes; a kill alone is not noted."""
    _nap(piece, duration)


@app.task(name="shop.nap_late", acks_late=True)  # type: ignore[untyped-decorator]
def nap_late(piece: str, duration: float) -> None:
    """Work for that long; the broker keeps the task until then."""
    _nap(piece, duration)


@app.task(name="shop.nap_twice", bind=True, max_retries=1)  # type: ignore[untyped-decorator]
def nap_twice(self: Any, piece: str, duration: float) -> None:
    """Work for that long, fail, and work once more a little later."""
    _nap(f"{piece}/{self.request.retries}", duration)
    if not self.request.retries:
        raise self.retry(countdown=duration)


for module in os.environ.get("SHOP_MORE", "").split():
    importlib.import_module(module).add_to(app)


class Worker(Child):
    """
    One worker with *slots* threads; it works in *folder*, for a broker of its own.

    With a *rate*, such as 1/h, the task begins no more often. *settings* are those of the
    app; *more* names modules that add to it (``add_to(app)``); *packages* is a folder of other
    versions; *command_line* goes to ``celery worker``, and only there.
    """

    def __init__(
        self,
        folder: Path,
        broker: Redis | str,
        *,
        slots: int = 4,
        name: str = "w@here",
        rate: str = "",
        pool: str = "threads",
        settings: Mapping[str, object] | None = None,
        more: Sequence[str] = (),
        packages: Path | None = None,
        environment: Mapping[str, str] | None = None,
        command_line: Sequence[str] = (),
    ) -> None:
        self.folder, self.name = folder, name
        self.diary = folder / "diary"
        self.environment = {
            "SHOP_BROKER": broker if isinstance(broker, str) else f"{broker.url}/0",
            "SHOP_DIARY": str(self.diary),
            "SHOP_SETTINGS": json.dumps(dict(settings or {})),
            "SHOP_MORE": " ".join(more),
            **({"SHOP_RATE": rate} if rate else {}),
            **({"PYTHONPATH": str(packages)} if packages else {}),
        }
        self._sent: list[Path] = []
        command = [sys.executable, "-m", "celery", "-A", "tests.apps.celery_shop", "worker"]
        options = ["-P", pool, "-c", str(slots), "-n", name, "-l", "INFO"]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        super().__init__(
            [*command, *options, *quiet, *command_line],
            folder / f"{name}.log",
            environment={**self.environment, **(environment or {})},
            folder=Path(__file__).parents[2],
        )
        self.wait_ready(lambda: " ready." in self.tail(), limit=60)

    def send(self, task: str = "shop.pack", /, *more: object, **how: Any) -> Path:
        """Send a task, and return the file that ends it."""
        until = self.folder / f"{self.name}-{len(self._sent)}"
        self._sent.append(until)
        with self.client() as client:
            client.send_task(task, [str(until), *more], **how)
        return until

    def client(self) -> Celery:
        """Return an app that talks to the same workers and queues."""
        client = Celery("client", broker=self.environment["SHOP_BROKER"])
        client.conf.update(json.loads(self.environment["SHOP_SETTINGS"]))
        return client

    def noted(self, what: str) -> list[str]:
        """Return the pieces of work that were noted with that word, in order."""
        lines = self.diary.read_text().splitlines() if self.diary.exists() else []
        return [n.removeprefix(f"{what} ").split()[0] for n in lines if n.startswith(f"{what} ")]

    def finish(self) -> None:
        """End every task that was sent, and wait until the worker has done them all."""
        for until in self._sent:
            until.touch()
        with self.client() as client:
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
