"""The tcp probe, with a listener in another process behind it."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from deregister_agent.demo.stage import free_ports
from deregister_agent.host import sockets
from deregister_agent.host.sockets import connections
from deregister_agent.probes.tcp import Options, build

from . import Nothing, World, orders, wait_for

CLIENT = """
import socket, sys
held = []
for line in sys.stdin:
    port, count, sent = line.split(" ")
    port, count = int(port), int(count)
    while len(held) > count:
        held.pop().close()
    while len(held) < count:
        held.append(socket.create_connection(("127.0.0.1", port)))
    for one in held:
        one.sendall(sent.strip().encode())
    print(flush=True)
"""


class Client:
    """Another process, which holds as many connections as it is told to."""

    def __init__(self, stack: ExitStack) -> None:
        self._child = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", CLIENT],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(self._child.kill)

    def hold(self, port: int, count: int, sent: str = "") -> None:
        """Open or close connections to *port* until there are *count*; send a word on each."""
        assert self._child.stdin
        assert self._child.stdout
        self._child.stdin.write(f"{port} {count} {sent}\n")
        self._child.stdin.flush()
        self._child.stdout.readline()


class Server:
    """A listener that closes each connection as soon as its peer does."""

    def __init__(self, stack: ExitStack) -> None:
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", *free_ports(1))))
        self.port: int = self.listener.getsockname()[1]
        self.held: list[socket.socket] = []
        stack.callback(self.drop)

    def accept(self, count: int) -> None:
        """Accept until *count* are held, or close until no more are."""
        while len(self.held) < count:
            self.held.append(self.listener.accept()[0])
        while len(self.held) > count:
            self.held.pop().close()

    def drop(self) -> None:
        """Close all."""
        self.accept(0)


class Forbidden:
    """Stands in the place of sock_diag where a sandbox forbids it."""

    def dump(self, *_: object, **__: object) -> NoReturn:
        raise PermissionError(1, "Operation not permitted")


def forbid(patch: pytest.MonkeyPatch) -> None:
    """Let neither source of the kernel's table be readable."""
    patch.setattr(sockets, "sock_diag", Forbidden())
    patch.setattr(sockets, "_PROCFS", Path("/nonexistent"))


@contextmanager
def world() -> Iterator[World]:
    """Give a probe of a port that another process connects to."""
    with ExitStack() as stack:
        server, client = Server(stack), Client(stack)
        patch = stack.enter_context(pytest.MonkeyPatch.context())

        def busy(count: int) -> None:
            client.hold(server.port, count)
            server.accept(count)
            wait_for(lambda: len(connections(server.port)) == count, f"{count} connections")

        def outlives() -> Nothing:
            busy(1)
            client.hold(server.port, 0)  # the app's end waits to be closed: CLOSE_WAIT
            return server.drop

        def strangers() -> Nothing:
            other, theirs = Server(stack), Client(stack)
            theirs.hold(other.port, 3)
            other.accept(3)
            return lambda: theirs.hold(other.port, 0)

        probe = build(Options(kind="tcp"), orders(server.port))
        yield World(
            probe,
            "connections",
            busy,
            lambda: forbid(patch),
            patch.undo,
            outlives,
            strangers,
            serve="the kernel's table does not tell which connections there have been",
        )
