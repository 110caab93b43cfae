"""Real servers, with several worker processes: any of them answers for all."""

import base64
import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps.app_server import GUNICORN, SHARED, UVICORN, Start, servers

TWO = (*GUNICORN, "-w", "2")

FLASK = """
import os, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from flask import Flask, send_file
from deregister_agent.app import Work

work = Work(token=os.environ.get("TOKEN"))
app = Flask(__name__)
app.wsgi_app = work.wsgi(app.wsgi_app)
work.on_stop(lambda: Path(f"stopped-{os.getpid()}").touch())
Path(f"listening-{os.getpid()}").touch()

def released():
    return Path("release").exists()

@app.get("/slow")
def slow():
    while not released():
        time.sleep(0.01)
    return str(os.getpid())

def held():
    while not released():
        time.sleep(0.01)

pool = work.executor(ThreadPoolExecutor(1))

@app.get("/job")
def job():
    pool.submit(held)
    return "1"

@app.get("/thread")
def thread():
    work.start_thread(held, daemon=True)
    return "1"

@app.get("/message")
def message():
    with work.message():
        held()
    return "1"

@app.get("/file")
def file():
    return send_file(os.path.abspath("big"))

@app.get("/stream")
def stream():
    def body():
        yield "first"
        while not released():
            time.sleep(0.01)
            yield "x" * 1000
    return body()

@app.get("/crash")
def crash():
    raise ValueError("on purpose")
"""

FASTAPI = """
import asyncio
from pathlib import Path
from fastapi import BackgroundTasks, FastAPI, Response, WebSocket
from fastapi.responses import StreamingResponse
from deregister_agent.app import Work

work = Work()
api = FastAPI()

async def released():
    while not Path("release").exists():
        await asyncio.sleep(0.01)

@api.get("/slow")
async def slow():
    await released()

@api.get("/background")
async def background(tasks: BackgroundTasks):
    tasks.add_task(released)
    return "accepted"

@api.get("/task")
async def task():
    work.create_task(released())
    return 1

@api.get("/stream")
async def stream():
    async def body():
        yield b"first"
        await released()
        yield b"last"
    return StreamingResponse(body())

async def broken():
    raise ValueError("on purpose")

@api.get("/big-and-broken")
async def big_and_broken(tasks: BackgroundTasks):
    tasks.add_task(broken)
    return Response(b"x" * 30_000_000, background=tasks)

@api.get("/big")
async def big():
    return Response(b"x" * 30_000_000)

@api.websocket("/ws")
async def ws(socket: WebSocket):
    await socket.accept()
    await socket.receive_text()

app = work.asgi(api)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers that the test ends."""
    with servers(tmp_path) as run:
        yield run


@pytest.mark.parametrize("command", [(*TWO, "shop:app"), (*UVICORN, "--workers", "2")])
def test_workers_that_count_for_themselves_are_unknown(
    start: Start, command: tuple[str, ...]
) -> None:
    """Without a shared file a worker does not pretend to know the others."""
    server = start(FLASK if command[0] == "gunicorn" else FASTAPI, *command)
    # Until the second worker has come up, the first is alone and may say so.
    server.until(lambda: server.ask()[0] == 503)
    for _ in range(20):
        status, answer = server.ask()
        assert status == 503
        assert "let them share their counts" in answer["error"]


@pytest.mark.parametrize(
    ("app", "command", "env", "processes"),
    [
        (FLASK, (*TWO, "shop:app"), SHARED, 2),
        (FLASK, (*TWO, "--preload", "shop:app"), {}, 3),
        (FASTAPI, (*UVICORN, "--workers", "2"), SHARED, 2),
    ],
    ids=["gunicorn", "gunicorn-preload", "uvicorn"],
)
def test_any_worker_answers_for_all(
    start: Start, app: str, command: tuple[str, ...], env: dict[str, str], processes: int
) -> None:
    """Requests spread over the workers are all seen, whoever is asked, until each has ended."""
    server = start(app, *command, **env)
    server.until(lambda: server.joined(processes))
    clients = [server.send("/slow") for _ in range(3)]
    server.until(lambda: server.in_flight() == {"requests": 3})
    assert [server.in_flight() for _ in range(20)] == [{"requests": 3}] * 20
    server.release()
    server.until(lambda: server.in_flight() == {})
    assert server.ask()[1]["started"] == 3
    for client in clients:
        client.close()


def test_a_killed_workers_work_is_written_off_and_the_others_is_not(start: Start) -> None:
    """The dead worker's requests go with it; its successor counts in its place."""
    server = start(FLASK, *TWO, "shop:app", **SHARED)
    server.until(lambda: server.joined(2))
    before = server.ask()[1]["process"]
    clients = [server.send("/slow") for _ in range(6)]
    server.until(lambda: server.in_flight() == {"requests": 6})
    os.kill(before["pids"][0], signal.SIGKILL)
    after = before

    def succeeded() -> bool:
        nonlocal after
        after = server.ask()[1].get("process", before)
        return len(after["pids"]) == 2 and before["pids"][0] not in after["pids"]

    server.until(succeeded)
    assert after["mark"] == before["mark"]
    left = server.in_flight().get("requests", 0)
    server.release()
    answered = 0
    for client in clients:
        with client, contextlib.suppress(ConnectionResetError):
            answered += client.recv(4096).startswith(b"HTTP/1.1 200")
    assert answered == left


def test_a_restart_has_a_new_mark_and_is_not_stopped(start: Start) -> None:
    """What the former run left in the file, even killed amid its work, is not taken over."""
    first = start(FLASK, *TWO, "shop:app", TOKEN="t", **SHARED)
    token = {"Authorization": "Bearer t"}
    first.until(lambda: len(first.ask(**token)[1].get("process", {}).get("pids", [])) == 2)
    client = first.send("/slow")
    first.until(lambda: first.ask(**token)[1]["in_flight"]["requests"] == 1)
    assert first.ask("/-/work/stop", "POST", **token)[1]["stopped"] is True
    mark = first.ask(**token)[1]["process"]["mark"]
    first.end()
    second = start(FLASK, *TWO, "shop:app", TOKEN="t", **SHARED)
    second.until(lambda: len(second.ask(**token)[1].get("process", {}).get("pids", [])) == 2)
    report = second.ask(**token)[1]
    assert report["process"]["mark"] != mark
    assert report["stopped"] is False
    assert report["in_flight"]["requests"] == 0
    client.close()


def test_stop_answers_when_the_hooks_of_every_worker_have_returned(start: Start) -> None:
    """One POST to one worker pauses the consumers in all of them."""
    server = start(FLASK, *TWO, "shop:app", TOKEN="t", **SHARED)
    token = {"Authorization": "Bearer t"}
    server.until(lambda: len(list(server.folder.glob("listening-*"))) == 2)
    status, report = server.ask("/-/work/stop", "POST", **token)
    assert (status, report["stopped"]) == (200, True)
    paused = {int(p.name.removeprefix("stopped-")) for p in server.folder.glob("stopped-*")}
    assert paused == set(report["process"]["pids"])


def test_streams_disconnects_and_crashes_under_gunicorn(start: Start) -> None:
    """A stream counts while it lasts, ends with its client, and a crash leaves nothing."""
    server = start(FLASK, *TWO, "shop:app", **SHARED)
    server.until(lambda: server.joined(2))
    client = server.send("/stream")
    assert client.recv(10)
    assert server.in_flight() == {"requests": 1}
    client.close()
    server.until(lambda: server.in_flight() == {})
    with server.send("/crash") as client:
        assert client.recv(12) == b"HTTP/1.1 500"
    server.until(lambda: server.in_flight() == {})
    assert server.ask()[1]["started"] == 2


def test_the_page_answers_the_moment_the_app_is_idle(start: Start) -> None:
    """A held question is answered when the last request has ended, in whichever worker."""
    server = start(FLASK, *TWO, "shop:app", **SHARED)
    server.until(lambda: server.joined(2))
    client = server.send("/slow")
    server.until(lambda: server.in_flight() == {"requests": 1})
    held = server.send("/-/work?wait=60")
    held.settimeout(0.3)
    with pytest.raises(TimeoutError):
        held.recv(1)
    held.settimeout(30)
    began = time.monotonic()
    server.release()
    assert held.recv(4096).startswith(b"HTTP/1.1 200")
    assert time.monotonic() - began < 30  # and not the 60 it might have been held
    client.close()
    held.close()


def test_four_workers_and_each_kind_of_work(start: Start) -> None:
    """Whichever worker has what in hand, each of them tells exactly all of it, to its end."""
    server = start(FLASK, *GUNICORN, "-w", "4", "shop:app", **SHARED)
    server.until(lambda: server.joined(4))
    clients = [server.send(path) for path in ("/slow", "/slow", "/slow", "/slow", "/message")]
    clients.append(server.send("/stream"))
    for path in ("/job", "/thread"):
        assert server.ask(path) == (200, 1)
    server.until_in_flight(requests=6, messages=1, tasks=2)
    every = {"requests": 6, "messages": 1, "tasks": 2}
    assert [server.in_flight() for _ in range(30)] == [every] * 30
    clients.pop().close()
    server.until_in_flight(requests=5, messages=1, tasks=2)
    server.release()
    server.until_in_flight()
    for client in clients:
        client.close()


def test_work_that_waits_for_a_thread_counts(start: Start) -> None:
    """What a request has handed to an executor counts when it is answered, queued or not."""
    server = start(FLASK, *GUNICORN, "shop:app")
    server.until_in_flight()
    for count in (1, 2, 3):
        assert server.ask("/job") == (200, 1)
        server.until_in_flight(tasks=count)  # the request itself ends just after its answer
    server.release()
    server.until_in_flight()


def test_a_file_that_a_slow_client_has_yet_to_read_counts(start: Start, tmp_path: Path) -> None:
    """Also one that the server might send on its own (wsgi.file_wrapper), to its last byte."""
    (tmp_path / "big").write_bytes(b"x" * 30_000_000)
    server = start(FLASK, *GUNICORN, "shop:app")
    server.until_in_flight()
    with server.send("/file") as client:
        assert client.recv(12) == b"HTTP/1.1 200"
        assert [server.in_flight() for _ in range(10)] == [{"requests": 1}] * 10
        received = 12
        while received < 30_000_000:
            received += len(client.recv(1_000_000))
        server.until_in_flight()
    with server.send("/file") as client:
        assert client.recv(12) == b"HTTP/1.1 200"
    server.until_in_flight()


@pytest.mark.parametrize("env", [{}, SHARED], ids=["alone", "shared"])
def test_a_worker_on_its_way_out_is_not_forgotten(start: Start, env: dict[str, str]) -> None:
    """After a reload the old worker still has its request; the new one does not call it idle."""
    server = start(FLASK, *GUNICORN, "shop:app", **env)
    server.until_in_flight()
    (old,) = server.ask()[1]["process"]["pids"]
    with server.send("/slow") as client:
        server.until_in_flight(requests=1)
        os.kill(server.process.pid, signal.SIGHUP)
        server.until(lambda: server.joined(2) if env else server.ask()[0] == 503)
        for _ in range(30):
            status, answer = server.ask()
            if env:
                assert (status, answer["in_flight"]["requests"]) == (200, 1), answer
            else:
                assert status == 503
                assert "serves the same port" in answer["error"]
        server.release()
        received = client.recv(4096)
        while not received.endswith(str(old).encode()):
            received += client.recv(4096)
    server.until_in_flight()
    server.until(lambda: old not in server.ask()[1]["process"]["pids"])


class TestUvicorn:
    def test_background_tasks_count_as_part_of_their_request(self, start: Start) -> None:
        """The answer is out, and the request still counts until its task is done."""
        server = start(FASTAPI, *UVICORN)
        server.until(lambda: server.in_flight() == {})
        assert server.ask("/background") == (200, "accepted")
        assert server.in_flight() == {"requests": 1}
        server.release()
        server.until(lambda: server.in_flight() == {})

    def test_an_answer_that_a_slow_client_has_yet_to_read_counts(self, start: Start) -> None:
        """The app has returned; the bytes wait in the server, which must not be killed."""
        server = start(FASTAPI, *UVICORN)
        server.until(lambda: server.in_flight() == {})
        client = server.send("/big")
        assert client.recv(12) == b"HTTP/1.1 200"
        for _ in range(10):
            assert server.in_flight() == {"requests": 1}
        received = 12
        while received < 30_000_000:
            received += len(client.recv(1_000_000))
        server.until(lambda: server.in_flight() == {})
        client.close()

    def test_a_background_task_that_fails_does_not_end_the_answer(self, start: Start) -> None:
        """The bytes that a slow client has yet to read still count."""
        server = start(FASTAPI, *UVICORN)
        server.until_in_flight()
        with server.send("/big-and-broken") as client:
            assert client.recv(12) == b"HTTP/1.1 200"
            assert [server.in_flight() for _ in range(30)] == [{"requests": 1}] * 30
            received = 12
            while received < 30_000_000:
                received += len(client.recv(1_000_000))
            server.until_in_flight()

    def test_streams_and_tasks(self, start: Start) -> None:
        """A stream counts to its end; a task beyond the request that has made it."""
        server = start(FASTAPI, *UVICORN)
        server.until_in_flight()
        with server.send("/stream") as client:
            received = client.recv(4096)
            while b"first" not in received:
                received += client.recv(4096)
            assert server.in_flight() == {"requests": 1}
            assert server.ask("/task") == (200, 1)
            assert server.in_flight() == {"requests": 1, "tasks": 1}
            server.release()
            while b"last" not in received:
                received += client.recv(4096)
        server.until_in_flight()

    def test_a_slow_client_that_goes_ends_its_request(self, start: Start) -> None:
        """What nobody will read any more is not waited for."""
        server = start(FASTAPI, *UVICORN)
        server.until(lambda: server.in_flight() == {})
        client = server.send("/big")
        server.until(lambda: server.in_flight() == {"requests": 1})
        client.close()
        server.until(lambda: server.in_flight() == {})

    def test_websockets_count_apart(self, start: Start) -> None:
        """An open WebSocket counts as one until it is closed, from either side."""
        server = start(FASTAPI, *UVICORN)
        server.until(lambda: server.in_flight() == {})
        client = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        key = base64.b64encode(os.urandom(16)).decode()
        client.sendall(
            "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        assert client.recv(4096).startswith(b"HTTP/1.1 101")
        assert server.in_flight() == {"websockets": 1}
        client.close()
        server.until(lambda: server.in_flight() == {})
