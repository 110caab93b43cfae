"""A host with a real app and a real agent process, asked through its API and its command line."""

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deregister_agent.cli.client import AgentAddress, AgentAnswer, AgentClient, Unreachable, path_of
from deregister_agent.demo.stage import Apps
from tests.servers.child import Child

LIMIT = 60.0

_HEAD = """[agent]
journal = "{root}/journal.db"
log_format = "text"
[server]
listen = ["unix:{root}/agent.sock"]
token_file = "{root}/token"
"""

_INSTANCE = """[[instance]]
name = "{name}"
service = "{service}"
address = "{address}"
port = {port}
quiet = {quiet}
restore_deadline = {restore_deadline}
min_others = 0
{process}
"""

BY_PROBE = 'process = { by = "probe" }'
PROBE = """[[instance.probe]]
kind = "http_json"
url = "http://127.0.0.1:{port}/-/work"
in_flight = {{ requests = "/in_flight/requests" }}
started = "/started"
mark = "/process/mark"
"""

READY = """[[instance.ready]]
url = "http://127.0.0.1:{port}/healthz"
every = 0.1
"""


@dataclass
class Host:
    """One app, which any number of instances stand for, and the agent beside it."""

    root: Path
    apps: Apps = field(default_factory=lambda: Apps(["app"]))
    tables: dict[str, str] = field(default_factory=dict)
    child: Child | None = None
    before: tuple[str, ...] = ()  # what goes before the agent's command

    @property
    def port(self) -> int:
        """Where the app listens."""
        return self.apps.ports["app"]

    @property
    def client(self) -> AgentClient:
        return AgentClient(AgentAddress(f"unix:{self.root}/agent.sock"))

    def add(self, name: str, *registries: str, probe: str = PROBE, **more: Any) -> None:
        """Write down an instance, or write it anew; *more* are its own keys."""
        keys: dict[str, Any] = {"service": "orders", "address": "127.0.0.1", "port": self.port}
        keys |= {"quiet": 0.1, "restore_deadline": 60, "process": BY_PROBE} | more
        text = _INSTANCE.format(name=name, **keys)
        text += "".join(f"[[instance.registry]]\n{one}\n" for one in registries)
        self.tables[name] = text + probe.format(port=self.port)
        config = _HEAD.format(root=self.root) + "".join(self.tables.values())
        (self.root / "agent.toml").write_text(config)

    def environment(self) -> dict[str, str]:
        """Return what the agent and the command line find their parts by."""
        new = {"DEREGISTER_CONFIG": f"{self.root}/agent.toml", "PYTHONPATH": f"{self.root}/site"}
        return {key: value for key, value in os.environ.items() if key != "DEREGISTER_URL"} | new

    @contextmanager
    def agent(self) -> Iterator[AgentClient]:
        """Run the agent until the block ends, or it is killed."""
        command = [*self.before, sys.executable, "-m", "deregister_agent", "serve"]
        log = self.root / "agent.log"
        with Child(command, log, environment=self.environment()) as self.child:
            self.child.wait_ready(self._answers)
            yield self.client

    def _answers(self) -> bool:
        try:
            return self.client.get("/healthz").status == 200
        except Unreachable:
            return False

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line as an operator does."""
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "deregister_agent", *arguments],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )

    def post(self, name: str, what: str, **wish: object) -> AgentAnswer:
        return self.client.post(path_of(name, what), wish)

    def get(self, name: str, *what: str, wait: float | None = None) -> AgentAnswer:
        return self.client.get(path_of(name, *what), wait)

    def phase(self, name: str) -> str:
        return str(self.get(name).body["phase"])

    def last(self, name: str) -> dict[str, Any]:
        """Return the newest record of an instance, with its timeline."""
        drains = self.get(name, "drains").body["drains"]
        return self.get(name, "drains", drains[0]["id"]).body if drains else {}

    def metric(self, name: str) -> str:
        """Return the lines of a metric."""
        with socket.socket(socket.AF_UNIX) as agent:
            agent.connect(f"{self.root}/agent.sock")
            agent.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = http.client.HTTPResponse(agent)
            answer.begin()
            text = answer.read().decode()
        return "\n".join(line for line in text.splitlines() if line.startswith(name))

    def log(self) -> str:
        return (self.root / "agent.log").read_text()


@contextmanager
def running_host(root: Path) -> Iterator[Host]:
    """Give a host whose app runs; end it afterwards."""
    with ExitStack() as stack:
        host = Host(root)
        stack.callback(host.apps.close)
        host.apps.start("app")
        yield host


class TargetFile:
    """A target file of other people's, with one group."""

    def __init__(self, path: Path, *targets: str, key: str = "targets") -> None:
        self.path = path
        self.write(*targets, key=key)

    def write(self, *targets: str, key: str = "targets") -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps([{key: list(targets), "labels": {"service": "orders"}}]))
        new.replace(self.path)

    def targets(self) -> list[str]:
        return [one for group in json.loads(self.path.read_text()) for one in group["targets"]]

    def table(self, *more: str) -> str:
        """Return the registry that reads it."""
        return "\n".join(["kind = 'file'", f"path = '{self.path}'", *more])


@contextmanager
def listed_host(root: Path, *registries: str, **keys: Any) -> Iterator[Host]:
    """Give a host with one instance, orders-1, that is in a file of targets."""
    with running_host(root) as host:
        targets = TargetFile(root / "targets.json", f"127.0.0.1:{host.port}")
        host.add("orders-1", targets.table(), *registries, **keys)
        yield host
