"""The probes against real servers: what they make of every kind of answer and connection."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydantic import ValidationError

from deregister_agent.errors import ConfigError, ProbeError
from deregister_agent.host import pids
from deregister_agent.host.connection_activity import is_in_hand
from deregister_agent.host.sockets import Socket, State, connections, listeners
from deregister_agent.model import Instance, Reading
from deregister_agent.probes import http_json, tcp
from deregister_agent.probes.counting import StartedCounter
from deregister_agent.probes.http_json import HttpJsonProbe
from deregister_agent.probes.tcp import TcpProbe


def wait_for(condition: Callable[[], object], what: str, limit: float = 20.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.01)


def answer(body: bytes, kind: str = "application/json", status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class RawServer:
    """Says the same bytes to everybody, and keeps what it was asked."""

    def __init__(self, stack: ExitStack) -> None:
        self.said = b""
        self.slowly = False
        self.asked: list[str] = []
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.port: int = self.listener.getsockname()[1]
        self._ended = threading.Event()
        thread = threading.Thread(target=self._serve)
        thread.start()
        stack.callback(thread.join)
        stack.callback(self._end)

    def _end(self) -> None:
        self._ended.set()
        socket.create_connection(("127.0.0.1", self.port)).close()

    def _serve(self) -> None:
        while not self._ended.is_set():
            one, _ = self.listener.accept()
            with one:
                one.settimeout(10)
                request = b""
                while b"\r\n\r\n" not in request and (piece := one.recv(65536)):
                    request += piece
                if request:
                    self.asked.append(request.decode())
                    self._say(one)

    def _say(self, one: socket.socket) -> None:
        step = 1 if self.slowly else max(1, len(self.said))
        try:
            for at in range(0, len(self.said), step):
                one.sendall(self.said[at : at + step])
                if self.slowly and self._ended.wait(0.02):
                    return
        except OSError:
            return  # the probe has given up


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def server(stack: ExitStack) -> RawServer:
    return RawServer(stack)


def orders(port: int) -> Instance:
    return Instance("orders-1", "orders", "127.0.0.1", port)


def probe(port: int, **more: object) -> HttpJsonProbe:
    table: dict[str, object] = {
        "kind": "http_json",
        "url": f"http://127.0.0.1:{port}/status?full=1",
        "in_flight": {"requests": "/n"},
        "timeout": 2.0,
    }
    options = http_json.Options.model_validate_json(json.dumps(table | more))
    return http_json.build(options, orders(port))


LONG = b'{"n": 0, "pad": "' + b"x" * 300_000 + b'"}'
FAIL_CLOSED = {
    "not found": (answer(b'{"n": 0}', status="404 Not Found"), "status 404, not 200"),
    "no content": (answer(b"", status="204 No Content"), "status 204, not 200"),
    "moved": (answer(b'{"n": 0}', status="302 Found"), "status 302, not 200"),
    "failing": (answer(b'{"n": 0}', status="503 Service Unavailable"), "status 503"),
    "cached": (answer(b'{"n": 0}', "application/json\r\nAge: 1"), "out of a cache, and is 1 s old"),
    "html": (answer(b"<html>0</html>", "text/html"), "not JSON but text/html: '<html>0"),
    "html as json": (answer(b"<html>0</html>"), "no valid JSON"),
    "wrong type": (answer(b'{"n": 0}', "text/plain"), "not JSON but text/plain"),
    "no type": (b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n" + b'{"n": 0}', "of no type"),
    "empty": (answer(b""), "no valid JSON"),
    "truncated": (answer(b'{"n": 0}' + b" " * 99)[:-99], "breaks off"),
    "truncated json": (answer(b'{"n": 0'), "no valid JSON"),
    "no answer": (b"", "closed the connection"),
    "not http": (b"220 mail.example ESMTP\r\n", "."),
    "huge": (answer(LONG), "larger than 262144 bytes"),
    "nested": (answer(b"[" * 100_000), "no valid JSON"),
    "digits": (answer(b'{"n": ' + b"9" * 5000 + b"}"), "no valid JSON"),
    "nan": (answer(b'{"n": NaN}'), "NaN is no JSON"),
    "infinity": (answer(b'{"n": Infinity}'), "Infinity is no JSON"),
    "overflow": (answer(b'{"n": 1e999}'), "at /n there is Infinity, not a whole number"),
    "nan elsewhere": (answer(b'{"n": 0, "m": NaN}'), "NaN is no JSON"),
    "twice": (answer(b'{"n": 5, "n": 0}'), "a key stands twice"),
    "negative": (answer(b'{"n": -1}'), "the number at /n is -1, not a whole number of at least 0"),
    "missing": (answer(b'{"m": 0}'), "has nothing at /n"),
    "list": (answer(b"[0]"), "has nothing at /n"),
    "null": (answer(b'{"n": null}'), "at /n there is null, not a whole number"),
    "text": (answer(b'{"n": "0"}'), 'at /n there is "0", not a whole number'),
    "boolean": (answer(b'{"n": false}'), "at /n there is false, not a whole number"),
    "fraction": (answer(b'{"n": 0.5}'), "at /n there is 0.5, not a whole number"),
    "float": (answer(b'{"n": 0.0}'), "at /n there is 0.0, not a whole number"),
    "object": (answer(b'{"n": {}}'), "at /n there is {}, not a whole number"),
    "latin-1": (answer(b'{"n": 0, "\xe9": 1}'), "no valid JSON"),
}


class TestHttpJson:
    @pytest.mark.parametrize("case", FAIL_CLOSED)
    def test_fails_closed(self, server: RawServer, case: str) -> None:
        """Whatever is not a plain count is not known; the error says what was there instead."""
        server.said, why = FAIL_CLOSED[case]
        with pytest.raises(ProbeError, match=r"^http_json: cannot ") as caught:
            probe(server.port).read(0.0)
        assert why in str(caught.value)
        assert len(str(caught.value)) < 500

    def test_slow(self, server: RawServer) -> None:
        """An answer that trickles in is given up when the whole time is over."""
        server.said, server.slowly = answer(b'{"n": 0}' + b" " * 2000), True
        with pytest.raises(ProbeError, match=r"no answer within 0.3 s"):
            probe(server.port, timeout=0.3).read(0.0)

    def test_unreachable(self) -> None:
        """A refused connection is not idle."""
        with socket.create_server(("127.0.0.1", 0)) as gone:
            port = gone.getsockname()[1]
        with pytest.raises(ProbeError, match=r"refused"):
            probe(port).read(0.0)

    @pytest.mark.parametrize(
        ("pointers", "document", "count"),
        [
            ("/n", {"n": 3}, 3),
            ("", 3, 3),
            ("/a/b/0", {"a": {"b": [3, 9]}}, 3),
            (["/a", "/b"], {"a": 1, "b": 2}, 3),
            ("/a~1b", {"a/b": 3}, 3),
            ("/m~0n", {"m~n": 3}, 3),
            ("/~01", {"~1": 3}, 3),
            ("/", {"": 3}, 3),
            ("/0", {"0": 3}, 3),
            ("/a b/%25", {"a b": {"%25": 3}}, 3),
        ],
    )
    def test_pointers(
        self, server: RawServer, pointers: object, document: object, count: int
    ) -> None:
        """JSON pointers are followed as RFC 6901 says; several are added."""
        server.said = answer(json.dumps(document).encode(), "application/vnd.app+json")
        reading = probe(server.port, in_flight={"tasks": pointers}).read(0.0)
        assert reading == Reading({"tasks": count})

    @pytest.mark.parametrize(
        "pointer",
        ["/1", "/-", "/-/0", "/00", "/-1", "/+0", "/²", "/\u0660", "/0/0", "/" + "9" * 5000],
    )
    def test_pointers_to_nothing(self, server: RawServer, pointer: str) -> None:
        """A pointer past the end of a list, or no index at all, leads to nothing."""
        server.said = answer(b"[0]")
        with pytest.raises(ProbeError, match=r"has nothing at"):
            probe(server.port, in_flight={"tasks": pointer}).read(0.0)

    @pytest.mark.parametrize("pointer", ["/0", "/text/0", "/number/0", "/text/-", "/nothing/a"])
    def test_pointers_into_what_has_no_parts(self, server: RawServer, pointer: str) -> None:
        """A text has no entries, and an object has no indexes."""
        server.said = answer(b'{"text": "7", "number": 7, "nothing": null}')
        with pytest.raises(ProbeError, match=r"has nothing at"):
            probe(server.port, in_flight={"tasks": pointer}).read(0.0)

    def test_one_bad_count_spoils_the_reading(self, server: RawServer) -> None:
        """Of several counts all must be known."""
        server.said = answer(b'{"a": 0, "b": null}')
        with pytest.raises(ProbeError, match=r"at /b there is null"):
            probe(server.port, in_flight={"tasks": ["/a", "/b"]}).read(0.0)
        with pytest.raises(ProbeError, match=r"at /b there is null"):
            probe(server.port, in_flight={"requests": "/a", "tasks": "/b"}).read(0.0)

    def test_baseline(self, server: RawServer) -> None:
        """The probe's own request is subtracted; a count below it shows that it is wrong."""
        asked = probe(server.port, baseline={"requests": 1})
        told = []
        for count in (1, 3):
            server.said = answer(json.dumps({"n": count}).encode())
            told.append(asked.read(0.0).in_flight["requests"])
        assert told == [0, 2]
        server.said = answer(b'{"n": 0}')
        with pytest.raises(ProbeError, match=r"less than the baseline of 1"):
            asked.read(0.0)

    def test_mark(self, server: RawServer) -> None:
        """What the app says it is goes with the reading; without it nothing is known."""
        asked = probe(server.port, mark="/id")
        told = []
        for mark in ("a", 17, 1700000000.25):
            server.said = answer(json.dumps({"n": 0, "id": mark}).encode())
            told.append(asked.read(0.0).mark)
        assert told == ["a", "17", "1700000000.25"]
        nothing: object
        for nothing in ("", None, True, []):
            server.said = answer(json.dumps({"n": 0, "id": nothing}).encode())
            with pytest.raises(ProbeError, match=r"at /id there is .*, which is no mark"):
                asked.read(0.0)
        server.said = answer(b'{"n": 0}')
        with pytest.raises(ProbeError, match=r"has nothing at /id"):
            asked.read(0.0)

    def test_the_long_poll(self, server: RawServer) -> None:
        """The wait goes to the app as a parameter, beside the URL's own, if there is one."""
        server.said = answer(b'{"n": 0}')
        asked = probe(server.port, wait_parameter="wait for")
        asked.read(0.0)
        asked.read(2.5)
        probe(server.port).read(2.5)
        paths = [request.split(" ")[1] for request in server.asked]
        assert paths == ["/status?full=1", "/status?full=1&wait%20for=2.5", "/status?full=1"]

    def test_the_long_poll_has_more_time(self, server: RawServer) -> None:
        """The limit of a held read is the timeout and the wait together."""
        server.said, server.slowly = answer(b'{"n": 0}' + b" " * 2000), True
        with pytest.raises(ProbeError, match=r"no answer within 0.5 s"):
            probe(server.port, timeout=0.2, wait_parameter="wait").read(0.3)

    def test_token(self, server: RawServer, tmp_path: Path) -> None:
        """The token is read at each call and sent; when it cannot be read, nothing is known."""
        server.said = answer(b'{"n": 0}')
        file = tmp_path / "token"
        asked = probe(server.port, token={"file": str(file)})
        with pytest.raises(ProbeError, match=r"cannot read the secret"):
            asked.read(0.0)
        for secret in ("one", "two"):
            file.write_text(f"{secret}\n")
            asked.read(0.0)
        sent = [line for r in server.asked for line in r.splitlines() if "uthorization" in line]
        assert sent == ["Authorization: Bearer one", "Authorization: Bearer two"]

    @pytest.mark.parametrize(
        ("table", "why"),
        [
            ({"url": "ftp://127.0.0.1/"}, "url: "),
            ({"baseline": {"tasks": 1}}, "baseline.tasks: there is no such kind"),
            ({"own_starts": 1}, "own_starts: says nothing without started"),
        ],
    )
    def test_contradictions(self, table: dict[str, object], why: str) -> None:
        """What cannot work is refused before anything is asked."""
        with pytest.raises(ConfigError, match=why):
            probe(1, **table)

    @pytest.mark.parametrize(
        "table",
        [
            {"url": "http://me:secret@127.0.0.1/"},
            {"in_flight": {}},
            {"in_flight": {"requests": []}},
            {"in_flight": {"requests": "n"}},
            {"in_flight": {"requests": "/~2"}},
            {"in_flight": {"No Kind": "/n"}},
            {"baseline": {"requests": -1}},
            {"timeout": 0},
            {"token": {}},
        ],
    )
    def test_mistakes(self, table: dict[str, object]) -> None:
        """What is no option is refused, and a secret in the URL is."""
        with pytest.raises(ValidationError):
            probe(1, **table)


class TestStarts:
    def test_own_reads_are_left_out(self) -> None:
        """Only what others have started moves the counter."""
        counter = StartedCounter(2)
        assert [counter.count(value) for value in (10, 12, 15, 17)] == [10, 10, 11, 11]

    def test_a_restart_never_repeats(self) -> None:
        """After a restart of the app the counter goes on: it cannot look as if nothing was."""
        counter = StartedCounter(0)
        told = [counter.count(value) for value in (10, 0, 0, 5, 4)]
        assert told == [10, 11, 11, 16, 21]

    def test_a_failed_read_counts_as_work(self) -> None:
        """A read whose answer was lost may have been counted: it only costs time."""
        counter = StartedCounter(1)
        assert [counter.count(value) for value in (10, 12)] == [10, 11]

    def test_too_many_own_starts_are_noticed(self, server: RawServer) -> None:
        """An app that does not count the reads would have real work hidden: an error."""
        server.said = answer(b'{"n": 0, "s": 7}')
        asked = probe(server.port, started="/s", own_starts=1)
        asked.read(0.0)
        with pytest.raises(ProbeError, match=r"rose by 0 .* each read adds 1"):
            asked.read(0.0)


CLIENT = """
import socket, sys
held = [socket.create_connection((sys.argv[1], int(sys.argv[2])))]
print(flush=True)
sys.stdin.readline()
"""


def client(stack: ExitStack, port: int, address: str = "127.0.0.1") -> subprocess.Popen[bytes]:
    """Return another process that has one connection to *port*."""
    command = [sys.executable, "-I", "-S", "-c", CLIENT, address, str(port)]
    child = stack.enter_context(
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    )
    stack.callback(child.kill)
    assert child.stdout
    child.stdout.readline()
    return child


def counting(of: int, **more: object) -> TcpProbe:
    options = tcp.Options.model_validate_json(json.dumps({"kind": "tcp", **more}))
    return tcp.build(options, orders(of))


def listening(stack: ExitStack, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    address = "127.0.0.1" if family == socket.AF_INET else "::"
    dual = family == socket.AF_INET6
    return stack.enter_context(
        socket.create_server((address, 0), family=family, dualstack_ipv6=dual)
    )


class TestTcp:
    def test_before_it_is_accepted(self, stack: ExitStack) -> None:
        """A connection counts from the accept queue on."""
        app = listening(stack)
        client(stack, app.getsockname()[1])
        assert counting(app.getsockname()[1]).read(0.0) == Reading({"connections": 1})

    def test_half_closed_by_its_peer(self, stack: ExitStack) -> None:
        """A peer that has sent its all may still wait for the answer."""
        app = listening(stack)
        port = app.getsockname()[1]
        child = client(stack, port)
        held, _ = app.accept()
        child.kill()
        wait_for(lambda: connections(port)[0].state is State.CLOSE_WAIT, "CLOSE_WAIT")
        asked = counting(port)
        assert asked.read(0.0) == Reading({"connections": 1})
        held.close()
        wait_for(lambda: asked.read(0.0).idle, "the connection to end")

    def test_an_answer_on_its_way(self, stack: ExitStack) -> None:
        """A closed connection counts until the peer has taken the answer."""
        app = listening(stack)
        port = app.getsockname()[1]
        child = client(stack, port)
        held, _ = app.accept()
        held.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while held.send(b"x" * 65536):
                continue
        held.close()
        asked = counting(port)
        assert asked.read(0.0) == Reading({"connections": 1})
        child.kill()
        wait_for(lambda: asked.read(0.0).idle, "the connection to end")

    def test_both_families(self, stack: ExitStack) -> None:
        """IPv4 and IPv6 connections count alike."""
        if not socket.has_dualstack_ipv6():
            pytest.skip("no dual stack here")
        app = listening(stack, socket.AF_INET6)
        port = app.getsockname()[1]
        client(stack, port)
        client(stack, port, "::1")
        assert counting(port).read(0.0) == Reading({"connections": 2})
        assert counting(port, ignore=["::1/128"]).read(0.0) == Reading({"connections": 1})
        assert counting(port, ignore=["127.0.0.0/8"]).read(0.0) == Reading({"connections": 1})
        both = counting(port, ignore=["::/0", "127.0.0.1/32"])
        assert both.read(0.0) == Reading({"connections": 0})

    def test_the_agents_own_connection(self, stack: ExitStack) -> None:
        """What this very process holds open to the app does not count; what others hold does."""
        app = listening(stack)
        port = app.getsockname()[1]
        stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        asked = counting(port)
        assert asked.read(0.0) == Reading({"connections": 0})
        client(stack, port)
        assert asked.read(0.0) == Reading({"connections": 1})

    def test_the_agents_own_connection_to_a_dual_stack_app(self, stack: ExitStack) -> None:
        """It is known too where the app's end is an IPv6 socket with an IPv4 peer."""
        if not socket.has_dualstack_ipv6():
            pytest.skip("no dual stack here")
        app = listening(stack, socket.AF_INET6)
        port = app.getsockname()[1]
        stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert counting(port).read(0.0) == Reading({"connections": 0})

    def test_a_port_never_seen_is_unknown(self) -> None:
        """No listener and no connection: the app may be in another network namespace."""
        with socket.create_server(("127.0.0.1", 0)) as gone:
            port = gone.getsockname()[1]
        asked = counting(port)
        for _ in range(2):
            with pytest.raises(ProbeError, match=r"another network namespace"):
                asked.read(0.0)

    def test_a_port_that_was_closed_is_idle(self) -> None:
        """Once it was seen listening, a closed port without connections is idle."""
        with socket.create_server(("127.0.0.1", 0)) as app:
            asked = counting(app.getsockname()[1])
            assert asked.read(0.0).idle
        assert asked.read(0.0) == Reading({"connections": 0})

    def test_connections_without_a_listener_count(self, stack: ExitStack) -> None:
        """An app that has closed its listener is busy while it has connections."""
        app = listening(stack)
        port = app.getsockname()[1]
        child = client(stack, port)
        held, _ = app.accept()
        stack.enter_context(held)
        app.close()
        assert counting(port).read(0.0) == Reading({"connections": 1})
        child.kill()

    def test_the_name_of_a_process(self) -> None:
        """The kernel's name of a program is read; of no process it is empty."""
        assert pids.name(os.getpid())
        assert pids.name(2**22) == ""

    def test_another_port(self, stack: ExitStack) -> None:
        """``port`` counts another port than the instance's."""
        app, other = listening(stack), listening(stack)
        client(stack, other.getsockname()[1])
        asked = counting(app.getsockname()[1], port=other.getsockname()[1])
        assert asked.read(0.0) == Reading({"connections": 1})
        assert len(listeners(app.getsockname()[1])) == 1

    @pytest.mark.parametrize("network", ["10.0.0.1/8", "nonsense", 5])
    def test_no_network(self, network: object) -> None:
        """What is no network is refused, also one with host bits set."""
        with pytest.raises(ValidationError):
            counting(1, ignore=[network])


@pytest.mark.parametrize(
    ("state", "inode", "queue", "counts"),
    [
        (State.ESTABLISHED, 0, 0, True),
        (State.SYN_RECV, 0, 0, True),
        (State.CLOSE_WAIT, 0, 0, True),
        (State.FIN_WAIT1, 0, 1, False),
        (State.FIN_WAIT1, 0, 2, True),
        (State.FIN_WAIT1, 7, 1, True),
        (State.FIN_WAIT2, 0, 0, False),
        (State.FIN_WAIT2, 7, 0, True),
        (State.LAST_ACK, 0, 1, False),
        (State.LAST_ACK, 0, 9, True),
        (State.CLOSING, 0, 1, False),
    ],
)
def test_in_hand(state: State, inode: int, queue: int, counts: bool) -> None:
    """A connection counts while the app holds it, or bytes of the answer are on their way."""
    assert is_in_hand(Socket(state, "127.0.0.1", 1, "127.0.0.1", 2, 0, queue, inode)) is counts
