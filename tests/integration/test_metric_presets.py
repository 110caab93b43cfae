"""What the metrics of real libraries count, row by row: presets, and one that was taken out."""

import contextlib
import json
import re
import socket
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from pydantic import ValidationError
from websockets.sync.client import connect

from deregister_agent.errors import ProbeError
from deregister_agent.model import Instance
from deregister_agent.probes.prometheus import warnings
from deregister_agent.probes.prometheus.probe import Options, PrometheusProbe, build
from deregister_agent.probes.prometheus.terms import GONE, PRESETS
from tests.apps.app_server import Server, Start, servers
from tests.apps.pages import page, pages

FASTAPI = """
import asyncio, os, threading, time
from contextlib import asynccontextmanager
from fastapi import BackgroundTasks, FastAPI, WebSocket
from fastapi.responses import StreamingResponse

def over():
    return os.path.exists("release")

def hold():
    while not over():
        time.sleep(0.01)

async def held():
    while not over():
        await asyncio.sleep(0.01)

app = FastAPI()
tasks = set()

@app.get("/")
async def root():
    return "here"

@app.get("/coroutine")
async def coroutine():
    await held()
    return "x"

@app.get("/thread")
def thread():
    hold()
    return "x"

@app.get("/stream")
async def stream():
    async def body():
        yield b"first"
        await held()
        yield b"last"
    return StreamingResponse(body())

@app.get("/stream-by-thread")
def stream_by_thread():
    def body():
        yield b"first"
        hold()
        yield b"last"
    return StreamingResponse(body())

@app.get("/background")
def background(later: BackgroundTasks):
    later.add_task(hold)
    return "x"

@app.get("/crash")
def crash():
    raise ValueError("on purpose")

@app.get("/task")
async def task():
    tasks.add(asyncio.create_task(held()))
    return "x"

@app.get("/pool")
async def pool():
    asyncio.get_running_loop().run_in_executor(None, hold)
    return "x"

@app.get("/left-out")
async def left_out():
    await held()
    return "x"

@app.websocket("/socket")
async def socket(websocket: WebSocket):
    await websocket.accept()
    await websocket.send_text("first")
    await held()
    await websocket.close()
"""
BY_INSTRUMENTATOR = """
from prometheus_fastapi_instrumentator import Instrumentator
Instrumentator(
    should_instrument_requests_inprogress=True,
    inprogress_labels=True if os.environ.get("LABELS") else False,
    excluded_handlers=["/metrics", "/left-out"],
).instrument(app).expose(app)
"""
OTEL = """
from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import make_asgi_app, make_wsgi_app
metrics.set_meter_provider(MeterProvider(metric_readers=[PrometheusMetricReader()]))
"""
BY_OTEL_FASTAPI = f"""{OTEL}
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
app.mount("/metrics", make_asgi_app())
FastAPIInstrumentor.instrument_app(app, excluded_urls="metrics,left-out")
"""
BY_OTEL_STARLETTE = f"""{OTEL}
os.environ["OTEL_PYTHON_STARLETTE_EXCLUDED_URLS"] = "metrics,left-out"
from opentelemetry.instrumentation.starlette import StarletteInstrumentor
app.mount("/metrics", make_asgi_app())
StarletteInstrumentor.instrument_app(app)
"""
BY_OTEL_ASGI = f"""{OTEL}
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.util.http import parse_excluded_urls
app.mount("/metrics", make_asgi_app())
left_out = parse_excluded_urls("metrics,left-out")
app.add_middleware(OpenTelemetryMiddleware, excluded_urls=left_out)
"""
BY_ITSELF = f"""{OTEL}
app.mount("/metrics", make_asgi_app())
"""
FLASK = """
import os, time
from flask import Flask, Response

def hold():
    while not os.path.exists("release"):
        time.sleep(0.01)

app = Flask("shop")

@app.get("/")
def root():
    return "here"

@app.get("/view")
def view():
    hold()
    return "x"

@app.get("/stream")
def stream():
    def body():
        yield b"first"
        hold()
        yield b"last"
    return Response(body())
"""
WITH_PAGE = """
from werkzeug.middleware.dispatcher import DispatcherMiddleware
app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/metrics": make_wsgi_app()})
"""
BY_OTEL_FLASK = f"""{OTEL}
from opentelemetry.instrumentation.flask import FlaskInstrumentor
FlaskInstrumentor().instrument_app(app, excluded_urls="metrics")
{WITH_PAGE}"""
BY_OTEL_WSGI = f"""{OTEL}
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
app.wsgi_app = OpenTelemetryMiddleware(app.wsgi_app)
{WITH_PAGE}"""

UVICORN = ("uvicorn", "shop:app", "--port", "PORT", "--log-level", "warning")
GUNICORN = ("gunicorn", "shop:app", "-b", "127.0.0.1:PORT", "--threads", "8")
ACTIVE = {"in_flight": {"requests": "http_server_active_requests"}}
PRESET = {"presets": ["fastapi"]}

COUNTED = {
    "/coroutine": 1,
    "/thread": 1,
    "/stream": 1,
    "/stream-by-thread": 1,
    "/background": 1,
    "/task": 0,
    "/pool": 0,
    "/left-out": 0,
}
"""What is told while the work of each path is in hand. Those of 0 stand on the page of the probe,
and what ``check-config`` says of the preset tells of them."""


def probe(server: Server, table: dict[str, Any]) -> PrometheusProbe:
    page = {"kind": "prometheus", "url": f"http://127.0.0.1:{server.port}/metrics/", "timeout": 10}
    if "presets" in table:
        page["url"] = f"http://127.0.0.1:{server.port}/metrics"
    options = Options.model_validate_json(json.dumps(page | table))
    return build(options, Instance("orders-1", "orders", "127.0.0.1", server.port))


def requests_of(probed: PrometheusProbe) -> int | None:
    """Return how many requests it tells; None where it does not know."""
    with contextlib.suppress(ProbeError):
        return probed.read(0.0).in_flight["requests"]
    return None


def tells(probed: PrometheusProbe, count: int) -> bool:
    return requests_of(probed) == count


def begun(client: socket.socket, path: str) -> None:
    """Wait until the work of *path* has begun, where the answer comes first."""
    if path in ("/stream", "/stream-by-thread"):
        text = b""
        while b"first" not in text:
            text += client.recv(65536)
    elif path in ("/background", "/task", "/pool"):
        assert client.recv(65536)


def connected(port: int) -> bool:
    socket.create_connection(("127.0.0.1", port), timeout=30).close()
    return True


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with servers(tmp_path) as run:

        def started(app: str, *command: str, **env: str) -> Server:
            server = run(app, *command, **env)
            server.until(lambda: connected(server.port))
            return server

        yield started


ASGI: dict[str, tuple[str, dict[str, Any]]] = {
    "preset fastapi": (BY_INSTRUMENTATOR, PRESET),
    "opentelemetry fastapi": (BY_OTEL_FASTAPI, ACTIVE),
    "opentelemetry starlette": (BY_OTEL_STARLETTE, ACTIVE),
    "opentelemetry asgi": (BY_OTEL_ASGI, ACTIVE),
}


@pytest.mark.parametrize("library", ASGI)
class TestAsgi:
    def test_each_row(self, start: Start, library: str) -> None:
        """Work is told while it is in hand, as the table says, and none of it afterwards."""
        text, table = ASGI[library]
        server = start(FASTAPI + text, *UVICORN)
        probed = probe(server, table)
        with socket.create_connection(("127.0.0.1", server.port)) as first:
            first.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert first.recv(65536)
        server.until(lambda: requests_of(probed) == 0)
        held = []
        expected = 0
        for path, counted in COUNTED.items():
            held.append(server.send(path))
            begun(held[-1], path)
            expected += counted
            server.until(partial(tells, probed, expected))
        assert requests_of(probed) == expected
        for client in held:
            client.close()
        assert (requests_of(probed) or 0) > 0  # threads and background tasks go on
        server.release()
        server.until(lambda: requests_of(probed) == 0)

    def test_a_crash_leaves_no_count(self, start: Start, library: str) -> None:
        """What raises has ended."""
        text, table = ASGI[library]
        server = start(FASTAPI + text, *UVICORN)
        probed = probe(server, table)
        for _ in range(3):
            with server.send("/crash") as client:
                assert b" 500 " in client.recv(65536)
        server.until(lambda: requests_of(probed) == 0)

    def test_a_web_socket_is_not_seen(self, start: Start, library: str) -> None:
        """It is open and at work, and no request: said on the probe's page."""
        text, table = ASGI[library]
        server = start(FASTAPI + text, *UVICORN)
        probed = probe(server, table)
        with server.send("/") as client:
            assert client.recv(65536)
        with connect(f"ws://127.0.0.1:{server.port}/socket") as opened:
            assert opened.recv(30) == "first"
            server.until(lambda: requests_of(probed) == 0)
            server.release()


class TestBeforeTheFirstRequest:
    def test_the_preset(self, start: Start) -> None:
        """The gauge is there from the beginning: the app is known to be idle."""
        server = start(FASTAPI + BY_INSTRUMENTATOR, *UVICORN)
        assert probe(server, PRESET).read(0.0).in_flight == {"requests": 0}

    def test_the_preset_with_labels(self, start: Start) -> None:
        """With labels there is no sample yet, which is not known and no zero."""
        server = start(FASTAPI + BY_INSTRUMENTATOR, *UVICORN, LABELS="1")
        with pytest.raises(ProbeError, match="no sample of http_requests_inprogress"):
            probe(server, PRESET).read(0.0)

    @pytest.mark.parametrize("text", [BY_OTEL_FASTAPI, BY_OTEL_ASGI, BY_OTEL_STARLETTE])
    def test_active_requests(self, start: Start, text: str) -> None:
        """OpenTelemetry has no sample until then: not known, and no zero."""
        server = start(FASTAPI + text, *UVICORN)
        with pytest.raises(ProbeError, match=r"no sample of http_server_active_requests"):
            probe(server, ACTIVE).read(0.0)


WSGI = {"flask": BY_OTEL_FLASK, "wsgi": BY_OTEL_WSGI}


@pytest.mark.parametrize("library", WSGI)
class TestWsgi:
    def test_active_requests_are_refused(self, start: Start, library: str) -> None:
        """The metric falls to 0 while a body is being sent, so it is not believed."""
        server = start(FLASK + WSGI[library], *GUNICORN)
        view = server.send("/view")
        server.until(lambda: active(server) == 1)
        server.release()
        assert b"200" in view.recv(65536)
        view.close()
        server.until(lambda: active(server) == 0)
        (server.folder / "release").unlink()
        with server.send("/stream") as client:
            begun(client, "/stream")
            assert active(server) == 0  # which is why
            said = f"opentelemetry.instrumentation.{library} is not known to count a request until"
            with pytest.raises(ProbeError, match=said):
                probe(server, ACTIVE).read(0.0)
            server.release()


def active(server: Server) -> int | None:
    """Return what the page says of active requests; None where it says nothing."""
    with urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=30) as answer:
        found = re.findall(
            r"^http_server_active_requests{.*} ([0-9.]+)$", answer.read().decode(), re.MULTILINE
        )
    return sum(int(float(value)) for value in found) if found else None


class TestFrameworksByThemselves:
    def test_background_tasks_are_not_active(self, start: Start) -> None:
        """FastAPI's own metric falls while a background task runs, so it is not believed."""
        server = start(FASTAPI + BY_ITSELF, *UVICORN)
        if active(server) is None:
            pytest.skip("this FastAPI has no metrics of its own")
        with server.send("/thread"):
            server.until(lambda: active(server) == 2)  # the scrape is the other one
            server.release()
            server.until(lambda: active(server) == 1)
        (server.folder / "release").unlink()
        with server.send("/background") as client:
            begun(client, "/background")
            server.until(lambda: active(server) == 1)
            with pytest.raises(ProbeError, match="of fastapi is not known to count"):
                probe(server, ACTIVE).read(0.0)
            server.release()

    @pytest.mark.parametrize(
        "scope", ["io.opentelemetry.netty-4.1", "otelhttp", "Microsoft.AspNet", ""]
    )
    def test_others_are_the_operators_word(self, scope: str) -> None:
        """What nobody has seen count is believed only where the configuration names it."""
        metric = f'http_server_active_requests{{otel_scope_name="{scope}"}}'
        text = f"{metric} 0\n" if scope else "http_server_active_requests 0\n"
        with pages(lambda _: page(text)) as server:
            table = {"kind": "prometheus", "url": f"{server.url}/m", "timeout": 10}
            own = Instance("orders-1", "orders", "127.0.0.1", 80)
            asked = Options.model_validate_json(json.dumps(table | ACTIVE))
            said = f"of {scope or 'no named library'} may end before the request does"
            with pytest.raises(ProbeError, match=said):
                build(asked, own).read(0.0)
            named = {"in_flight": {"requests": metric}}
            asked = Options.model_validate_json(json.dumps(table | named))
            assert build(asked, own).read(0.0).idle


class TestNames:
    @pytest.mark.parametrize("name", GONE)
    def test_a_preset_that_was_taken_out(self, name: str) -> None:
        """The mistake says so, and what to write instead, which is read as it stands."""
        table = {"kind": "prometheus", "url": "http://127.0.0.1:1", "presets": [name]}
        with pytest.raises(ValidationError, match="not proven and was taken out; instead: ") as e:
            Options.model_validate_json(json.dumps(table))
        said = re.search(r"in_flight = (?P<value>{ .* })", str(e.value))
        if said is not None:
            read = tomllib.loads(said[0])
            assert Options.model_validate_json(json.dumps(table | read | {"presets": []}))

    def test_what_a_preset_does_not_see_is_said(self) -> None:
        """check-config names what no row above counts."""
        table = {"kind": "prometheus", "url": "http://127.0.0.1:1", "presets": list(PRESETS)}
        options = Options.model_validate_json(json.dumps(table))
        (said,) = warnings(options, Instance("orders-1", "orders", "127.0.0.1", 80))
        assert "preset 'fastapi' counts no WebSockets" in said
