"""The server: many waiters, bad clients, TLS, sockets in the way, signals."""

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h2.connection
import h2.events
import pytest
from pydantic import ValidationError

from deregister_agent.api import held_requests, wsgi_bridge
from deregister_agent.api import server as httpd
from deregister_agent.api.listen import close_listeners, open_listeners
from deregister_agent.api.trust import ensure_token
from deregister_agent.config.server_options import ServerOptions, ServerTlsOptions
from deregister_agent.errors import AgentError
from deregister_agent.journal.history import TimelineEvent
from deregister_agent.model import Outcome, Phase
from tests.apps.running_server import (
    Running,
    UnixConnection,
    ask,
    ask_and_keep,
    eventually,
    running,
)

TESTS = Path(__file__).parents[1]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path) as one:
        yield one


# --- who is let in ---


def test_token_on_tcp_and_uid_on_the_unix_socket(server: Running) -> None:
    """TCP asks for the token; the Unix socket records which user asked."""
    assert ask(server.tcp(), "POST", "/stop-traffic")[0] == 401
    status, _ = ask(server.tcp(), "POST", "/stop-traffic", headers=server.bearer)
    assert status == 202
    status, _ = ask(server.unix(), "POST", "/stop-traffic")
    assert status == 202
    asked = [request.asked_by for request in server.loop.requests]
    assert asked == ["127.0.0.1", f"uid {os.getuid()}"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_uid_of_another_user(tmp_path: Path) -> None:
    """Several users at once are told apart."""
    os.chmod(tmp_path, 0o711)  # noqa: PTH101 - the parents are opened below in the same way
    for parent in tmp_path.parents:
        if parent.is_relative_to(tempfile.gettempdir()) and parent != Path(tempfile.gettempdir()):
            parent.chmod(0o711)
    with running(tmp_path, socket_mode="0660", socket_group="nogroup") as server:
        script = (
            "import os, socket, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534);"
            "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
            "s.sendall(b'POST /stop-traffic HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n');"
            "print(s.recv(12).decode())"
        )
        with contextlib.closing(server.unix()) as held:
            held.connect()  # open while the other one asks
            done = subprocess.run(
                [sys.executable, "-c", script, str(server.path)],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert done.stdout.strip() == "HTTP/1.1 202", done.stderr
            ask(held, "POST", "/stop-traffic")
        asked = [request.asked_by for request in server.loop.requests]
        assert asked == ["uid 65534", "uid 0"]


def test_host_is_checked_on_the_wire(server: Running) -> None:
    """A rebound name is refused; the address the connection came to is not."""
    for host, status in [("evil.example", 403), (f"127.0.0.1:{server.port}", 200)]:
        headers = {**server.bearer, "Host": host}
        assert ask(server.tcp(), "GET", "/v1/instances", headers=headers)[0] == status


def test_header_with_underscores_is_not_the_real_one(server: Running) -> None:
    """``X_Asked_By`` does not pass for ``X-Asked-By``."""
    headers = {**server.bearer, "X_Asked_By": "root"}
    ask(server.tcp(), "POST", "/stop-traffic", headers=headers)
    assert server.loop.requests[0].asked_by == "127.0.0.1"


def test_token_file(tmp_path: Path) -> None:
    """Made once, for its owner alone; kept; refused when it is no secret or empty."""
    path = tmp_path / "token"
    token = ensure_token(path)
    assert len(token) >= 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ensure_token(path) == token
    assert list(tmp_path.iterdir()) == [path]
    path.chmod(0o604)
    with pytest.raises(AgentError, match="mode 0604") as caught:
        ensure_token(path)
    assert token not in str(caught.value)
    path.chmod(0o640)
    assert ensure_token(path) == token
    path.write_text("\n")
    with pytest.raises(AgentError, match="is empty"):
        ensure_token(path)
    path.write_text("-----BEGIN\ns3cret\n")
    with pytest.raises(AgentError, match="holds more than a token") as caught:
        ensure_token(path)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(AgentError, match=r"server\.token_file"):
        ensure_token(tmp_path / "none" / "token")


def test_two_starts_at_once_make_one_token(tmp_path: Path) -> None:
    """Whoever comes second uses the token of the first."""
    found: list[str] = []
    path = tmp_path / "token"
    script = (
        "import sys; from pathlib import Path; from deregister_agent.api.trust import ensure_token"
    )
    command = [sys.executable, "-c", f"{script}; print(ensure_token(Path(sys.argv[1])))", str(path)]
    starts = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for start in starts:
        out, _ = start.communicate(timeout=60)
        found.append(out.strip())
    assert found == [path.read_text().strip()] * 4


# --- many who wait ---


def test_two_hundred_waiters(server: Running) -> None:
    """200 held requests cost the others nothing, and all are answered when the drain ends."""
    server.loop.to(Phase.DRAINING)
    held = [server.tcp() for _ in range(200)]
    for connection in held:
        connection.request("GET", "/traffic-drained?wait=120", headers=server.bearer)
    eventually(lambda: server.loop.waiting == 200)
    for _ in range(50):
        assert (
            ask(server.tcp(timeout=5), "GET", "/traffic-drained", headers=server.bearer)[0] == 503
        )
    server.loop.to(Phase.DRAINED, Outcome.DRAINED)
    assert {connection.getresponse().status for connection in held} == {200}
    for connection in held:
        connection.close()


def test_cap_of_waiters(tmp_path: Path) -> None:
    """One more than the cap is told to come again; other requests are not touched."""
    with running(tmp_path, max_waits=2) as server:
        server.loop.to(Phase.DRAINING)
        held = [server.tcp() for _ in range(2)]
        for connection in held:
            connection.request("GET", "/traffic-drained?wait=120", headers=server.bearer)
        eventually(lambda: server.loop.waiting == 2)
        status, problem = ask(
            server.tcp(), "GET", "/traffic-drained?wait=120", headers=server.bearer
        )
        assert (status, "server.max_waits" in problem["detail"]) == (503, True)
        assert ask(server.unix(), "POST", "/stop-traffic")[0] == 202
        for connection in held:
            connection.close()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_client_that_leaves_frees_its_waiter(server: Running, kind: str) -> None:
    """A wait ends soon after its client has gone, and gives its thread and its place back."""
    server.loop.to(Phase.DRAINING)
    connection = server.tcp() if kind == "tcp" else server.unix()
    connection.request("GET", "/traffic-drained?wait=300", headers=server.bearer)
    eventually(lambda: server.loop.waiting == 1)
    connection.close()
    eventually(lambda: server.loop.waiting == 0, limit=3 * held_requests.SLICE + 10)


def test_stop_wakes_who_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiter is woken to be answered, not found out at its next look whether to go on."""
    monkeypatch.setattr(held_requests, "SLICE", 300.0)
    with running(tmp_path) as server:
        server.loop.to(Phase.DRAINING)
        connection = server.tcp()
        connection.request("GET", "/traffic-drained?wait=300", headers=server.bearer)
        eventually(lambda: server.loop.waiting == 1)
        server.server.stop()
        assert connection.getresponse().status == 503
        connection.close()


def test_request_that_does_not_end_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The stop has an end of its own, whatever is still in hand."""
    monkeypatch.setattr(held_requests, "SLICE", 300.0)
    with running(tmp_path, stop_within=0.3) as server:
        server.loop.to(Phase.DRAINING)
        monkeypatch.setattr(server.loop, "close", lambda: None)
        connection = server.tcp()
        connection.request("GET", "/traffic-drained?wait=300", headers=server.bearer)
        eventually(lambda: server.loop.waiting == 1)
        server.server.stop()
        # Closed without an answer is just as far from 2xx.
        with contextlib.suppress(OSError, http.client.HTTPException):
            assert connection.getresponse().status == 500
        connection.close()
    assert server.agent.stopped
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    server.loop.to(Phase.DRAINED, Outcome.DRAINED)  # lets the thread go


# --- bad clients ---


def test_body_too_large(server: Running) -> None:
    """413 as a problem, whether the length was announced or not, and the server lives on."""
    big = b" " * (wsgi_bridge.BODY_LIMIT + 1)
    headers = {**server.bearer, "Content-Type": "application/json"}
    for body in (big, iter([big, big]), b" " * (wsgi_bridge.BODY_LIMIT * 8)):
        status, problem = ask(server.tcp(), "POST", "/stop-traffic", headers=headers, body=body)
        assert (status, problem["detail"]) == (413, "the body is larger than 65536 bytes")
    assert not server.loop.requests
    exact = b"{" + b" " * (wsgi_bridge.BODY_LIMIT - 2) + b"}"
    assert ask(server.tcp(), "POST", "/stop-traffic", headers=headers, body=exact)[0] == 202


def test_endless_body_is_cut(server: Running) -> None:
    """A client that never stops sending is answered and closed, not read for ever."""
    client = server.raw()
    client.sendall(server.head("POST", "/stop-traffic", "Content-Length: 100000000000"))

    def send() -> None:
        with contextlib.suppress(OSError):  # as soon as it is closed
            while True:
                client.sendall(b" " * 65536)

    sender = threading.Thread(target=send)
    sender.start()
    sender.join(30)
    assert not sender.is_alive()
    client.close()
    assert ask(server.tcp(), "GET", "/healthz")[0] == 200


def test_dribbled_body(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body has a time for the whole of it, not for each byte."""
    monkeypatch.setattr(wsgi_bridge, "_BODY_TIMEOUT", 0.5)
    with running(tmp_path) as server:
        client = server.raw()
        client.sendall(server.head("POST", "/stop-traffic", "Content-Length: 1000"))
        client.settimeout(0.05)
        answer = b""
        end = time.monotonic() + 20
        while b"}" not in answer and time.monotonic() < end:
            client.sendall(b" ")
            try:
                answer += client.recv(4096)
            except TimeoutError:
                continue
        client.close()
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"did not arrive within 0.5 s" in answer


def test_empty_body_in_every_form(server: Running) -> None:
    """No body, an empty one, an empty chunked one and curl's -d '' are all the same."""
    form = {**server.bearer, "Content-Type": "application/x-www-form-urlencoded"}
    assert ask(server.tcp(), "POST", "/stop-traffic", headers=server.bearer)[0] == 202
    assert ask(server.tcp(), "POST", "/stop-traffic", headers=form, body=b"")[0] == 202
    assert ask(server.tcp(), "POST", "/stop-traffic", headers=form, body=iter([]))[0] == 202
    client = server.raw()
    client.sendall(server.head("POST", "/stop-traffic"))
    assert client.recv(12) == b"HTTP/1.1 202"
    client.close()


def test_silent_and_slow_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that say nothing, or a letter at a time, hinder nobody and are closed."""
    monkeypatch.setattr(httpd._HypercornSettings, "keep_alive_timeout", 1.0)
    with running(tmp_path) as server:
        silent = [server.raw() for _ in range(150)]
        slow = [server.raw() for _ in range(150)]
        for client in slow:
            client.sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
        for _ in range(20):
            assert ask(server.tcp(timeout=5), "GET", "/healthz")[0] == 200
        for client in silent:
            assert client.recv(1) == b""
        for client in slow:
            assert client.recv(1) == b""
        for client in silent + slow:
            client.close()


def test_not_http_at_all(server: Running) -> None:
    """Noise, a huge head, HTTP/2 and websockets get an error and leave nothing behind."""
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    key = "Sec-WebSocket-Key: YWFhYWFhYWFhYWFhYWFhYQ=="
    for noise, answer in [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000, b"HTTP/1.1 431"),
        (server.head("GET", "/healthz", *upgrade, key), b"HTTP/1.1 403"),
    ]:
        client = server.raw()
        client.sendall(noise)
        assert client.recv(12) == answer
        client.close()
    assert ask(server.tcp(), "GET", "/healthz")[0] == 200


def test_http_2_is_refused(server: Running) -> None:
    """A client that speaks HTTP/2 outright is told that this server does not."""
    http2 = h2.connection.H2Connection()
    http2.initiate_connection()
    pseudo = {":method": "GET", ":path": "/healthz", ":scheme": "http", ":authority": "localhost"}
    http2.send_headers(1, list(pseudo.items()), end_stream=True)
    client = server.raw()
    client.sendall(http2.data_to_send())
    answers: list[h2.events.Event] = []
    while not any(isinstance(event, h2.events.ResponseReceived) for event in answers):
        received = client.recv(65536)
        assert received, "closed without an answer"
        answers += http2.receive_data(received)
    client.close()
    (answer,) = [event for event in answers if isinstance(event, h2.events.ResponseReceived)]
    assert answer.headers is not None
    assert dict(answer.headers)[b":status"] == b"505"


def test_keep_alive_serves_many_requests(server: Running) -> None:
    """A poller may keep its connection."""
    connection = server.tcp()
    for _ in range(50):
        assert ask_and_keep(connection, "GET", "/traffic-drained", headers=server.bearer)[0] == 409
    connection.close()


# --- events ---


def next_event(response: http.client.HTTPResponse) -> dict[str, Any]:
    """Read on to the next event of a stream."""
    while not (line := response.readline()).startswith(b"data: "):
        assert line, "the stream has ended"
    event: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
    return event


def test_events_live_and_resumed(server: Running) -> None:
    """An event arrives as it happens; a client that comes again misses none."""
    connection = server.unix()
    connection.request("GET", "/v1/events")
    response = connection.getresponse()
    assert response.headers["Content-Type"] == "text/event-stream"
    eventually(lambda: server.agent.listening == 1)
    server.loop.to(Phase.WITHDRAWING)
    first = next_event(response)
    assert (first["id"], first["kind"]) == (1, "withdrawing")
    connection.close()
    server.loop.to(Phase.SETTLING)
    server.loop.to(Phase.DRAINING)
    again = server.unix()
    again.request("GET", "/v1/events", headers={"Last-Event-ID": str(first["id"])})
    resumed = again.getresponse()
    assert [next_event(resumed)["kind"] for _ in range(2)] == ["settling", "draining"]
    again.close()
    eventually(lambda: server.agent.listening == 0)


def test_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent stream shows that it is alive, and ends by itself in time."""
    monkeypatch.setattr(held_requests, "HEARTBEAT", 0.2)
    monkeypatch.setattr(held_requests, "SLICE", 0.1)
    monkeypatch.setattr(held_requests, "STREAM_FOR", 1.0)
    with running(tmp_path) as server:
        connection = server.unix()
        connection.request("GET", "/v1/events")
        content = connection.getresponse().read()
        assert content.startswith(b"retry: 1000\n\n: still here\n\n")
        connection.close()


def test_reader_that_does_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that nobody takes gives its thread and its place back."""
    monkeypatch.setattr(wsgi_bridge, "_SEND_TIMEOUT", 0.3)
    with running(tmp_path, max_waits=1) as server:
        server.agent.journal.events = [
            TimelineEvent(number, "x" * 10_000, "orders-1", "", 0.0, {})
            for number in range(1, 2001)
        ]
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(server.path))
        client.sendall(server.head("GET", "/v1/events", "Last-Event-ID: 0"))
        assert client.recv(12) == b"HTTP/1.1 200"

        def place_is_free() -> bool:
            connection = server.unix()
            connection.request("GET", "/v1/events")
            status = connection.getresponse().status
            connection.close()
            return status == 200

        eventually(place_is_free)
        client.close()


# --- TLS ---


def openssl(directory: Path, *arguments: str) -> None:
    command = ["openssl", *arguments]
    subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=60)


def make_ca(directory: Path, name: str) -> None:
    usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    files = ["-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}"]
    openssl(directory, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", *usage, *files)  # fmt: skip


def make_certificate(directory: Path, name: str, ca: str) -> None:
    files = ["-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"]
    openssl(directory, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            *files)  # fmt: skip
    extensions = directory / f"{name}.ext"
    extensions.write_text(
        "subjectAltName=IP:127.0.0.1,DNS:localhost\nauthorityKeyIdentifier=keyid\n"
    )
    openssl(directory, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey",
            f"{ca}.key", "-CAcreateserial", "-days", "2", "-extfile", extensions.name,
            "-out", f"{name}.pem")  # fmt: skip


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    for ca in ("ca", "other-ca"):
        make_ca(directory, ca)
    make_certificate(directory, "agent", "ca")
    make_certificate(directory, "deployer", "ca")
    make_certificate(directory, "stranger", "other-ca")
    return directory


def tls_options(certificates: Path) -> ServerTlsOptions:
    return ServerTlsOptions(
        certificate=certificates / "agent.pem",
        key=certificates / "agent.key",
        client_ca=certificates / "ca.pem",
    )


def test_tls_with_client_certificates(tmp_path: Path, certificates: Path) -> None:
    """On every address only with a certificate of our CA, and the token besides."""
    tls = tls_options(certificates)
    listen = ("0.0.0.0:0", f"unix:{tmp_path / 'agent.sock'}")
    with running(tmp_path, listen=listen, tls=tls) as server:

        def status(client: str, headers: dict[str, str]) -> int:
            context = ssl.create_default_context(cafile=certificates / "ca.pem")
            if client:
                context.load_cert_chain(
                    certificates / f"{client}.pem", certificates / f"{client}.key"
                )
            connection = http.client.HTTPSConnection(
                "127.0.0.1", server.port, timeout=20, context=context
            )
            try:
                return ask(connection, "GET", "/v1/instances", headers=headers)[0]
            finally:
                connection.close()

        silent = [server.raw() for _ in range(30)]
        assert status("deployer", server.bearer) == 200
        assert status("deployer", {}) == 401
        for wrong in ("", "stranger"):
            with pytest.raises(OSError, match=r"."):
                status(wrong, server.bearer)
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(server.tcp(), "GET", "/healthz")
        assert ask(server.unix(), "GET", "/v1/instances")[0] == 200
        for client in silent:
            client.close()


def test_certificates_that_cannot_be_used(tmp_path: Path, certificates: Path) -> None:
    """A wrong file, or a key with a passphrase, is told at start, before anything listens."""
    openssl(
        certificates, "ec", "-in", "agent.key", "-aes128", "-passout", "pass:x", "-out", "pw.key"
    )
    tls = tls_options(certificates)
    for change in ({"key": certificates / "deployer.key"}, {"key": certificates / "pw.key"},
                   {"client_ca": tmp_path / "none.pem"}):  # fmt: skip
        with (
            pytest.raises(AgentError, match=r"server\.tls"),
            running(tmp_path, tls=tls.model_copy(update=change)),
        ):
            pass
        assert not (tmp_path / "agent.sock").exists()


# --- where it listens ---


@pytest.mark.parametrize(
    ("listen", "sentence"),
    [
        ("0.0.0.0:8650", "set tls"),
        ("[::]:8650", "set tls"),
        ("10.0.0.7:8650", "set tls"),
        ("example.org:8650", "not a name"),
        ("8650", "give address:port"),
        ("127.0.0.1:", "give address:port"),
        ("127.0.0.1:http", "give address:port"),
        ("127.0.0.1:65536", "give address:port"),
        ("unix:agent.sock", "give the whole path"),
        ("unix:/" + "x" * 107, "longer than"),
    ],
)
def test_listen_that_is_refused(listen: str, sentence: str) -> None:
    """Each row is a place where nobody may listen, or that is none."""
    with pytest.raises(ValidationError, match=sentence):
        ServerOptions(listen=(listen,))


@pytest.mark.parametrize("mode", ["600", "0666", "0604", "660", "0o660"])
def test_socket_mode_that_is_refused(mode: str) -> None:
    """Never for everybody, and never a number that could be read as decimal."""
    with pytest.raises(ValidationError):
        ServerOptions(socket_mode=mode)


def test_listen_on_ipv6(tmp_path: Path) -> None:
    """``[::1]:port`` is served, and Host may be written in the same way."""
    with running(tmp_path, listen=("[::1]:0", "localhost:0")) as server:
        connection = http.client.HTTPConnection("::1", server.port, timeout=20)
        assert ask(connection, "GET", "/v1/instances", headers=server.bearer)[0] == 200
        assert server.server.addresses[1].startswith("127.0.0.1:")
        connection.close()


def test_port_in_use(tmp_path: Path) -> None:
    """The address is named and so is what to do; what was opened before is closed again."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        path = tmp_path / "agent.sock"
        options = ServerOptions(listen=(f"unix:{path}", f"127.0.0.1:{port}"))
        with pytest.raises(AgentError, match=f"127.0.0.1:{port}: Address already in use; .*ss -lt"):
            open_listeners(options)
        assert not path.exists()


def test_unix_socket_in_the_way(tmp_path: Path) -> None:
    """A dead socket is replaced; a live one or another file is refused and left alone."""
    path = tmp_path / "agent.sock"
    options = ServerOptions(listen=(f"unix:{path}",))
    opened = open_listeners(options)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(AgentError, match="another process listens"):
        open_listeners(options)
    with UnixConnectionOpen(path):
        pass
    for sock in opened:
        sock.close()  # as a crash would: the file stays
    assert path.exists()
    close_listeners(open_listeners(options))
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(AgentError, match="is no socket"):
        open_listeners(options)
    assert path.read_text() == "precious"


class UnixConnectionOpen(socket.socket):
    """A plain connection, to see that somebody listens."""

    def __init__(self, path: Path) -> None:
        super().__init__(socket.AF_UNIX)
        self.connect(str(path))


def test_socket_file_of_another_is_left_alone(tmp_path: Path) -> None:
    """What has taken the place of our file is not removed at stop."""
    path = tmp_path / "agent.sock"
    opened = open_listeners(ServerOptions(listen=(f"unix:{path}",)))
    path.unlink()
    path.write_text("somebody else's")
    close_listeners(opened)
    assert path.read_text() == "somebody else's"


def test_socket_group_and_directory_that_are_not_there(tmp_path: Path) -> None:
    """The path is named, and nothing stays behind."""
    path = tmp_path / "agent.sock"
    for options in (
        ServerOptions(listen=(f"unix:{path}",), socket_group="no-such-group"),
        ServerOptions(listen=(f"unix:{tmp_path}/none/agent.sock",)),
    ):
        with pytest.raises(AgentError, match="cannot listen on unix:"):
            open_listeners(options)
    assert not path.exists()


# --- signals ---

PROGRAM = """
import logging, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.agent_by_hand import FakeAgent
from deregister_agent.model import Phase
from deregister_agent.api.serve import serve
from deregister_agent.config.server_options import ServerOptions
logging.basicConfig(level="INFO")
agent = FakeAgent("orders-1")
agent.instances["orders-1"].to(Phase.DRAINING)
if sys.argv[3] == "stuck":
    agent.instances["orders-1"].close = lambda: None
serve(agent, ServerOptions(listen=("127.0.0.1:0", f"unix:{sys.argv[2]}"),
    token_file=Path(sys.argv[2]).with_name("token"), stop_within=float(sys.argv[4])))
assert agent.started and agent.stopped
"""


class Daemon:
    """The server in a process of its own, under a service manager."""

    def __init__(self, directory: Path, kind: str = "", stop_within: float = 5) -> None:
        self.path = directory / "agent.sock"
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(f"\0{directory}")
        self.manager.settimeout(30)
        environment = {**os.environ, "NOTIFY_SOCKET": f"@{directory}", "WATCHDOG_USEC": "200000"}
        command = [sys.executable, "-c", PROGRAM, str(TESTS), str(self.path), kind]
        self.process = subprocess.Popen(
            [*command, str(stop_within)], env=environment, stderr=subprocess.PIPE, text=True
        )

    def told(self, message: str) -> None:
        """Wait until the service manager has been told *message*."""
        while self.manager.recv(100).decode() != message:
            pass

    def waiting(self) -> str:
        return str(ask(UnixConnection(self.path), "GET", "/metrics")[1]).partition("\n")[0]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)
        self.manager.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    started: list[Daemon] = []

    def start(*arguments: Any) -> Daemon:
        started.append(Daemon(tmp_path, *arguments))
        started[-1].told("READY=1")
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_with_waiters(daemon: Callable[..., Daemon], number: signal.Signals) -> None:
    """Who waits is answered "not yet", systemd is told, the socket file goes, and the exit is 0."""
    one = daemon()
    one.told("WATCHDOG=1")
    held = [UnixConnection(one.path) for _ in range(20)]
    for connection in held:
        connection.request("GET", "/traffic-drained?wait=300")
    stream = UnixConnection(one.path)
    stream.request("GET", "/v1/events")
    events = stream.getresponse()
    eventually(lambda: one.waiting() == "waiting 20")
    one.process.send_signal(number)
    assert {connection.getresponse().status for connection in held} == {503}
    assert events.read() == b"retry: 1000\n\n"
    for connection in [*held, stream]:
        connection.close()
    one.told("STOPPING=1")
    _, log = one.process.communicate(timeout=30)
    assert one.process.returncode == 0, log
    assert "Traceback" not in log
    assert "ERROR" not in log
    assert not one.path.exists()


def test_second_signal_ends_at_once(daemon: Callable[..., Daemon]) -> None:
    """Who is in a hurry does not wait for requests in hand."""
    one = daemon("stuck", 60)
    connection = UnixConnection(one.path)
    connection.request("GET", "/traffic-drained?wait=300")
    eventually(lambda: one.waiting() == "waiting 1")
    one.process.send_signal(signal.SIGTERM)
    one.told("STOPPING=1")
    one.process.send_signal(signal.SIGTERM)
    assert one.process.wait(timeout=30) == 128 + signal.SIGTERM
    assert not one.path.exists()
    connection.close()
