"""Connections are shared by all who call one server, and nobody gets another's answer by it."""

import gc
import io
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from deregister_agent.net import pools
from deregister_agent.net.fetcher import Fetcher, FetchError
from tests.servers.certificates import make_certificates, server_side
from tests.servers.child import wait_until
from tests.servers.talking import OK, Server, answering, talking

LIMIT = 10.0
Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Give a function that starts servers, and end them all."""
    with ExitStack() as stack:
        yield lambda talk, **how: stack.enter_context(talking(talk, **how))


def fetcher(server: Server, **options: object) -> Fetcher:
    base = f"http://127.0.0.1:{server.port}"
    return Fetcher(base, **({"timeout": LIMIT} | options))  # type: ignore[arg-type]


def over_tls(
    server: Server,
    folder: Path,
    *,
    ca: str = "ca.pem",
    certificate: str | None = "client.pem",
    key: str | None = "client.key",
) -> Fetcher:
    return Fetcher(
        f"https://127.0.0.1:{server.port}",
        timeout=LIMIT,
        tls_files=(
            folder / ca,
            folder / certificate if certificate else None,
            folder / key if key else None,
        ),
    )


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


class Meeting:
    """Answers once so many requests are there together, and counts who has left."""

    def __init__(self, parties: int) -> None:
        self.together = threading.Barrier(parties)
        self.left = 0

    def talk(self, connection: socket.socket, over: threading.Event) -> None:
        while connection.recv(65536):
            self.together.wait(LIMIT)
            connection.sendall(OK)
        self.left += 1


def test_all_who_call_one_server_share_connections(serve: Serve) -> None:
    """Two callers use one connection; what each of them sends with it is its own."""
    seen: list[bytes] = []

    def talk(connection: socket.socket, over: threading.Event) -> None:
        while request := connection.recv(65536):
            seen.append(request)
            connection.sendall(OK)

    server = serve(talk)
    callers = [fetcher(server, headers=lambda n=n: {f"X-Token-{n}": f"secret-{n}"}) for n in (1, 2)]
    for one in callers * 2:
        assert one.call("GET", "/").text == "hello"
    assert server.connections == 1
    assert [b"secret-1" in each for each in seen] == [True, False] * 2
    assert [b"secret-2" in each for each in seen] == [False, True] * 2


def test_a_slow_call_holds_up_nobody(serve: Serve) -> None:
    """While one caller waits for its answer, another one is answered on a connection of its own."""
    slow, go = threading.Event(), threading.Event()

    def talk(connection: socket.socket, over: threading.Event) -> None:
        while request := connection.recv(65536):
            if request.startswith(b"GET /slow"):
                slow.set()
                go.wait(LIMIT)
            connection.sendall(OK)

    server = serve(talk)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(fetcher(server).call, "GET", "/slow")
        assert slow.wait(LIMIT)
        assert fetcher(server).call("GET", "/").text == "hello"
        assert not waits.done()
        go.set()
        assert waits.result(LIMIT).text == "hello"
    assert server.connections == 2


def test_a_late_answer_is_nobodys(serve: Serve) -> None:
    """After a call that was given up its connection is closed, and the answer lost."""

    def talk(connection: socket.socket, over: threading.Event) -> None:
        while request := connection.recv(65536):
            late = request.startswith(b"GET /late")
            if late:
                over.wait(0.3)
            connection.sendall(ok(b"late" if late else b"fresh"))

    server = serve(talk)
    one, other = fetcher(server), fetcher(server)
    one.call("GET", "/")
    for _ in range(3):
        with pytest.raises(FetchError, match="no answer within"):
            one.call("GET", "/late", timeout=0.1)
        assert other.call("GET", "/").text == "fresh"


@pytest.mark.parametrize("interim", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
def test_an_interim_answer_is_passed_over(serve: Serve, interim: bytes) -> None:
    """What comes before the answer is not the answer, nor is the answer that of the next call."""

    def talk(connection: socket.socket, over: threading.Event) -> None:
        while request := connection.recv(65536):
            connection.sendall(b"HTTP/1.1 %s\r\nLink: </x>\r\n\r\n" % interim * 2)
            over.wait(0.1)
            connection.sendall(ok(request.split()[1]))

    server = serve(talk)
    one = fetcher(server)
    answers = [one.call("GET", path) for path in ("/1", "/2")]
    assert [(each.status, each.text) for each in answers] == [(200, "/1"), (200, "/2")]
    assert server.connections == 1


def test_another_protocol_is_no_answer(serve: Serve) -> None:
    """A server that switches to another protocol is not spoken to any more on that connection."""
    seen: list[bytes] = []

    def talk(connection: socket.socket, over: threading.Event) -> None:
        while request := connection.recv(65536):
            first = not seen
            seen.append(request)
            connection.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n" if first else OK
            )

    server = serve(talk)
    one = fetcher(server)
    with pytest.raises(FetchError, match="101, which was not asked for"):
        one.call("GET", "/")
    assert one.call("GET", "/").text == "hello"
    assert server.connections == 2


def test_a_closed_connection_is_not_used_again(serve: Serve) -> None:
    """What the server has closed in the meantime costs no call, not even one sent only once."""
    meeting = Meeting(1)

    def talk(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(OK)
        connection.shutdown(socket.SHUT_RDWR)
        meeting.left += 1

    server = serve(talk)
    one = fetcher(server)
    assert one.call("POST", "/").text == "hello"
    wait_until(lambda: meeting.left == 1, "the server has closed it")
    assert one.call("POST", "/").text == "hello"
    assert server.connections == 2


def test_only_so_many_are_kept(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the connections that a burst needed, those beyond the limit are closed after it."""
    monkeypatch.setattr(pools, "MOST_IDLE", 2)
    meeting = Meeting(5)
    server = serve(meeting.talk)
    callers = [fetcher(server) for _ in range(5)]
    with ThreadPoolExecutor(5) as pool:
        assert [a.text for a in pool.map(lambda one: one.call("GET", "/"), callers)] == [
            "hello"
        ] * 5
    wait_until(lambda: meeting.left == 3, "three are closed")


def test_none_is_kept_for_long(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that nobody has used for a while are closed by the next call to the server."""
    meeting = Meeting(3)
    server = serve(meeting.talk)
    callers = [fetcher(server) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda one: one.call("GET", "/"), callers))
    monkeypatch.setattr(pools, "IDLE_TIMEOUT", 0.0)
    meeting.together = threading.Barrier(1)
    assert callers[0].call("GET", "/").text == "hello"
    wait_until(lambda: meeting.left >= 2, "the other two are closed")


def test_none_is_kept_for_nobody(serve: Serve) -> None:
    """When the last caller has gone, so have its connections."""
    meeting = Meeting(1)
    server = serve(meeting.talk)
    one = fetcher(server)
    assert one.call("GET", "/").text == "hello"
    del one
    gc.collect()
    wait_until(lambda: meeting.left == 1, "it is closed")


def test_a_certificate_lends_its_connection_to_nobody(serve: Serve, tmp_path: Path) -> None:
    """Who has no client certificate does not get to use the connection of who has one."""
    make_certificates(tmp_path)
    server = serve(answering(OK, keep=True), tls=server_side(tmp_path))
    known = over_tls(server, tmp_path)
    assert [known.call("GET", "/").text for _ in range(2)] == ["hello"] * 2
    assert server.connections == 1
    with pytest.raises(FetchError):
        over_tls(server, tmp_path, certificate=None, key=None).call("GET", "/")
    with pytest.raises(FetchError, match="certificate verify failed"):
        over_tls(server, tmp_path, ca="other.pem").call("GET", "/")
    del known  # so that the server sees the end of its connection


def test_what_nobody_asked_for_is_no_answer(serve: Serve, tmp_path: Path) -> None:
    """Bytes that came over TLS after an answer, and are decrypted already, are not the next one."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 8000\r\n"
    first = head + b"X: " + b"x" * (8192 - 8000 - len(head) - 7) + b"\r\n\r\n" + b"y" * 8000
    assert len(first) == 8192  # what is read at a time: all that follows stays in the TLS layer

    def talk(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(first + ok(b"stale"))
        if connection.recv(65536):
            connection.sendall(ok(b"fresh"))

    make_certificates(tmp_path)
    server = serve(talk, tls=server_side(tmp_path))
    one = over_tls(server, tmp_path)
    assert len(one.call("GET", "/").body) == 8000
    assert one.call("GET", "/").text != "stale"
    # Python 3.14 reads more at a time: then all that follows has gone with the first answer.
    assert server.connections == (2 if len(first) == io.DEFAULT_BUFFER_SIZE else 1)
