"""The table "what is counted where" of the reference, as far as its servers are here."""

import base64
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps.app_server import GUNICORN, UVICORN, Start, servers
from tests.integration.test_app_servers import FASTAPI, FLASK

HYPERCORN = ("hypercorn", "-b", "127.0.0.1:PORT", "shop:app")
SERVERS = {"uvicorn": (FASTAPI, UVICORN), "hypercorn": (FASTAPI, HYPERCORN)}
WITH_WSGI = SERVERS | {"gunicorn": (FLASK, (*GUNICORN, "shop:app"))}
BIG = 30_000_000


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers that the test ends."""
    with servers(tmp_path) as run:
        yield run


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("reads", [True, False], ids=["reads on", "leaves"])
def test_a_slow_reader_counts_until_it_has_read_or_gone(
    start: Start, name: str, *, reads: bool
) -> None:
    """The answer is in the server's hands: whoever killed it now would cut it off."""
    server = start(SERVERS[name][0], *SERVERS[name][1])
    server.until_in_flight()
    with server.send("/big") as client:
        assert client.recv(12) == b"HTTP/1.1 200"
        assert [server.in_flight() for _ in range(40)] == [{"requests": 1}] * 40
        received = 12
        while reads and received < BIG:
            received += len(client.recv(1_000_000))
        if reads:
            server.until_in_flight()
    server.until_in_flight()


@pytest.mark.parametrize("name", WITH_WSGI)
def test_a_stream_counts_until_its_end(start: Start, name: str) -> None:
    """From its first piece to its last."""
    server = start(WITH_WSGI[name][0], *WITH_WSGI[name][1])
    server.until_in_flight()
    with server.send("/stream") as client:
        received = client.recv(4096)
        while b"first" not in received:
            received += client.recv(4096)
        assert [server.in_flight() for _ in range(40)] == [{"requests": 1}] * 40
        server.release()
        if name != "gunicorn":
            server.until_in_flight()
    server.until_in_flight()


@pytest.mark.parametrize("name", SERVERS)
def test_a_background_task_of_starlette_counts(start: Start, name: str) -> None:
    """The answer is out, and the request is not over."""
    server = start(SERVERS[name][0], *SERVERS[name][1])
    server.until_in_flight()
    assert server.ask("/background") == (200, "accepted")
    assert [server.in_flight() for _ in range(40)] == [{"requests": 1}] * 40
    server.release()
    server.until_in_flight()


@pytest.mark.parametrize("name", SERVERS)
def test_a_websocket_counts_until_it_is_closed(start: Start, name: str) -> None:
    """Apart from the requests."""
    server = start(SERVERS[name][0], *SERVERS[name][1])
    server.until_in_flight()
    key = base64.b64encode(os.urandom(16)).decode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(
            "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        assert client.recv(4096).startswith(b"HTTP/1.1 101")
        assert [server.in_flight() for _ in range(40)] == [{"websockets": 1}] * 40
    server.until_in_flight()
