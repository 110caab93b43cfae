"""The tcp probe: who has the listening socket is asked again, since it may be handed on."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from deregister_agent.errors import ProbeError
from deregister_agent.model import Instance
from deregister_agent.probes import tcp
from deregister_agent.probes.tcp import Options, TcpProbe, build

WAIT = "import sys; print(flush=True); sys.stdin.readline()"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def probe(port: int) -> TcpProbe:
    return build(Options(kind="tcp"), Instance("orders-1", "orders", "127.0.0.1", port))


def handed_on(stack: ExitStack, listener: socket.socket, program: Path) -> None:
    """Start a program of that name, which inherits the very socket."""
    program.write_text(WAIT)
    child = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-I", "-S", str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[listener.fileno()],
        )
    )
    stack.callback(child.kill)
    assert child.stdout
    child.stdout.readline()


def read_on(asked: TcpProbe) -> None:
    """Ask again and again, for a generous time."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        asked.read(0.0)
        time.sleep(0.02)


@pytest.mark.parametrize("name", ["systemd-socket-proxyd", "haproxy", "docker-proxy", "socat"])
def test_a_forwarder_that_takes_the_socket_over(
    stack: ExitStack, tmp_path: Path, name: str
) -> None:
    """The listener is the same, by its inode; who serves it has changed since it was looked at."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    asked = probe(listener.getsockname()[1])
    assert asked.read(0.0).idle
    handed_on(stack, listener, tmp_path / name)
    with pytest.raises(ProbeError, match=name):
        read_on(asked)


def test_what_a_former_listener_accepted(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """That somebody here accepted for one listener says nothing of the next at this port."""
    monkeypatch.setattr(tcp, "holders", lambda inodes: {inode: frozenset() for inode in inodes})
    monkeypatch.setattr(tcp, "engine_running", lambda: "dockerd")
    first = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    port = first.getsockname()[1]
    asked = probe(port)
    with pytest.raises(ProbeError, match="no connection was seen yet"):
        asked.read(0.0)
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)), first.accept()[0]:
        asked.read(0.0)  # both ends are this process's own, and accepted here
    assert asked.read(0.0).idle
    first.close()
    stack.enter_context(socket.create_server(("127.0.0.1", port)))
    with pytest.raises(ProbeError, match="no connection was seen yet"):
        asked.read(0.0)
