"""A server running in a thread of the test, and clients for it."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from deregister_agent.api.serve import prepare
from deregister_agent.config.server_options import ServerOptions
from deregister_agent.engine.agent import Agent
from tests.agent_by_hand import FakeAgent


class Running:
    """One server on a TCP port and a Unix socket, with an agent of one instance."""

    def __init__(self, directory: Path, agent: Any = None, **options: Any) -> None:
        self.agent = FakeAgent("orders-1") if agent is None else agent
        self.loop = self.agent.instances["orders-1"]
        self.path = directory / "agent.sock"
        self.options = ServerOptions(
            listen=options.pop("listen", ("127.0.0.1:0", f"unix:{self.path}")),
            token_file=directory / "token",
            **options,
        )
        self.server = prepare(cast(Agent, self.agent), self.options)
        self.port = int(self.server.addresses[0].rpartition(":")[2])
        self.token = self.options.token_file.read_text().strip()
        self.bearer = {"Authorization": f"Bearer {self.token}"}

    def tcp(self, timeout: float = 20.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def unix(self) -> "UnixConnection":
        return UnixConnection(self.path)

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def head(self, method: str, target: str, *lines: str) -> bytes:
        """Return the head of a request, to be sent by hand."""
        first = [f"{method} {target} HTTP/1.1", "Host: localhost"]
        return "\r\n".join([*first, f"Authorization: Bearer {self.token}", *lines, "", ""]).encode()


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


@contextmanager
def running(directory: Path, **options: Any) -> Iterator[Running]:
    """Run a server; stop it and close its sockets at the end, whatever happened."""
    one = Running(directory, **options)
    thread = threading.Thread(target=one.server.run)
    thread.start()
    try:
        yield one
    finally:
        one.server.stop()
        thread.join(30)
        one.server.close()
    assert not thread.is_alive()


def ask(
    connection: http.client.HTTPConnection, method: str, target: str, **more: Any
) -> tuple[int, Any]:
    """Ask once and close; return the status and the JSON."""
    try:
        return ask_and_keep(connection, method, target, **more)
    finally:
        connection.close()


def ask_and_keep(
    connection: http.client.HTTPConnection, method: str, target: str, **more: Any
) -> tuple[int, Any]:
    """Ask; return the status and the JSON, or the text of what is none."""
    connection.request(method, target, **more)
    response = connection.getresponse()
    content = response.read()
    is_json = "json" in response.headers.get("Content-Type", "")
    return response.status, json.loads(content) if is_json else content.decode()


def eventually(holds: Callable[[], bool], limit: float = 20.0) -> None:
    """Wait until *holds*; fail after *limit* seconds."""
    end = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)
