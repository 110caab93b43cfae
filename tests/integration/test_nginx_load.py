"""Real Nginx under load: an app that is killed when it is withdrawn and idle takes nobody along."""

import base64
import os
import select
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deregister_agent.demo.stage import free_ports
from tests.servers.child import Child, wait_until
from tests.servers.nginx import VERSIONS, Nginx, nginx

APP = Path(__file__).parents[1] / "apps" / "nginx_app.py"
HTTP = """
    map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
    upstream app {{
        server 127.0.0.1:{0} max_fails=0;
        server 127.0.0.1:{1} max_fails=0;
        server 127.0.0.1:{2} max_fails=0;
    }}
    server {{
        listen 127.0.0.1:{3};
        keepalive_timeout 60;
        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_next_upstream error timeout;
        }}
        location /upload {{
            proxy_pass http://app;
            proxy_next_upstream off;
        }}
    }}
"""


@dataclass
class Load:
    """Clients of several kinds, each over and over until it is told to stop."""

    port: int
    done: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    careless: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def again(self, kind: str, request: Callable[[], None]) -> None:
        """Send one request after another, and note each that is lost."""
        while not self.stopped.is_set():
            try:
                request()
            except (OSError, AssertionError) as e:
                with self.lock:
                    self.lost.append(f"{kind}: {e!r}")
            with self.lock:
                self.done[kind] += 1

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def get(self, path: str) -> None:
        with self.connect() as client:
            client.sendall(request(path, "Connection: close"))
            check(read_answer(client))

    def upload(self) -> None:
        """Send a body slowly: nginx has accepted it long before it chooses a server."""
        with self.connect() as client:
            client.sendall(request("/upload", "Content-Length: 2000\r\nConnection: close", "POST"))
            for _ in range(20):
                time.sleep(0.08)
                client.sendall(b"u" * 100)
            check(read_answer(client))

    def websocket(self) -> None:
        with self.connect() as client:
            key = base64.b64encode(os.urandom(16)).decode()
            upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13"
            client.sendall(request("/ws", f"{upgrade}\r\nSec-WebSocket-Key: {key}"))
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += some(client, 1)
            assert head.startswith(b"HTTP/1.1 101"), head
            for _ in range(12):
                time.sleep(0.1)
                echo(client, 0x81, b"hello")
            echo(client, 0x88, b"")

    def keep_alive(self, client: list[socket.socket], *, careful: bool) -> None:
        """Use one connection again and again; a careful client looks before it does."""
        if client and careful and select.select([client[0]], [], [], 0)[0]:
            client.pop().close()
        if not client:
            client.append(self.connect())
        try:
            client[0].sendall(request("/", "X: y"))
            check(read_answer(client[0]))
        except (OSError, AssertionError):
            client.pop().close()
            if careful:
                raise
            self.careless += 1
        time.sleep(0.02)


def request(path: str, headers: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: app\r\n{headers}\r\n\r\n".encode()


def some(client: socket.socket, count: int) -> bytes:
    data = client.recv(count)
    assert data, "the connection was closed"
    return data


def read_answer(client: socket.socket) -> tuple[bytes, int, int]:
    """Return the head of an answer, how long its body is said to be, and how long it is."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += some(client, 4096)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split()[0])
    while len(body) < length:
        body += some(client, 4096)
    return head, length, len(body)


def check(answer: tuple[bytes, int, int]) -> None:
    head, said, came = answer
    assert head.startswith(b"HTTP/1.1 200"), head.partition(b"\r\n")[0]
    assert said == came


def echo(client: socket.socket, kind: int, text: bytes) -> None:
    """Send one masked frame, and read the same back."""
    client.sendall(bytes([kind, 0x80 | len(text), 0, 0, 0, 0]) + text)
    wanted, got = bytes([kind, len(text)]) + text, b""
    while len(got) < len(wanted):
        got += some(client, len(wanted) - len(got))
    assert got == wanted


@contextmanager
def running(load: Load) -> Iterator[None]:
    """Keep up the load until the end of the block, and let every client finish its request."""
    careful: list[socket.socket] = []
    careless: list[socket.socket] = []
    kinds: list[tuple[str, Callable[[], None]]] = [
        ("quick", lambda: load.get("/")),
        ("slow", lambda: load.get("/slow")),
        ("slow", lambda: load.get("/slow")),
        ("stream", lambda: load.get("/stream")),
        ("stream", lambda: load.get("/stream")),
        *[("retry", lambda: load.get("/retry"))] * 6,
        *[("upload", load.upload)] * 6,
        *[("websocket", load.websocket)] * 3,
        ("careful", lambda: load.keep_alive(careful, careful=True)),
        ("careless", lambda: load.keep_alive(careless, careful=False)),
    ]
    threads = [threading.Thread(target=load.again, args=one) for one in kinds]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        load.stopped.set()
        for thread in threads:
            thread.join()
        for client in (*careful, *careless):
            client.close()


def in_hand(admin: int) -> int:
    with socket.create_connection(("127.0.0.1", admin), timeout=10) as client:
        return int(client.recv(100))


@contextmanager
def apps(folder: Path, ports: list[int]) -> Iterator[list[Child]]:
    """Run three apps, the second of which drops requests."""
    with ExitStack() as stack:
        running = []
        for number, kind in enumerate(("drained", "flaky", "steady")):
            port, admin = ports[number], ports[number + 4]
            command = [sys.executable, str(APP), str(port), str(admin), kind]
            app = stack.enter_context(Child(command, folder / f"app-{number}.log"))
            app.wait_ready(lambda admin=admin: connects(admin))  # type: ignore[misc]
            app.wait_ready(lambda port=port: connects(port))  # type: ignore[misc]
            running.append(app)
        yield running


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def each_kind(load: Load, count: int) -> Callable[[], bool]:
    """Return a condition: each kind of request has been answered *count* times more."""
    before = Counter(load.done)
    kinds = ("quick", "slow", "stream", "retry", "upload", "websocket", "careful", "careless")
    return lambda: all(load.done[kind] >= before[kind] + count for kind in kinds)


def drain(server: Nginx, port: int, admin: int) -> None:
    """Withdraw, and wait until nothing can come and nothing is in hand."""
    registry = server.registry(port)
    registry.withdraw()
    wait_until(
        lambda: not registry.lists() and not registry.stragglers() and not in_hand(admin),
        "it is withdrawn and idle",
        limit=30,
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_no_request_of_any_kind_is_lost(
    version: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Slow, streamed, uploaded, retried, upgraded: all are answered when the app is killed."""
    ports = free_ports(8)
    with (
        apps(tmp_path, ports) as (app, *_),
        nginx(version, tmp_path, HTTP.format(*ports)) as server,
    ):
        load = Load(ports[3])
        with running(load):
            wait_until(each_kind(load, 3), "each kind of request was answered", limit=60)
            drain(server, ports[0], ports[4])
            app.kill()
            wait_until(each_kind(load, 2), "each kind goes on being answered", limit=60)
    record_property("careless clients' errors", load.careless)
    print(f"{dict(load.done)}; {load.careless} error(s) of a client that does not look")
    assert load.lost == []
