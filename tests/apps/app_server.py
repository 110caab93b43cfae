"""A real application server as a child process, and what a test may do with it."""

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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.demo.stage import free_ports

ROOT = Path(__file__).parents[2]
GUNICORN = ("gunicorn", "-b", "127.0.0.1:PORT", "-k", "gthread", "--threads", "16")
# A busy machine takes long to start a worker, and uvicorn would kill it after 5 seconds.
UVICORN = ("uvicorn", "--port", "PORT", "--timeout-worker-healthcheck", "60", "shop:app")
SHARED = {"DEREGISTER_AGENT_WORK": "work"}


class Server:
    """
    A server process, its port and what one may do with it.

    *command* is a module of Python and its arguments, or options of Python, or a program with
    its path; PORT in it, and as the value of a variable, is the port of the app, a free one
    unless it is given. A variable whose value is PAGE tells the port of a page of its own.
    """

    def __init__(
        self, folder: Path, app: str, command: list[str], env: dict[str, str], port: int = 0
    ) -> None:
        self.folder = folder
        (folder / "shop.py").write_text(app)
        free, spare = free_ports(2)
        self.port = port or free
        places = {"PORT": str(self.port), "PAGE": str(spare)}
        self.page = spare if "PAGE" in env.values() else self.port
        env = os.environ | {"PYTHONPATH": str(ROOT)} | {k: places.get(v, v) for k, v in env.items()}
        command = [part.replace("PORT", str(self.port)) for part in command]
        if "/" not in command[0]:
            command = [sys.executable, *([] if command[0].startswith("-") else ["-m"]), *command]
        self.log = (folder / "log").open("ab")
        self.process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=self.log, stderr=self.log, start_new_session=True
        )

    def end(self) -> None:
        """Kill it with all its workers, and wait until it is gone; once is enough."""
        if self.log.closed:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        self.log.close()

    def ask(self, path: str = "/-/work", method: str = "GET", **headers: str) -> tuple[int, Any]:
        """Ask over a new connection, so that any worker may answer."""
        port = self.page if path.startswith("/-/work") else self.port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
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
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if condition():
                    return
            if time.monotonic() > end:
                pytest.fail((self.folder / "log").read_text())
            time.sleep(0.02)

    def until_in_flight(self, **counts: int) -> None:
        """Wait until exactly this is in flight."""

        def so() -> bool:
            status, report = self.ask()
            said = report.get("in_flight", {})
            return status == 200 and {k: n for k, n in said.items() if n} == counts

        self.until(so)

    def joined(self, workers: int) -> bool:
        """Tell whether so many workers count together and none is missing."""
        status, report = self.ask()
        # Under --preload the parent counts too: it has made the Work.
        return status == 200 and len(report["process"]["pids"]) >= workers

    def send(self, path: str, *headers: str) -> socket.socket:
        """Send a request and leave its answer unread."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        lines = "".join(f"{line}\r\n" for line in ("Host: localhost", *headers))
        client.sendall(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        return client

    def release(self) -> None:
        """Let all that is held end."""
        (self.folder / "release").touch()


Start = Callable[..., Server]


@contextmanager
def servers(folder: Path) -> Iterator[Start]:
    """Give what starts servers; all of them end with the block."""
    running: list[Server] = []

    def run(app: str, *command: str, port: int = 0, **env: str) -> Server:
        running.append(Server(folder, app, list(command), env, port))
        return running[-1]

    try:
        yield run
    finally:
        for server in running:
            server.end()
