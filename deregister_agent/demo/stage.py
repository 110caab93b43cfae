"""The processes of the demonstration: three apps, an agent, and the file that lists them."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from deregister_agent.cli.client import AgentAddress, AgentClient, Unreachable
from deregister_agent.errors import AgentError

_CLIENT_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
START_LIMIT = 20.0  # seconds within which a started process must answer

_INSTANCE = """
[[instance]]
name = "{name}"
service = "shop"
port = {port}
quiet = {quiet}
[[instance.ready]]
url = "http://127.0.0.1:{port}/healthz"
every = 0.1
{registry}
[[instance.probe]]
kind = "http_json"
url = "http://127.0.0.1:{port}/-/work"
in_flight = {{ requests = "/in_flight/requests", tasks = "/in_flight/tasks" }}
started = "/started"
mark = "/process/mark"
"""

_FILE_REGISTRY = """[[instance.registry]]
kind = "file"
path = "{path}"
"""


class Apps:
    """The app processes, by the name of their instance."""

    def __init__(self, names: Sequence[str]) -> None:
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """Start the app called *name*, and return once it answers."""
        argv = [sys.executable, "-m", "deregister_agent.demo.app", str(self.ports[name])]
        self._running[name] = subprocess.Popen(argv)  # noqa: S603 - our own program
        _until_listening(self.ports[name], self._running[name])

    def alive(self, name: str) -> bool:
        """Tell whether the process of *name* runs."""
        return self._running[name].poll() is None

    def replace(self, name: str) -> None:
        """Kill the app called *name* with SIGKILL, and start its next version."""
        self.kill(name)
        self.start(name)

    def kill(self, name: str) -> None:
        """Kill the app called *name*: its work in hand is lost."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def close(self) -> None:
        """End all apps."""
        for name in list(self._running):
            self.kill(name)


def free_ports(count: int) -> list[int]:
    """
    Return *count* ports of loopback that are free for TCP and UDP, all different.

    They are below those that the kernel gives to clients (ip(7), ip_local_port_range): there
    anybody's connection to elsewhere may have the port of an app between its end and its next
    start, and to the table of sockets it looks like a connection to the app.
    """
    with ExitStack() as held:
        return [_hold_a_port(held) for _ in range(count)]


def _hold_a_port(held: ExitStack) -> int:
    """Return a port that is free, and that nobody else gets while it is *held*."""
    first_of_clients = int(_CLIENT_PORTS.read_text(encoding="ascii").split()[0])
    ports = range(20_000, first_of_clients) or range(20_000, 60_000)
    for port in random.SystemRandom().sample(ports, k=len(ports)):
        with ExitStack() as ours:
            try:
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    ours.enter_context(socket.socket(type=kind)).bind(("127.0.0.1", port))
            except OSError:
                continue
            held.push(ours.pop_all())
            return port
    raise AgentError(f"find a free port: from {ports[0]} to {ports[-1]} none is free")


def config_text(folder: Path, apps: Apps, registries: dict[str, str], quiet: float) -> str:
    """Return the agent's configuration; *registries* holds each instance's registry tables."""
    head = (
        f'[agent]\njournal = "{folder}/journal.db"\nlog_format = "text"\n'
        f'[server]\nlisten = ["unix:{folder}/agent.sock"]\ntoken_file = "{folder}/token"\n'
    )
    return head + "".join(
        _INSTANCE.format(name=name, port=port, quiet=quiet, registry=registries[name])
        for name, port in apps.ports.items()
    )


def list_in_file(path: Path, apps: Apps) -> dict[str, str]:
    """List the apps in a new file_sd file; return the registry table of each instance."""
    targets = [f"127.0.0.1:{port}" for port in apps.ports.values()]
    path.write_text(json.dumps([{"labels": {"service": "shop"}, "targets": targets}], indent=2))
    return {name: _FILE_REGISTRY.format(path=path) for name in apps.ports}


def targets_in_file(path: Path) -> Sequence[str]:
    """Return the targets that the file at *path* lists now."""
    groups = json.loads(path.read_text(encoding="utf-8"))
    return [target for group in groups for target in group["targets"]]


@contextmanager
def running_agent(folder: Path, config: str) -> Iterator[AgentClient]:
    """Run a real agent on *config*; its log is ``agent.log`` in *folder*."""
    (folder / "agent.toml").write_text(config)
    argv = [sys.executable, "-m", "deregister_agent", "--config", f"{folder}/agent.toml", "serve"]
    with (folder / "agent.log").open("wb") as log:
        process = subprocess.Popen(argv, stderr=log, stdout=log)  # noqa: S603 - our own program
    try:
        client = AgentClient(AgentAddress(f"unix:{folder}/agent.sock"))
        _until_ready(client, process, folder)
        yield client
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait()


def _until_ready(client: AgentClient, process: subprocess.Popen[bytes], folder: Path) -> None:
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end and process.poll() is None:
        try:
            client.get("/v1/instances")
        except Unreachable:
            time.sleep(0.05)
        else:
            return
    said = (folder / "agent.log").read_text(encoding="utf-8", errors="replace")[-2000:]
    raise AgentError(f"the agent did not start; it said:\n{said}")


def _until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AgentError(f"the demonstration's app did not start on port {port}")
