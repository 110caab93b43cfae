"""Whole drains of apps whose several processes each have work in hand."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.config.backends import find
from deregister_agent.engine.instance_loop import InstanceLoop
from deregister_agent.model import Instance, Outcome, Phase, Policy, StopRequest
from deregister_agent.registries import file
from tests.apps.app_server import GUNICORN, SHARED, UVICORN, Server, Start, servers
from tests.integration.test_app_servers import FASTAPI, FLASK
from tests.loops import LIMIT, eventually, running_loop, until

DOCS = Path(__file__).parents[2] / "docs" / "how-to" / "count-work-in-your-app.md"
DJANGO = """
import asyncio, time
from pathlib import Path
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from deregister_agent.app import Work

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="x")
work = Work()

def released():
    return Path("release").exists()

def slow(request):
    while not released():
        time.sleep(0.01)
    return HttpResponse("done")

def stream(request):
    def body():
        yield "first"
        while not released():
            time.sleep(0.01)
        yield "last"
    async def abody():
        yield "first"
        while not released():
            await asyncio.sleep(0.01)
        yield "last"
    return StreamingHttpResponse(abody() if hasattr(request, "scope") else body())

def task(request):
    work.start_thread(slow, request, daemon=True)
    return HttpResponse("1")

urlpatterns = [path("slow", slow), path("stream", stream), path("task", task)]
application = work.wsgi(get_wsgi_application())
app = work.asgi(get_asgi_application())
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers that the test ends."""
    with servers(tmp_path) as run:
        yield run


def documented() -> dict[str, Any]:
    """Return the keys of the probe as the how-to names them."""
    (line,) = re.findall(r"^Use the `http_json` probe.*$", DOCS.read_text(), re.MULTILINE)
    pointers = re.findall(r"`(/[^`]*)`", line)
    kinds = {p.rpartition("/")[2]: p for p in pointers if p.startswith("/in_flight/")}
    assert set(pointers) == {*kinds.values(), "/started", "/process/mark"}
    assert '`wait_parameter = "wait"`' in line
    return {
        "in_flight": kinds,
        "started": "/started",
        "mark": "/process/mark",
        "wait_parameter": "wait",
    }


@contextmanager
def draining(folder: Path, server: Server, **policy: Any) -> Iterator[InstanceLoop]:
    """Run an agent that has been asked to stop traffic to the server, by the how-to's probe."""
    instance = Instance("web", "web", "127.0.0.1", server.port)
    table = {"kind": "http_json", "url": f"http://127.0.0.1:{server.port}/-/work"} | documented()
    probes = find("probes", "http_json")
    probe = probes.build(probes.Options.model_validate_json(json.dumps(table)), instance)
    path = folder / "targets.json"
    path.write_text(json.dumps([{"targets": [f"127.0.0.1:{server.port}"]}]))
    listed = file.build(file.Options(kind="file", path=path), instance)
    rules = Policy(**{"deadline": LIMIT, "quiet": 0.3, "min_others": 0} | policy)
    with running_loop(folder, instance, [listed], [probe], rules) as loop:
        loop.stop_traffic(StopRequest())
        yield loop


def blocks(loop: InstanceLoop, said: Callable[[str], bool]) -> None:
    """Wait until the drain is held up by nothing but what *said* recognises."""

    def so() -> bool:
        blocking = [line for line in loop.status().blocking if not line.startswith("work arrived")]
        return bool(blocking) and all(said(line) for line in blocking)

    eventually(so, f"that blocks; but {loop.status().blocking}")


APPS = {
    "flask": (FLASK, (*GUNICORN, "-w", "4", "shop:app"), SHARED, 4, "/thread"),
    "flask-preload": (FLASK, (*GUNICORN, "-w", "4", "--preload", "shop:app"), {}, 5, "/thread"),
    "fastapi": (FASTAPI, (*UVICORN, "--workers", "2"), SHARED, 2, "/task"),
    "django": (DJANGO, (*GUNICORN, "-w", "2", "shop:application"), SHARED, 2, "/task"),
    "django-asgi": (DJANGO, UVICORN, {}, 1, "/task"),
}


@pytest.mark.parametrize("name", APPS)
def test_a_drain_waits_for_every_worker(start: Start, tmp_path: Path, name: str) -> None:
    """It is held up by exactly what all have in hand together, and ends when they have none."""
    app, command, env, processes, task = APPS[name]
    server = start(app, *command, **env)
    server.until(lambda: server.joined(processes))
    clients = [server.send(path) for path in ("/slow", "/slow", "/stream")]
    server.until_in_flight(requests=3)
    with draining(tmp_path, server) as loop:
        blocks(loop, lambda line: line.startswith("3 requests in flight"))
        assert server.ask(task) == (200, 1)
        blocks(loop, lambda line: "3 requests" in line and "1 tasks" in line)
        assert loop.drain.phase is Phase.DRAINING
        assert loop.drain.outcome is None
        server.release()
        assert until(loop, lambda drain: drain.outcome is not None, "an outcome").outcome is (
            Outcome.DRAINED
        )
        assert server.in_flight() == {}
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    ("app", "command"),
    [(FLASK, (*GUNICORN, "-w", "4", "shop:app")), (FASTAPI, (*UVICORN, "--workers", "2"))],
    ids=["gunicorn", "uvicorn"],
)
def test_one_of_several_workers_is_never_taken_for_all(
    start: Start, tmp_path: Path, app: str, command: tuple[str, ...]
) -> None:
    """Workers that each count for themselves are unknown, however idle: the drain expires."""
    server = start(app, *command)
    server.until(lambda: server.ask()[0] == 503)
    with draining(tmp_path, server, deadline=5.0) as loop:
        blocks(loop, lambda line: "the app answered with status 503, not 200" in line)
        drain = until(loop, lambda drain: drain.outcome is not None, "an outcome")
        assert drain.outcome is Outcome.EXPIRED
