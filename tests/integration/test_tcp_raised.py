"""The raised tcp probe: what it counts, what it leaves out, and what it refuses to guess."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydantic import ValidationError

from deregister_agent.demo.stage import running_agent
from deregister_agent.errors import ProbeError
from deregister_agent.host import sockets
from deregister_agent.host.sockets import State, connections
from deregister_agent.model import Instance
from deregister_agent.probes import tcp
from deregister_agent.probes.tcp import Options, TcpProbe
from tests.contract.probes.tcp import Client, Forbidden, Server, forbid
from tests.integration.tcp_stage import wait_for

STILL = 5.0


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


class World:
    """A port that another process connects to, and a probe of it with its own clock."""

    def __init__(self, stack: ExitStack, **options: object) -> None:
        self.server, self.client, self.time = Server(stack), Client(stack), 100.0
        table = {"kind": "tcp", "still": STILL} | options
        self.probe = TcpProbe(
            Options.model_validate_json(json.dumps(table)),
            Instance("web", "web", "127.0.0.1", self.server.port),
            now=lambda: self.time,
        )

    def told(self) -> tuple[int, int]:
        """Return how many connections are busy, and how many are unknown."""
        in_flight = self.probe.read(0.0).in_flight
        assert list(in_flight) == ["busy_connections", "unknown_connections"]
        return in_flight["busy_connections"], in_flight["unknown_connections"]

    def hold(self, count: int) -> None:
        """Let the other process hold so many, and the app accept them all."""
        self.client.hold(self.server.port, count)
        self.server.accept(count)


@pytest.mark.parametrize("still", [0, -1.0, float("nan"), float("inf"), "5"])
def test_no_time(still: object) -> None:
    """``still`` is a number of seconds above 0."""
    with pytest.raises(ValidationError):
        Options.model_validate({"kind": "tcp", "still": still})


def test_kinds(stack: ExitStack) -> None:
    """Connections are told as busy and as unknown, and idle ones are not told."""
    world = World(stack)
    assert world.told() == (0, 0)
    world.client.hold(world.server.port, 3)
    assert world.told() == (3, 0)  # not accepted yet
    world.server.accept(2)
    assert world.told() == (1, 2)
    world.server.accept(3)
    assert world.told() == (0, 3)
    world.time += STILL
    assert world.told() == (0, 0)
    world.hold(4)
    assert world.told() == (0, 1)


def test_bytes_on_an_idle_connection(stack: ExitStack) -> None:
    """One that was idle counts again as soon as a byte has moved on it."""
    world = World(stack)
    world.hold(1)
    world.told()
    world.time += STILL
    assert world.told() == (0, 0)
    world.server.held[0].sendall(b"a push")
    wait_for(lambda: world.told() == (0, 1), "it is acknowledged")
    world.time += STILL
    assert world.told() == (0, 0)


@pytest.mark.parametrize("still", [None, STILL])
def test_closed_by_the_app(stack: ExitStack, still: float | None) -> None:
    """What the app has closed and answered in full is no work, though its peer keeps it open."""
    world = World(stack, still=still)
    world.hold(1)
    world.server.drop()
    wait_for(lambda: connections(world.server.port)[0].state is State.FIN_WAIT2, "FIN_WAIT2")
    assert world.probe.read(0.0).idle


def test_a_port_never_seen(stack: ExitStack) -> None:
    """With ``still`` too, a port that nobody listens on is not known to be idle."""
    world = World(stack)
    world.server.listener.close()
    with pytest.raises(ProbeError, match=r"another network namespace"):
        world.told()


def test_nothing_readable(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that cannot be read is an error; what was known before is not forgotten."""
    world = World(stack)
    world.hold(1)
    assert world.told() == (0, 1)
    with monkeypatch.context() as patch:
        forbid(patch)
        world.time += STILL
        with pytest.raises(ProbeError, match=r"^tcp: cannot count .* allow AF_NETLINK"):
            world.told()
    assert world.told() == (0, 0)


def test_without_counts(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the files in /proc are to be read, no connection is idle: it is an error."""
    monkeypatch.setattr(sockets, "sock_diag", Forbidden())
    world = World(stack)
    assert world.told() == (0, 0)
    world.hold(1)
    with pytest.raises(ProbeError, match=r"does not tell here how many bytes .* or remove still"):
        world.told()
    world.hold(0)
    wait_for(lambda: not connections(world.server.port), "the end of the connection")
    assert world.told() == (0, 0)


def test_the_agents_own(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own connections never count; whose one is gets looked up when it is met, and only then."""
    world = World(stack)
    own = stack.enter_context(socket.create_connection(("127.0.0.1", world.server.port)))
    stack.enter_context(world.server.listener.accept()[0])
    own.sendall(b"a read of another probe")
    assert world.told() == (0, 0)
    world.client.hold(world.server.port, 1)
    assert world.told() == (1, 0)
    with monkeypatch.context() as patch:
        patch.setattr(tcp, "table", None)
        assert world.told() == (1, 0)
    another = stack.enter_context(socket.create_connection(("127.0.0.1", world.server.port)))
    another.sendall(b"a read of another probe")
    assert world.told() == (1, 0)


def test_the_agents_own_where_sockets_have_no_name(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files in /proc tell no cookie: then no connection is taken for another one."""
    monkeypatch.setattr(sockets, "sock_diag", Forbidden())
    world = World(stack, still=None)
    stack.enter_context(socket.create_connection(("127.0.0.1", world.server.port)))
    assert world.probe.read(0.0).in_flight == {"connections": 0}
    world.client.hold(world.server.port, 1)
    assert world.probe.read(0.0).in_flight == {"connections": 1}


def test_ignored_peers(stack: ExitStack) -> None:
    """What a health checker does on its connections is no work."""
    world = World(stack, ignore=["127.0.0.0/8"])
    world.client.hold(world.server.port, 2)
    assert world.told() == (0, 0)


CONFIG = """
[agent]
journal = "{folder}/journal.db"
[server]
listen = ["unix:{folder}/agent.sock"]
[[instance]]
name = "web"
service = "web"
port = {port}
quiet = 0.1
min_others = 0
[[instance.registry]]
kind = "file"
path = "{folder}/targets.json"
[[instance.probe]]
kind = "tcp"
still = 1.0
"""


def test_a_drain(stack: ExitStack, tmp_path: Path) -> None:
    """Kept connections do not hold up a drain for ever; a request on one of them does."""
    app = Server(stack)
    clients = [
        stack.enter_context(socket.create_connection(("127.0.0.1", app.port))) for _ in range(2)
    ]
    app.accept(2)
    clients[0].sendall(b"request")
    app.held[0].sendall(app.held[0].recv(64))
    clients[1].sendall(b"request")
    app.held[1].recv(64)
    targets = json.dumps([{"targets": [f"127.0.0.1:{app.port}"]}])
    (tmp_path / "targets.json").write_text(targets)
    config = CONFIG.format(folder=tmp_path, port=app.port)
    agent = stack.enter_context(running_agent(tmp_path, config))
    agent.post("/stop-traffic", {})
    blocks = ["1 busy_connections in flight (tcp)"]
    wait_for(lambda: agent.get("/traffic-drained").body["blocking"] == blocks, str(blocks))
    assert agent.get("/traffic-drained", wait=2).status == 503
    app.held[1].sendall(b"answer")
    assert agent.get("/traffic-drained", wait=60).status == 200
    assert len(connections(app.port)) == 2
