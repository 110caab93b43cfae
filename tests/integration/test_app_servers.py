"""Real servers, with several worker processes: any of them answers for all."""

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

FLASK = """
import os, time
from pathlib import Path
from flask import Flask
from deregister_agent.app import Work

work = Work(token=os.environ.get("TOKEN"))
app = Flask(__name__)
app.wsgi_app = work.wsgi(app.wsgi_app)
work.on_stop(lambda: Path(f"stopped-{os.getpid()}").touch())

def released():
    return Path("release").exists()

@app.get("/slow")
def slow():
    while not released():
        time.sleep(0.01)
    return str(os.getpid())

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

@api.get("/big")
async def big():
    return Response(b"x" * 30_000_000)

@api.websocket("/ws")
async def ws(socket: WebSocket):
    await socket.accept()
    await socket.receive_text()

app = work.asgi(api)
"""


class Server:
    """A server process, its port and what one may do with it."""

    def __init__(self, folder: Path, app: str, command: list[str], env: dict[str, str]) -> None:
        self.folder = folder
        (folder / "shop.py").write_text(app)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            *(part.replace("PORT", str(self.port)) for part in command),
        ]
        env = os.environ | {"PYTHONPATH": str(ROOT)} | env
        self.log = (folder / "log").open("ab")
        self.process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=self.log, stderr=self.log, start_new_session=True
        )

    def end(self) -> None:
        """Kill it with all its workers, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        self.log.close()

    def ask(self, path: str = "/-/work", method: str = "GET", **headers: str) -> tuple[int, Any]:
        """Ask over a new connection, so that any worker may answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def in_flight(self) -> Any:
        """Return what is in flight, without the kinds of which there is nothing."""
        status, report = self.ask()
        assert status == 200, report
        return {kind: count for kind, count in report["in_flight"].items() if count}

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition; say what the server wrote if it does not come about."""
        end = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if condition():
                    return
            if time.monotonic() > end:
                pytest.fail((self.folder / "log").read_text())
            time.sleep(0.02)

    def send(self, path: str) -> socket.socket:
        """Send a request and leave its answer unread."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return client

    def release(self) -> None:
        """Let all slow requests end."""
        (self.folder / "release").touch()


Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers that the test ends."""
    servers: list[Server] = []

    def run(app: str, *command: str, **env: str) -> Server:
        servers.append(Server(tmp_path, app, list(command), env))
        return servers[-1]

    yield run
    for server in servers:
        server.end()


GUNICORN = ("gunicorn", "-b", "127.0.0.1:PORT", "-k", "gthread", "--threads", "16", "-w", "2")
UVICORN = ("uvicorn", "--port", "PORT", "shop:app")


def joined(server: Server, workers: int) -> bool:
    """Tell whether so many workers count together and none is missing."""
    status, report = server.ask()
    # Under --preload the parent counts too: it has made the Work.
    return status == 200 and len(report["process"]["pids"]) >= workers


@pytest.mark.parametrize("command", [(*GUNICORN, "shop:app"), (*UVICORN, "--workers", "2")])
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


SHARED = {"DEREGISTER_AGENT_WORK": "work"}


@pytest.mark.parametrize(
    ("app", "command", "env", "processes"),
    [
        (FLASK, (*GUNICORN, "shop:app"), SHARED, 2),
        (FLASK, (*GUNICORN, "--preload", "shop:app"), {}, 3),
        (FASTAPI, (*UVICORN, "--workers", "2"), SHARED, 2),
    ],
    ids=["gunicorn", "gunicorn-preload", "uvicorn"],
)
def test_any_worker_answers_for_all(
    start: Start, app: str, command: tuple[str, ...], env: dict[str, str], processes: int
) -> None:
    """Requests spread over the workers are all seen, whoever is asked, until each has ended."""
    server = start(app, *command, **env)
    server.until(lambda: joined(server, processes))
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
    server = start(FLASK, *GUNICORN, "shop:app", **SHARED)
    server.until(lambda: joined(server, 2))
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
    first = start(FLASK, *GUNICORN, "shop:app", TOKEN="t", **SHARED)
    token = {"Authorization": "Bearer t"}
    first.until(lambda: first.ask(**token)[0] == 200)
    client = first.send("/slow")
    first.until(lambda: first.ask(**token)[1]["in_flight"]["requests"] == 1)
    assert first.ask("/-/work/stop", "POST", **token)[1]["stopped"] is True
    mark = first.ask(**token)[1]["process"]["mark"]
    first.end()
    second = start(FLASK, *GUNICORN, "shop:app", TOKEN="t", **SHARED)
    second.until(lambda: second.ask(**token)[0] == 200)
    report = second.ask(**token)[1]
    assert report["process"]["mark"] != mark
    assert report["stopped"] is False
    assert report["in_flight"]["requests"] == 0
    client.close()


def test_stop_answers_when_the_hooks_of_every_worker_have_returned(start: Start) -> None:
    """One POST to one worker pauses the consumers in all of them."""
    server = start(FLASK, *GUNICORN, "shop:app", TOKEN="t", **SHARED)
    token = {"Authorization": "Bearer t"}
    server.until(lambda: len(server.ask(**token)[1].get("process", {}).get("pids", [])) == 2)
    status, report = server.ask("/-/work/stop", "POST", **token)
    assert (status, report["stopped"]) == (200, True)
    paused = {int(p.name.removeprefix("stopped-")) for p in server.folder.glob("stopped-*")}
    assert paused == set(report["process"]["pids"])


def test_streams_disconnects_and_crashes_under_gunicorn(start: Start) -> None:
    """A stream counts while it lasts, ends with its client, and a crash leaves nothing."""
    server = start(FLASK, *GUNICORN, "shop:app", **SHARED)
    server.until(lambda: joined(server, 2))
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
    server = start(FLASK, *GUNICORN, "shop:app", **SHARED)
    server.until(lambda: joined(server, 2))
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
