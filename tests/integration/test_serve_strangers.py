"""Strangers without a right: their bodies are not kept."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
import requests

from deregister_agent.demo.stage import free_ports
from deregister_agent.host.sockets import connections
from tests.integration.presence_stage import Host, listed_host
from tests.loops import eventually

STRANGERS = 200
BODY = 1024 * 1024  # the server itself holds up to half as much of each for a moment
HEAD = (
    "POST /stop-traffic HTTP/1.1\r\nHost: localhost\r\n{more}"
    f"Content-Type: application/json\r\nContent-Length: {BODY}\r\n\r\n"
)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Give a host with one instance, whose agent listens on a port too."""
    with listed_host(tmp_path) as made:
        yield made


def listen_on(host: Host) -> int:
    """Let the agent listen on a port of TCP as well; return it."""
    (port,) = free_ports(1)
    path = host.root / "agent.toml"
    more = f'agent.sock", "127.0.0.1:{port}"]'
    path.write_text(path.read_text().replace('agent.sock"]', more))
    return port


def memory(host: Host) -> int:
    """Return the bytes that the agent has in memory."""
    assert host.child is not None
    status = Path(f"/proc/{host.child.process.pid}/status").read_text()
    (line,) = [one for one in status.splitlines() if one.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


@contextmanager
def sending(port: int, many: int, more: str = "") -> Iterator[list[socket.socket]]:
    """Let *many* clients send all of a large body but its last byte, and hold the connection."""
    with ExitStack() as stack:
        clients = []
        for _ in range(many):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), 30))
            client.sendall(HEAD.format(more=more).encode())
            clients.append(client)
        for client in clients:
            client.sendall(b" " * (BODY - 1))
        taken = partial(has_taken_all, port)
        eventually(taken, "that the agent has read what was sent")
        yield clients


def has_taken_all(port: int) -> bool:
    """Tell whether nothing that was sent to a port waits in the kernel any more."""
    return not any(one.receive_queue for one in connections(port))


def test_bodies_of_strangers_are_not_kept(host: Host) -> None:
    """Nor is their answer lost: they hear why, once the body is there."""
    port = listen_on(host)
    with host.agent():
        before = memory(host)
        with sending(port, STRANGERS) as clients:
            grown = memory(host) - before
            assert host.get("orders-1").status == 200
            for client in clients:
                client.sendall(b" ")
            answers = {client.recv(12) for client in clients}
        assert answers <= {b"HTTP/1.1 401", b""}
        assert b"HTTP/1.1 401" in answers
        assert grown < STRANGERS * BODY


def test_of_a_body_with_a_token_no_more_is_kept_than_may_be(host: Host) -> None:
    """64 KiB are all that the API takes."""
    port = listen_on(host)
    with host.agent():
        token = (host.root / "token").read_text().strip()
        before = memory(host)
        with sending(port, STRANGERS, f"Authorization: Bearer {token}\r\n"):
            assert memory(host) - before < STRANGERS * BODY
            assert host.get("orders-1").status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_a_refusal_is_an_answer_as_any_other(host: Host, method: str) -> None:
    """As the document has it, of whichever path, kept by nobody, and the log stays quiet."""
    port = listen_on(host)
    with host.agent():
        for path in ("/v1/instances", "/v1/instances/orders-1/doctor", "/there/is/nothing"):
            answer = requests.request(method, f"http://127.0.0.1:{port}{path}", timeout=30)
            assert answer.status_code == 401
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert not any(name.startswith("Access-Control") for name in answer.headers)
            assert method == "HEAD" or answer.json()["instance"] == path
    assert "Traceback" not in host.log()
