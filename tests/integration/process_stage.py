"""Apps that are started as people start them, for tests of which process they are."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from deregister_agent.host import pids
from deregister_agent.host.clock import SystemClock
from deregister_agent.host.find_by_port import PortFinder
from deregister_agent.model import Presence, Process
from deregister_agent.ports import ProcessFinder
from tests.loops import eventually

PYTHON = str(Path(sys.executable).resolve())
CLOCK = SystemClock()

FORKING = """
import os, signal, socket, sys, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    connection, _ = server.accept()
    if os.fork():
        connection.close()
        continue
    server.close()
    if {own_session}:
        os.setsid()
    if not connection.recv(1000):
        os._exit(0)
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.01)
    connection.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
    os._exit(0)
"""
"""A server that forks for each connection; a child closes the listener and answers at a sign."""

WSGI = """
import os, time

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/slow":
        open(os.environ["ASKED"], "w").close()
        while not os.path.exists(os.environ["SIGN"]):
            time.sleep(0.01)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""

LISTENS = """
import socket, sys, time
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
kept = []
while True:
    kept.append(server.accept())
"""


def free_port() -> int:
    """Return a port on which nobody listened a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


class Started:
    """One process of a test, in a session of its own; it ends with the test."""

    def __init__(self, stack: ExitStack, command: Sequence[str], **more: str) -> None:
        self._child = subprocess.Popen(
            command,
            env=os.environ | more,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.pid = self._child.pid
        stack.callback(self._child.wait)
        stack.callback(self.end_group)

    def end_group(self) -> None:
        """Kill it and what has stayed in its process group."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            self._child.kill()

    def kill(self) -> None:
        """Kill this one process alone, and reap it."""
        self._child.kill()
        self._child.wait()


def named(folder: Path, name: str) -> str:
    """Return a Python that the kernel calls by another name."""
    program = folder / name
    if not program.exists():
        program.symlink_to(PYTHON)
    return str(program)


def finder_of(port: int, program: str = "") -> PortFinder:
    """Return the finder of the app on a port of this host."""
    return PortFinder(port, "127.0.0.1", CLOCK, program=program)


def seen(finder: ProcessFinder, was: Process | None = None) -> Process:
    """Wait until somebody is seen, and return who."""
    found: list[Process] = []

    def is_seen() -> bool:
        running = finder.look(was).running
        found.extend([running] if running is not None else [])
        return running is not None

    eventually(is_seen, "somebody is seen")
    return found[-1]


def once(
    finder: ProcessFinder, was: Process, is_so: Callable[[Presence], object], what: str
) -> Presence:
    """Look until the finder says so, and return what it said."""
    said: list[Presence] = []

    def holds() -> bool:
        said.append(finder.look(was))
        return bool(is_so(said[-1]))

    eventually(holds, what)
    return said[-1]


def pid_of(process: Process) -> list[int]:
    """Return the pids of a process."""
    return [pid for pid, _ in process.pids]


def is_alive(pid: int) -> bool:
    """Tell whether a pid is that of a living process."""
    return pids.find(pid) is not None
