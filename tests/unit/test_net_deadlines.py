"""The limit is that of the whole call, whatever is slow, and of no other call."""

import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.net import connections, tls
from deregister_agent.net.fetcher import Fetcher, FetchError
from tests.servers.certificates import make_certificates, server_side
from tests.servers.talking import (
    OK,
    Server,
    Talk,
    answering,
    hanging,
    resetting,
    talking,
    trickling,
)

LIMIT = 0.5
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
RECORD = b"\x16\x03\x03\x40\x00" + bytes(200)  # the beginning of a long message of a handshake
Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Give a function that starts servers, and end them all."""
    with ExitStack() as stack:
        yield lambda talk, **how: stack.enter_context(talking(talk, **how))


def fetcher(server: Server, scheme: str = "http", **options: Any) -> Fetcher:
    base = f"{scheme}://127.0.0.1:{server.port}"
    return Fetcher(base, **{"timeout": LIMIT, **options})


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(
    ("scheme", "talk"),
    [
        pytest.param("https", trickling(RECORD, 5), id="handshake"),
        pytest.param("http", trickling(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 9, 0), id="103"),
        pytest.param("http", trickling(CHUNKED + b"1\r\nx\r\n" * 50, 50), id="chunks"),
    ],
)
def test_what_trickles_ends_at_the_deadline(serve: Serve, scheme: str, talk: Talk) -> None:
    """A byte now and then, in a handshake, in interim answers or in chunks, holds nobody."""
    server = serve(talk)
    with pytest.raises(FetchError, match=r"no answer within 0\.5 s"):
        fetcher(server, scheme).call("GET", "/")
    assert server.connections <= 1  # none where the deadline passed before


def test_a_name_that_is_looked_up_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that hangs holds no call, and may end later than the call."""
    over = threading.Event()
    real = socket.getaddrinfo

    def hangs(host: str, port: int, **how: Any) -> Any:
        if not how.get("flags"):
            over.wait(30)
        return real("127.0.0.1", port, **how) if over.is_set() else real(host, port, **how)

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    with pytest.raises(FetchError, match=r"no answer within 0\.5 s from name\.invalid:9"):
        Fetcher("http://name.invalid:9", timeout=LIMIT).call("GET", "/")
    over.set()


def test_certificates_that_are_read_slowly(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that a disk takes is part of the call: after that nobody is connected to."""
    real = tls.tls_context

    def slow(*files: Path | None) -> ssl.SSLContext:
        end = time.monotonic() + LIMIT
        context = real(*files)
        while time.monotonic() < end:
            threading.Event().wait(end - time.monotonic())
        return context

    monkeypatch.setattr(connections, "tls_context", slow)
    server = serve(hanging)
    with pytest.raises(FetchError, match=r"no answer within 0\.5 s"):
        fetcher(server, "https").call("GET", "/")
    assert server.connections == 0


def test_a_deadline_is_that_of_its_call_alone(serve: Serve) -> None:
    """On a connection that is kept, the deadline of a call that is over cuts off no later call."""
    late = threading.Event()

    def talk(connection: socket.socket, over: threading.Event) -> None:
        while request := connection.recv(65536):
            if request.startswith(b"GET /late"):
                late.wait(10)
            connection.sendall(OK)

    server = serve(talk)
    one = fetcher(server)
    for _ in range(3):
        over = time.monotonic() + 0.2
        assert one.call("GET", "/", timeout=0.2).text == "hello"
        late.clear()
        threading.Timer(over + 0.1 - time.monotonic(), late.set).start()
        assert one.call("GET", "/late", timeout=10).text == "hello"
        assert time.monotonic() > over
    assert server.connections == 1


@pytest.mark.parametrize("talk", [answering(b""), resetting])
def test_a_new_connection_is_no_stale_one(serve: Serve, talk: Talk) -> None:
    """A server that gives no answer on a connection opened for the call is not asked twice."""
    server = serve(talk)
    with pytest.raises(FetchError, match=r"closed the connection|Connection reset"):
        fetcher(server).call("GET", "/")
    assert server.connections == 1


def test_a_call_leaves_nothing_behind(tmp_path: Path) -> None:
    """Calls that fail, in whichever way, leave neither a descriptor nor a thread."""
    make_certificates(tmp_path)
    before = threading.active_count(), descriptors()
    for scheme, talk, both in (
        ("http", hanging, False),
        ("http", resetting, False),
        ("http", trickling(OK, 60), False),
        ("https", hanging, True),
        ("https", trickling(RECORD, 5), False),
    ):
        with talking(talk, tls=server_side(tmp_path) if both else None) as server:
            one = fetcher(server, scheme)
            for _ in range(3):
                with pytest.raises(FetchError):
                    one.call("GET", "/", timeout=0.1)
    with pytest.raises(FetchError):
        one.call("GET", "/")
    assert (threading.active_count(), descriptors()) == before


def test_renewed_certificates_are_read_for_each_connection(serve: Serve, tmp_path: Path) -> None:
    """What is on disk when a connection is opened counts, not what was there at the start."""
    make_certificates(tmp_path)
    files = (tmp_path / "now.pem", tmp_path / "client.pem", tmp_path / "client.key")
    shutil.copy(tmp_path / "other.pem", files[0])
    one = fetcher(serve(answering(OK), tls=server_side(tmp_path)), "https", tls_files=files)
    with pytest.raises(FetchError, match="certificate verify failed"):
        one.call("GET", "/", timeout=10)
    shutil.copy(tmp_path / "ca.pem", files[0])
    assert one.call("GET", "/", timeout=10).text == "hello"
