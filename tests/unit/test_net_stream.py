"""An answer that comes line by line: each line has its own end, or a sentence why it has not."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from deregister_agent.net.fetcher import Fetcher, FetchError
from tests.servers.talking import OK, Server, Talk, answering, hanging, talking, trickling

LIMIT = 0.5
LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Give a function that starts servers, and end them all."""
    with ExitStack() as stack:
        yield lambda talk, **how: stack.enter_context(talking(talk, **how))


def fetcher(server: Server, body_limit: int = 1000) -> Fetcher:
    return Fetcher(f"http://127.0.0.1:{server.port}", timeout=LIMIT, body_limit=body_limit)


@pytest.mark.parametrize("head", ["", "Content-Length: 8\r\n"])
def test_a_stream_without_chunks(serve: Serve, head: str) -> None:
    """Lines are there when they come, also where the answer has a length or just ends."""
    more = threading.Event()

    def talk(connection: socket.socket, over: threading.Event) -> None:
        request = b""
        while not request.endswith(b"{}"):
            request += connection.recv(65536)
        connection.sendall(f"HTTP/1.1 200 OK\r\n{head}\r\none\n".encode())
        more.wait(30)
        connection.sendall(b"two\n")

    with fetcher(serve(talk)).stream("POST", "/", payload={}) as stream:
        assert stream.line(30) == b"one"
        more.set()
        assert (stream.line(30), stream.line(30)) == (b"two", None)


def test_a_stream_gives_each_line_when_it_comes(serve: Serve) -> None:
    """Lines are there before the answer ends, wherever chunks begin; after the last is None."""
    more = threading.Event()

    def talk(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(CHUNKED + b"8\r\none\ntwo\n\r\n2\r\nth\r\n")
        more.wait(30)
        connection.sendall(b"4\r\nree\n\r\n0\r\n\r\n")

    with fetcher(serve(talk)).stream("POST", "/", payload={}) as stream:
        assert (stream.status, stream.line(30), stream.line(30)) == (200, b"one", b"two")
        more.set()
        assert stream.line(30) == b"three"
        assert stream.line(30) is None


@pytest.mark.parametrize(
    ("talk", "why"),
    [
        pytest.param(hanging, "no answer within 0.5 s", id="hang"),
        pytest.param(trickling(LONG, 60), "no answer within 0.4 s", id="trickling"),
        pytest.param(answering(CHUNKED + b"5\r\nhello"), "breaks off", id="truncated"),
        pytest.param(answering(LONG), "a line of its answer has over 500 bytes", id="long"),
        pytest.param(answering(OK[:-2]), "breaks off", id="short"),
        pytest.param(
            answering(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nx"), "gzip", id="encoded"
        ),
    ],
)
def test_a_stream_that_is_none(serve: Serve, talk: Talk, why: str) -> None:
    """A stream that hangs, trickles or breaks off within a line ends in time, with the reason."""
    one = fetcher(serve(talk), body_limit=500)
    with pytest.raises(FetchError, match=why), one.stream("POST", "/", payload={}) as stream:
        stream.line(0.4)
