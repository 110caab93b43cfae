"""Flask behind gunicorn and FastAPI behind uvicorn, with the app library and prometheus_client."""

import http.client
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

from deregister_agent.demo.stage import free_ports
from tests.held_work import Counts, Stand
from tests.held_work.apps import FASTAPI, FLASK
from tests.servers.child import Child, wait_until

GUNICORN = ("gunicorn", "-k", "gthread", "--threads", "16", "-w", "2", "-b", "127.0.0.1:PORT")
UVICORN = ("uvicorn", "--port", "PORT")
WORK = {kind: f"/in_flight/{kind}" for kind in ("requests", "tasks", "messages", "websockets")}
METRICS = {"requests": "http_requests_inprogress", "tasks": "jobs_running"}


class App:
    """A server with the app in it, and clients that begin its work and wait for the end."""

    def __init__(self, folder: Path, code: str, command: Sequence[str], stack: ExitStack) -> None:
        self.folder, self.round = folder, 0
        (folder / "shop.py").write_text(code)
        (folder / "multi").mkdir()
        (self.port,) = free_ports(1)
        environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
        if "gunicorn" in command:  # several processes: both ways to count for all of them
            environment["PROMETHEUS_MULTIPROC_DIR"] = str(folder / "multi")
            environment["DEREGISTER_AGENT_WORK"] = str(folder / "work")
        filled = [part.replace("PORT", str(self.port)) for part in (*command, "shop:app")]
        child = Child(
            [sys.executable, "-m", *filled], folder / "log", environment=environment, folder=folder
        )
        self._child = stack.enter_context(child)
        stack.callback(self.release)
        self._clients: list[threading.Thread] = []

    def ready(self, counts: Callable[[], Counts]) -> None:
        """Wait until it answers, for all of its processes."""

        def is_ready() -> bool:
            try:
                return not any(counts().values())
            except (OSError, http.client.HTTPException, ValueError, KeyError):
                return False

        self._child.wait_ready(is_ready)

    def get(self, path: str) -> bytes:
        """Ask over a new connection; raises ValueError unless the answer is a good one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise ValueError(f"{path} answered {answer.status}")
        return body

    def begin(self, *paths: str) -> None:
        """Begin a round: one piece of work at each path."""
        self.round += 1
        for path in paths:
            talk = self._listen if path == "socket" else self.get
            thread = threading.Thread(target=talk, args=(f"/{path}/{self.round}",))
            thread.start()
            self._clients.append(thread)

    def _listen(self, path: str) -> None:
        with connect(f"ws://127.0.0.1:{self.port}{path}") as socket:
            for _ in socket:
                pass

    def release(self) -> None:
        """Let the work of this round end, and see its clients off."""
        (self.folder / f"release-{self.round}").touch()
        for client in self._clients:
            client.join()
        self._clients = []

    def end(self, *whats: str) -> float:
        """End the round; return when the app was done with the last piece of it."""
        self.release()
        files = [self.folder / f"ended-{self.round}-{what}" for what in whats]
        wait_until(lambda: all(file.exists() for file in files), "its work has ended", pause=0.001)
        return max(float(file.read_text()) for file in files)


def _work(app: App) -> Counts:
    found: Counts = json.loads(app.get("/-/work"))["in_flight"]
    return found


def _metrics(app: App) -> Counts:
    page = app.get("/metrics").decode()
    found = dict.fromkeys(METRICS, 0)
    for kind, name in METRICS.items():
        for number in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", page, re.MULTILINE):
            found[kind] += int(float(number))
    return found


@contextmanager
def _stand(
    app: App,
    table: Mapping[str, Any],
    pieces: Mapping[str, str],
    in_hand: Counts,
    counts: Callable[[], Counts],
) -> Iterator[Stand]:
    """Give a stand; *pieces* are the paths that begin work, and what each says at its end."""
    app.ready(counts)

    def begin() -> None:
        app.begin(*pieces)
        wait_until(lambda: dict(counts()) == in_hand, f"it has {in_hand}", pause=0.005)

    def end() -> float:
        return app.end(*(what for said in pieces.values() for what in said.split()))

    yield Stand(table, app.port, in_hand, begin, end, counts)


def _json(app: App) -> Mapping[str, Any]:
    url = f"http://127.0.0.1:{app.port}/-/work"
    more = {"started": "/started", "mark": "/process/mark", "timeout": 10.0}
    return {"kind": "http_json", "url": url, "in_flight": WORK, **more}


def _page(app: App) -> Mapping[str, Any]:
    url = f"http://127.0.0.1:{app.port}/metrics"
    more = {"in_flight": {"tasks": "jobs_running"}, "started": "http_requests_total"}
    return {"kind": "prometheus", "url": url, "presets": ["fastapi"], "timeout": 10.0, **more}


OF_FLASK = {"slow": "slow", "stream": "stream", "background": "job message"}
OF_FASTAPI = {"slow": "slow", "stream": "stream", "background": "job"}


@contextmanager
def flask_json(folder: Path) -> Iterator[Stand]:
    """Run two workers of gunicorn: requests, a streamed answer, a task and a message."""
    with ExitStack() as stack:
        app = App(folder, FLASK, GUNICORN, stack)
        in_hand = {"requests": 2, "tasks": 1, "messages": 1, "websockets": 0}
        yield stack.enter_context(_stand(app, _json(app), OF_FLASK, in_hand, lambda: _work(app)))


@contextmanager
def flask_metrics(folder: Path) -> Iterator[Stand]:
    """Run two workers of gunicorn, whose metrics are added up by prometheus_client."""
    with ExitStack() as stack:
        app, in_hand = App(folder, FLASK, GUNICORN, stack), {"requests": 2, "tasks": 2}
        yield stack.enter_context(_stand(app, _page(app), OF_FLASK, in_hand, lambda: _metrics(app)))


@contextmanager
def fastapi_json(folder: Path) -> Iterator[Stand]:
    """Run uvicorn: requests, one of them with a background task, a streamed answer, a WebSocket."""
    with ExitStack() as stack:
        app = App(folder, FASTAPI, UVICORN, stack)
        in_hand = {"requests": 3, "tasks": 0, "messages": 0, "websockets": 1}
        pieces = OF_FASTAPI | {"socket": "socket"}
        yield stack.enter_context(_stand(app, _json(app), pieces, in_hand, lambda: _work(app)))


@contextmanager
def fastapi_metrics(folder: Path) -> Iterator[Stand]:
    """Run uvicorn: the metrics of one process."""
    with ExitStack() as stack:
        app, in_hand = App(folder, FASTAPI, UVICORN, stack), {"requests": 2, "tasks": 1}
        yield stack.enter_context(
            _stand(app, _page(app), OF_FASTAPI, in_hand, lambda: _metrics(app))
        )
