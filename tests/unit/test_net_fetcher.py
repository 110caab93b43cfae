"""Every call ends in time, with a whole answer or with a sentence that says why not."""

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest

from deregister_agent.errors import AgentError
from deregister_agent.net import pools
from deregister_agent.net.fetcher import Answer, Fetcher, FetchError
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
LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000
HEADERS = b"HTTP/1.1 200 OK\r\n" + b"X-Slow: yes\r\n" * 80
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Give a function that starts servers, and end them all."""
    with ExitStack() as stack:
        yield lambda talk, **how: stack.enter_context(talking(talk, **how))


def fetcher(server: Server, **options: object) -> Fetcher:
    base = f"http://127.0.0.1:{server.port}"
    return Fetcher(base, **({"timeout": LIMIT} | options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("talk", "why"),
    [
        pytest.param(hanging, "no answer within 0.5 s", id="hang"),
        pytest.param(trickling(HEADERS, 20), "no answer within 0.5 s", id="trickling-header"),
        pytest.param(trickling(LONG, 60), "no answer within 0.5 s", id="trickling-body"),
        pytest.param(trickling(b"HTTP/1.1 100 C\r\n\r\n" * 99, 0), "no answer within", id="100"),
        pytest.param(resetting, "Connection reset", id="reset"),
        pytest.param(answering(b""), "closed the connection without an answer", id="closed"),
        pytest.param(answering(OK[:-2]), "breaks off", id="truncated"),
        pytest.param(answering(CHUNKED + b"5\r\nhello"), "breaks off", id="truncated-chunks"),
        pytest.param(answering(b"SSH-2.0-x\r\n"), "does not speak HTTP", id="not-http"),
        pytest.param(
            answering(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nx"), "gzip", id="encoded"
        ),
    ],
)
def test_no_whole_answer_in_time_is_an_error(serve: Serve, talk: Talk, why: str) -> None:
    """A server that hangs, trickles, breaks off or talks something else gives no answer."""
    with pytest.raises(FetchError, match=why):
        fetcher(serve(talk)).call("POST", "/")


def test_a_body_that_is_too_large_is_an_error(serve: Serve) -> None:
    """A body past the limit is not read to its end, announced or not."""
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 200_000
    with pytest.raises(FetchError, match="larger than 1000 bytes"):
        fetcher(serve(answering(endless)), body_limit=1000).call("GET", "/")


def test_a_refused_connection_names_the_server() -> None:
    """Where nobody listens, the error says where that was."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        with pytest.raises(FetchError, match=f"^127.0.0.1:{port}: Connection refused$"):
            Fetcher(f"http://127.0.0.1:{port}", timeout=LIMIT).call("GET", "/")


def test_each_status_is_an_answer(serve: Serve) -> None:
    """A redirect is not followed, and an error page is an answer with its status."""
    for status in (b"301 Moved", b"404 No", b"500 Oops"):
        page = (
            b"HTTP/1.1 "
            + status
            + b"\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
        )
        answer = fetcher(serve(answering(page))).call("PUT", "/")
        assert (answer.status, answer.headers["location"]) == (
            int(status[:3]),
            "http://127.0.0.1:1/",
        )


def test_the_path_is_sent_as_it_stands(serve: Serve) -> None:
    """Nobody resolves dots or quotes anew: an id may hold anything."""
    seen: list[bytes] = []

    def talk(connection: socket.socket, over: threading.Event) -> None:
        seen.append(connection.recv(65536))
        connection.sendall(OK)

    target = "/v1/" + quote("a/../b c?d#e", safe="")
    fetcher(serve(talk)).call("GET", target, params=[("reason", "x y&z"), ("consistent", "")])
    assert seen[0].startswith(
        b"GET /v1/a%2F..%2Fb%20c%3Fd%23e?reason=x%20y%26z&consistent= HTTP/1.1"
    )


def test_json_that_is_none_is_an_error() -> None:
    """HTML instead of JSON is shown as what it is; so is JSON too deep to read."""
    page = Answer(200, {"Content-Type": "text/html"}, b"<html>" + b"x" * 100)
    with pytest.raises(FetchError, match=r"not JSON but text/html: '<html>x+\.\.\.'$"):
        page.json()
    with pytest.raises(FetchError, match="not JSON"):
        Answer(200, {}, b"[" * 1_000_000).json()


def test_a_connection_reset_while_it_is_opened(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app killed just then resets what its kernel had accepted: no answer, and no bug."""

    def reset(*_: object) -> socket.socket:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    server = serve(answering(OK))
    monkeypatch.setattr(pools, "connect_to_host", reset)
    with pytest.raises(FetchError, match="Connection reset"):
        fetcher(server).call("GET", "/")


def test_a_stale_connection_is_replaced(serve: Serve) -> None:
    """A pooled connection that the server closes on reuse is thrown away, and the call goes on."""

    def talk(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(OK)
        connection.recv(65536)  # the second request on this connection gets no answer

    server = serve(talk)
    calls = fetcher(server)
    assert [calls.call("PUT", "/").text for _ in range(3)] == ["hello"] * 3
    assert server.connections == 3


def test_a_stale_connection_is_an_error_for_what_may_not_be_repeated(
    serve: Serve,
) -> None:
    """A POST is not sent twice, as the first may have been taken."""

    def talk(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(OK)
        connection.recv(65536)

    calls = fetcher(serve(talk))
    calls.call("POST", "/")
    with pytest.raises(FetchError, match="closed the connection"):
        calls.call("POST", "/")


def test_connections_are_kept(serve: Serve) -> None:
    """One connection serves call after call."""
    server = serve(answering(OK, keep=True))
    calls = fetcher(server)
    for _ in range(3):
        assert calls.call("GET", "/").body == b"hello"
    assert server.connections == 1
    del calls


def test_the_environment_does_not_matter(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Proxies and netrc that the environment names are ignored."""
    (tmp_path / "netrc").write_text("default login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    seen: list[bytes] = []

    def talk(connection: socket.socket, over: threading.Event) -> None:
        seen.append(connection.recv(65536))
        connection.sendall(OK)

    assert fetcher(serve(talk)).call("GET", "/").text == "hello"
    assert b"uthorization" not in seen[0]


def test_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    """A server on a Unix socket is called like any other, also where its path has capitals."""
    path = str(tmp_path / "Agent.sock")
    serve(answering(OK), path=path)
    base = "http+unix://" + quote(path, safe="")
    assert Fetcher(base, timeout=LIMIT).call("GET", "/").text == "hello"
    with pytest.raises(FetchError, match=r"/nobody\.sock: No such file"):
        Fetcher(f"{base}x".replace("Agent.sockx", "nobody.sock"), timeout=LIMIT).call("GET", "/")


@pytest.mark.parametrize(
    "base",
    ["consul:8500", "ftp://x", "http://", "http://[::1", "http://x:99999", "http://a b:80"],
)
def test_a_url_that_is_none(base: str) -> None:
    """What is no URL of a server is refused when it is given, not when it is used."""
    with pytest.raises(FetchError, match="is no URL"):
        Fetcher(base, timeout=LIMIT)


def test_a_host_name_that_is_none() -> None:
    """A name that no resolver would take is an error like any other."""
    with pytest.raises(FetchError, match=r"'a\.\.b' is no host name"):
        Fetcher("http://a..b:80", timeout=LIMIT).call("GET", "/")


def test_over_ipv6() -> None:
    """A server is called by its IPv6 address, and a zone is understood as RFC 6874 writes it."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        server = Server(listener, answering(OK), None)
        thread = threading.Thread(target=server.run)
        thread.start()
        assert Fetcher(f"http://[::1]:{server.port}", timeout=30).call("GET", "/").text == "hello"
        server.end()
        thread.join()
    with pytest.raises(FetchError, match=r"^\[fe80::1%25lo\]:9: (?!.*not known)"):
        Fetcher("http://[fe80::1%25lo]:9", timeout=LIMIT).call("GET", "/")


@pytest.mark.parametrize(
    ("target", "headers", "why"),
    [
        ("/a\r\nX-Admin: yes", {}, "has a character in it that cannot be sent"),
        ("/", {"X-A": "b\r\nX-Admin: yes"}, "^header X-A has a character in it"),
        ("/", {"X-A: b\r\nX-Admin": "yes"}, "a request that cannot be sent"),
        ("/", {"Content-Length": "100"}, "^header Content-Length cannot be set"),
        ("/", {"transfer-encoding": "chunked"}, "^header transfer-encoding cannot be set"),
    ],
)
def test_a_request_is_one_request(
    serve: Serve, target: str, headers: dict[str, str], why: str
) -> None:
    """Nothing that is put into a request can end it, or add to it, and begin another one."""
    server = serve(answering(OK))
    with pytest.raises(FetchError, match=why):
        fetcher(server).call("GET", target, headers=headers)
    assert server.connections == 0


def test_secrets_stay_secret(serve: Serve) -> None:
    """Neither a URL nor an error holds one; a token that cannot be read is the error."""
    with pytest.raises(FetchError, match="must not hold a user name"):
        Fetcher("http://me:geheim@127.0.0.1", timeout=LIMIT)
    server = serve(answering(OK))
    with pytest.raises(FetchError, match=r"^header X-Token has") as caught:
        fetcher(server, headers=lambda: {"X-Token": "geheim\nX: y"}).call("GET", "/")
    assert "geheim" not in str(caught.value)

    def unreadable() -> dict[str, str]:
        raise AgentError("the secret in /nowhere is empty")

    with pytest.raises(FetchError, match="the secret in /nowhere is empty"):
        fetcher(server, headers=unreadable).call("GET", "/")
