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

from tests.held_work import Counts, Stand
from tests.servers.child import Child, free_ports, wait_until

# Each piece of work waits for a file with the number of its round, and says when it has ended.
SHARED = """
import time
from pathlib import Path
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

def is_over(number):
    return Path(f"release-{number}").exists()

def ends(number, what):
    Path(f"ended-{number}-{what}.new").write_text(repr(time.monotonic()))
    Path(f"ended-{number}-{what}.new").rename(f"ended-{number}-{what}")

live = {"multiprocess_mode": "livesum"}
requests = Gauge("http_requests_inprogress", "Under way.", ["path"], **live)
jobs = Gauge("jobs_running", "Under way.", **live)
started = Counter("http_requests", "All.", ["path"])
for path in ("/slow", "/stream", "/background"):
    requests.labels(path), started.labels(path)
"""
FLASK = (
    SHARED
    + """
import threading
from concurrent.futures import ThreadPoolExecutor
from flask import Flask, Response
from prometheus_client.multiprocess import MultiProcessCollector
from deregister_agent.app import Work

work = Work()
pool = work.executor(ThreadPoolExecutor(4))
app = Flask(__name__)
app.wsgi_app = work.wsgi(app.wsgi_app)

def hold(number, what):
    while not is_over(number):
        time.sleep(0.002)
    ends(number, what)

def job(number):
    with jobs.track_inprogress():
        hold(number, "job")

def message(number):
    with work.message(), jobs.track_inprogress():
        hold(number, "message")

@app.get("/slow/<number>")
def slow(number):
    started.labels("/slow").inc()
    with requests.labels("/slow").track_inprogress():
        hold(number, "slow")
    return "done"

@app.get("/stream/<number>")
def stream(number):
    def body():
        started.labels("/stream").inc()
        with requests.labels("/stream").track_inprogress():
            yield "first"
            hold(number, "stream")
            yield "last"
    return Response(body())

@app.get("/background/<number>")
def background(number):
    started.labels("/background").inc()
    pool.submit(job, number)
    threading.Thread(target=message, args=(number,)).start()
    return "accepted", 202

@app.get("/metrics")
def metrics():
    every = CollectorRegistry()
    MultiProcessCollector(every)
    return Response(generate_latest(every), mimetype="text/plain")
"""
)
FASTAPI = (
    SHARED
    + """
import asyncio
from fastapi import BackgroundTasks, FastAPI, Response, WebSocket
from fastapi.responses import StreamingResponse
from deregister_agent.app import Work

work = Work()
api = FastAPI()

async def hold(number, what):
    while not is_over(number):
        await asyncio.sleep(0.002)
    ends(number, what)

async def job(number):
    with jobs.track_inprogress():
        await hold(number, "job")

@api.get("/slow/{number}")
async def slow(number):
    started.labels("/slow").inc()
    with requests.labels("/slow").track_inprogress():
        await hold(number, "slow")

@api.get("/stream/{number}")
async def stream(number):
    async def body():
        started.labels("/stream").inc()
        with requests.labels("/stream").track_inprogress():
            yield b"first"
            await hold(number, "stream")
            yield b"last"
    return StreamingResponse(body())

@api.get("/background/{number}")
async def background(number, tasks: BackgroundTasks):
    started.labels("/background").inc()
    tasks.add_task(job, number)

@api.websocket("/socket/{number}")
async def socket(socket: WebSocket, number):
    await socket.accept()
    while not is_over(number):
        await asyncio.sleep(0.002)
    await socket.close()
    ends(number, "socket")

@api.get("/metrics")
async def metrics():
    return Response(generate_latest(), media_type="text/plain; version=0.0.4")

app = work.asgi(api)
"""
)
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
