"""What is asked on the host itself: a gRPC server, a program, the kernel."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc as library
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc

from deregister_agent.host.sockets import connections
from tests.apps.running_grpc import GrpcApp
from tests.contract.probes.tcp import Client, Server
from tests.held_work import Counts, Stand
from tests.servers.child import wait_until

HELD = 3
STILL = 1.0


@contextmanager
def grpc(folder: Path) -> Iterator[Stand]:
    """Hold unary calls and a stream open, by clients in the server's own process."""
    with GrpcApp(folder) as app, library.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        ask = channelz_pb2_grpc.ChannelzStub(channel)

        def counts() -> Counts:
            servers = ask.GetServers(channelz_pb2.GetServersRequest(), timeout=20).server
            told = [s.data.calls_started - s.data.calls_succeeded - s.data.calls_failed
                    for s in servers]  # fmt: skip
            return {"calls": sum(told) - 1}  # its own question is a call

        def end() -> float:
            began = time.monotonic()
            app.tell("busy 0")
            return began

        table = {"kind": "grpc", "timeout": 10.0}
        begin = lambda: app.tell(f"busy {HELD}")  # noqa: E731 - one line of the stand
        yield Stand(table, app.port, {"calls": HELD}, begin, end, counts)


@contextmanager
def command(folder: Path) -> Iterator[Stand]:
    """Set up a program that prints what stands in a file."""
    file = folder / "in-hand"
    program = "import sys; print(open(sys.argv[1]).read())"
    argv = [sys.executable, "-I", "-S", "-c", program, str(file)]

    def write(count: int) -> float:
        (folder / "new").write_text(str(count))
        (folder / "new").rename(file)
        return time.monotonic()

    write(0)
    yield Stand(
        {"kind": "command", "command": argv, "timeout": 10.0},
        80,
        {"tasks": HELD},
        lambda: write(HELD),
        lambda: write(0),
        lambda: {"tasks": json.loads(file.read_text())},
    )


@contextmanager
def tcp(folder: Path) -> Iterator[Stand]:
    """Hold connections from another process, which are closed at the end."""
    del folder
    with ExitStack() as stack:
        server, client = Server(stack), Client(stack)

        def counts() -> Counts:
            return {"connections": len(connections(server.port))}

        def begin() -> None:
            client.hold(server.port, HELD)
            server.accept(HELD)

        def end() -> float:
            began = time.monotonic()
            client.hold(server.port, 0)
            server.drop()
            return began

        table = {"kind": "tcp"}
        yield Stand(table, server.port, {"connections": HELD}, begin, end, counts)


@contextmanager
def tcp_still(folder: Path) -> Iterator[Stand]:
    """Hold requests on connections that are kept open after the answer."""
    del folder
    with ExitStack() as stack:
        server, client = Server(stack), Client(stack)

        def asked() -> bool:
            return all(s.receive_queue for s in connections(server.port))

        def begin() -> None:
            client.hold(server.port, 0)
            server.drop()
            client.hold(server.port, HELD, "request")
            server.accept(HELD)
            wait_until(asked, "the requests are there")

        def end() -> float:
            for one in server.held:
                one.recv(64)
            began = time.monotonic()
            for one in server.held:
                one.sendall(b"answer")
            return began

        def counts() -> Counts:
            return {"busy_connections": sum(1 for s in connections(server.port) if s.send_queue)}

        table = {"kind": "tcp", "still": STILL}
        in_hand = {"busy_connections": HELD, "unknown_connections": 0}
        yield Stand(table, server.port, in_hand, begin, end, counts, STILL)
