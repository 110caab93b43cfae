"""A request whose waiter has gone still counts while a thread of it works on real servers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps.app_server import UVICORN, Start, servers

SHARED = """
import asyncio, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from deregister_agent.app import Work

work = Work()

def held(*_):
    Path("began").touch()
    while not Path("release").exists():
        time.sleep(0.01)
    Path("ended").touch()
    return "held"

async def until_left(waits):
    try:
        return await waits
    except asyncio.CancelledError:
        Path("left").touch()
        raise
"""

STARLETTE = (
    SHARED
    + """
from functools import partial
from anyio import to_thread
from asgiref.sync import sync_to_async
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.routing import Route

pool, processes = ThreadPoolExecutor(2), ProcessPoolExecutor(1)

async def in_a_task():
    await asyncio.gather(asyncio.to_thread(held), asyncio.sleep(60))

WAYS = {
    "to_thread": lambda: asyncio.to_thread(held),
    "default": lambda: asyncio.get_running_loop().run_in_executor(None, held),
    "pool": lambda: asyncio.get_running_loop().run_in_executor(pool, held, 1),
    "processes": lambda: asyncio.get_running_loop().run_in_executor(processes, held, 1),
    "anyio": lambda: to_thread.run_sync(held),
    "abandoned": lambda: to_thread.run_sync(held, abandon_on_cancel=True),
    "starlette": lambda: run_in_threadpool(partial(held)),
    "asgiref": lambda: sync_to_async(held, thread_sensitive=False)(),
    "sensitive": lambda: sync_to_async(held)(),
    "task": in_a_task,
}

async def impatient(request):
    waits = asyncio.ensure_future(WAYS[request.path_params["way"]]())
    while not Path("began").exists():
        await asyncio.sleep(0.005)
    try:
        await asyncio.wait_for(until_left(waits), 0.05)
    except TimeoutError:
        return JSONResponse("gave up")

async def queued(request):
    first = asyncio.ensure_future(asyncio.to_thread(held))
    second = asyncio.get_running_loop().run_in_executor(ThreadPoolExecutor(1), held)
    crowd = [asyncio.ensure_future(asyncio.to_thread(held)) for _ in range(100)]
    while not Path("began").exists():
        await asyncio.sleep(0.005)
    for waits in (first, second, *crowd):
        waits.cancel()
    return JSONResponse("gave up")

async def refused(request):
    closed = ThreadPoolExecutor(1)
    closed.shutdown()
    try:
        await asyncio.get_running_loop().run_in_executor(closed, held)
    except RuntimeError as e:
        return JSONResponse(str(e))

async def result(request):
    return JSONResponse([await way() for name, way in WAYS.items() if name != "task"])

routes = [
    Route("/impatient/{way}", impatient),
    Route("/queued", queued),
    Route("/refused", refused),
    Route("/result", result),
]
app = work.asgi(Starlette(routes=routes))
"""
)

DJANGO = (
    SHARED
    + """
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="x", DEBUG=False)

async def view(request):
    return HttpResponse(await until_left(sync_to_async(held)()))

async def own(request):
    return HttpResponse(await until_left(asyncio.to_thread(held)))

urlpatterns = [path("view", view), path("own", own)]
app = work.asgi(get_asgi_application())
"""
)

QUART = (
    SHARED
    + """
from quart import Quart

api = Quart(__name__)

@api.get("/view")
def view():
    return held()

@api.get("/own")
async def own():
    return await until_left(asyncio.to_thread(held))

async def job():
    while not Path("release").exists():
        await asyncio.sleep(0.01)

@api.get("/later/<kind>")
async def later(kind):
    api.add_background_task(work.handed_on(job if kind == "coroutine" else held))
    return "1"

app = work.asgi(api)
"""
)

HYPERCORN = ("hypercorn", "-b", "127.0.0.1:PORT", "shop:app")
WAYS = ("to_thread", "default", "pool", "anyio", "abandoned", "starlette")
MORE_WAYS = ("asgiref", "sensitive", "task", "processes")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers that the test ends."""
    with servers(tmp_path) as run:
        yield run


@pytest.mark.parametrize("way", WAYS + MORE_WAYS)
def test_a_request_counts_until_its_thread_has_ended(
    start: Start, tmp_path: Path, way: str
) -> None:
    """The app has given up and answered; the thread, or process, that it began works on."""
    server = start(STARLETTE, *UVICORN)
    server.until_in_flight()
    assert server.ask(f"/impatient/{way}") == (200, "gave up")
    assert [server.in_flight() for _ in range(20)] == [{"requests": 1}] * 20
    assert not (tmp_path / "ended").exists()
    server.release()
    server.until_in_flight()
    assert (tmp_path / "ended").exists()
    assert server.ask()[1]["started"] == 1


def test_what_never_ran_is_not_waited_for(start: Start) -> None:
    """Calls that were cancelled in a queue leave nothing, nor does a pool that refuses."""
    server = start(STARLETTE, *UVICORN)
    server.until_in_flight()
    assert server.ask("/refused") == (200, "cannot schedule new futures after shutdown")
    server.until_in_flight()
    assert server.ask("/queued") == (200, "gave up")
    assert [server.in_flight() for _ in range(20)] == [{"requests": 1}] * 20
    server.release()
    server.until_in_flight()


def test_results_come_out_as_they_were(start: Start) -> None:
    """Whoever waits to the end gets what the thread has returned."""
    server = start(STARLETTE, *UVICORN)
    server.release()
    server.until_in_flight()
    status, results = server.ask("/result")
    assert status == 200
    assert set(results) == {"held"}
    server.until_in_flight()


@pytest.mark.parametrize(
    ("app", "command", "path"),
    [
        (DJANGO, UVICORN, "/view"),
        (DJANGO, UVICORN, "/own"),
        (DJANGO, HYPERCORN, "/view"),
        (QUART, HYPERCORN, "/view"),
        (QUART, HYPERCORN, "/own"),
        (QUART, UVICORN, "/view"),
    ],
    ids=["django-uvicorn", "django-own", "django-hypercorn", "quart", "quart-own", "quart-uvicorn"],
)
def test_a_client_that_leaves_does_not_end_the_thread(
    start: Start, tmp_path: Path, app: str, command: tuple[str, ...], path: str
) -> None:
    """The framework cancels the request; what it waited for works on, and counts."""
    server = start(app, *command)
    server.until_in_flight()
    client = server.send(path)
    server.until((tmp_path / "began").exists)
    client.close()
    if app is DJANGO or path == "/own":
        server.until((tmp_path / "left").exists)
    for _ in range(60):
        assert server.in_flight() == {"requests": 1}
    assert not (tmp_path / "ended").exists()
    server.release()
    server.until_in_flight()
    assert (tmp_path / "ended").exists()


@pytest.mark.parametrize("kind", ["coroutine", "function"])
def test_a_task_of_quart_counts_from_the_hand_over(start: Start, kind: str) -> None:
    """The request is over; what it has left to the framework is not."""
    server = start(QUART, *HYPERCORN)
    server.until_in_flight()
    before = server.ask()[1]["started"]
    assert server.ask(f"/later/{kind}") == (200, 1)
    # A function runs in a thread, which may still be a part of the request as well.
    assert [server.in_flight()["tasks"] for _ in range(40)] == [1] * 40
    server.release()
    server.until_in_flight()
    assert server.ask()[1]["started"] == before + 2
