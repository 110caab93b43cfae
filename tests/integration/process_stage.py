"""Apps that are started as people start them, for tests of which process they are."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from deregister_agent.demo.stage import free_ports
from deregister_agent.host import pids
from deregister_agent.host.clock import SystemClock
from deregister_agent.host.find_by_port import PortFinder
from deregister_agent.host.process_finder import ByPidFile, build
from deregister_agent.model import Announcement, Event, Instance, Presence, Process
from deregister_agent.notifiers import process as ending
from deregister_agent.ports import ProcessFinder
from tests.loops import eventually

PYTHON = str(Path(sys.executable).resolve())
CLOCK = SystemClock()
TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds

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
    (port,) = free_ports(1)
    return port


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

    def wait(self) -> None:
        """Wait until this one process has ended, and reap it."""
        self._child.wait(60)

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


def children(pid: int) -> list[int]:
    """Return the pids of the children of a process; none where it has ended."""
    try:
        told = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(one) for one in told.split()]


def by_pid_file(file: Path, port: int = 1) -> ProcessFinder:
    """Return the finder of the app whose pid stands in a file."""
    instance = Instance("web", "web", "127.0.0.1", port)
    return build(ByPidFile(by="pid_file", file=file), instance, CLOCK)


def end(process: Process) -> None:
    """Have the notifier end a process that was drained."""
    instance = Instance("web", "web", "127.0.0.1", 1)
    notifier = ending.build(ending.Options(kind="process"), instance)
    notifier.announce(Event("1", Announcement.DRAINED, instance, "d", 0.0, process=process))


def drained(process: Process) -> Process:
    """Return a process as the journal has it once "drained" was said, which is now."""
    return replace(process, closed=CLOCK.now())


def after_a_tick() -> None:
    """Wait until whoever starts now has a later start time, as far as the kernel tells."""
    began = CLOCK.now()
    eventually(lambda: CLOCK.now() > began + 2 * TICK, "a tick of the clock")
