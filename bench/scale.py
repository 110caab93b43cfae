"""How a drain grows with the number of instances: in one agent, and in its load on Consul."""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.proxies import accepts
from bench.stack import ROOT, Agent
from bench.table import Row
from deregister_agent.client import path_of
from tests.servers.child import Child, free_ports, wait_until
from tests.servers.consul import Consul, consul

SIZES = (25, 50, 100, 200)
QUIET = 0.5
IDLE = 20.0  # seconds for which the load of agents with nothing to do is measured
LIMIT = 120.0
TICK = 100  # clock ticks a second in /proc/PID/stat (man 2 sysconf, _SC_CLK_TCK on Linux)

_HEAD = """
[agent]
journal = "{folder}/journal.db"
log_format = "text"
log_level = "warning"
[server]
listen = ["unix:{folder}/agent.sock"]
"""
_INSTANCE = """
[[instance]]
name = "many-{number}"
service = "many"
port = {port}
quiet = {quiet}
min_others = 0
[[instance.probe]]
kind = "http_json"
url = "http://127.0.0.1:{port}/-/work"
in_flight = {{ requests = "/in_flight/requests" }}
started = "/started"
mark = "/process/mark"
{registry}
"""

Tables = Callable[[Path, Sequence[int]], list[str]]
"""List the apps in a registry; return each instance's table."""


def in_a_file(folder: Path, ports: Sequence[int]) -> list[str]:
    """List them all in one file."""
    listed = folder / "many.json"
    listed.write_text(json.dumps([{"targets": [f"127.0.0.1:{port}" for port in ports]}]))
    return [f'[[instance.registry]]\nkind = "file"\npath = "{listed}"\n'] * len(ports)


def in_consul(server: Consul) -> Tables:
    """Return what registers them all with one Consul."""

    def register(folder: Path, ports: Sequence[int]) -> list[str]:
        del folder
        for number, port in enumerate(ports):
            place = {"ID": f"many-{number}", "Address": "127.0.0.1", "Port": port}
            server.ok("PUT", "/v1/agent/service/register", {"Name": "many", **place})
        wait_until(lambda: len(server.entries("many")) == len(ports), "all are there", limit=LIMIT)
        table = '[[instance.registry]]\nkind = "consul"\nurl = "{}"\nservice_id = "many-{}"\n'
        return [table.format(server.url, number) for number in range(len(ports))]

    return register


@contextmanager
def agent_of(count: int, tables: Tables) -> Iterator[Agent]:
    """Run an agent with *count* instances, and their apps."""
    with tempfile.TemporaryDirectory(prefix="many-") as name:
        folder, ports = Path(name), free_ports(count)
        command = [sys.executable, "-m", "bench.many", *map(str, ports)]
        with Child(command, folder / "many.log", folder=ROOT) as apps:
            apps.wait_ready(lambda: all(accepts(port) for port in ports))
            text = _HEAD.format(folder=folder) + "".join(
                _INSTANCE.format(number=number, port=port, quiet=QUIET, registry=table)
                for number, (port, table) in enumerate(
                    zip(ports, tables(folder, ports), strict=True)
                )
            )
            agent = Agent(folder, text)
            try:
                agent.start()
                yield agent
            finally:
                agent.close()


def drain_all(agent: Agent, count: int) -> float:
    """Drain all instances at once; return the seconds until the last is drained."""
    began = time.monotonic()
    names = [f"many-{number}" for number in range(count)]
    for name in names:
        answer = agent.client.post(path_of(name, "stop-traffic"), {})
        assert answer.status == 202, answer.body
    wait_until(
        lambda: all(
            one["phase"] == "drained" for one in agent.client.get("/v1/instances").body["instances"]
        ),
        "all are drained",
        limit=LIMIT,
        pause=0.1,
    )
    return time.monotonic() - began


def cpu(agent: Agent) -> float:
    """Return the seconds of CPU that the agent's process has used."""
    assert agent.child is not None
    fields = Path(f"/proc/{agent.child.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


class Asked:
    """How many requests Consul has answered, by its own metrics: sums over 10 seconds each."""

    def __init__(self, server: Consul) -> None:
        self._server = server
        self._seen: dict[str, float] = {}

    def look(self) -> float:
        """Take the last full interval in; return the sum since the beginning. Call it often."""
        metrics = self._server.ok("GET", "/v1/agent/metrics")
        names = ("consul.http.", "consul.api.http")
        samples = [s for s in metrics["Samples"] if s["Name"].startswith(names)]
        ours = [s for s in samples if not _is_own(json.dumps([s["Name"], s.get("Labels")]))]
        self._seen[metrics["Timestamp"]] = sum(s["Count"] for s in ours)
        return sum(self._seen.values())

    def during(self, seconds: float) -> float:
        """Return how many came in the intervals of these seconds."""
        before, end = self.look(), time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(2.0)
            self.look()
        return self.look() - before


def _is_own(name: str) -> bool:
    return "agent.metrics" in name or "agent_metrics" in name


def growth() -> list[Row]:
    """Measure every size."""
    rows: list[Row] = []
    for count in SIZES:
        with agent_of(count, in_a_file) as agent:
            before = cpu(agent)
            seconds = drain_all(agent, count)
            used = (cpu(agent) - before) / count * 1000
        rows.append(Row(f"{count} at once in one agent, file: until all are drained", seconds, "s"))
        rows.append(Row(f"{count} at once in one agent, file: CPU of the agent, each", used, "ms"))
    for count in SIZES:
        rows += _on_consul(count)
    return rows


def _on_consul(count: int) -> list[Row]:
    with consul() as server, agent_of(count, in_consul(server)) as agent:
        asked = Asked(server)
        time.sleep(11.0)  # the interval in which all were registered and first read is over
        idle = asked.during(IDLE) / IDLE
        before = asked.look()
        seconds = drain_all(agent, count)
        after = asked.during(11.0 + IDLE) + asked.look() - before
        each = max(0.0, after - idle * (seconds + 11.0 + IDLE)) / count
    return [
        Row(f"{count} at once, one Consul: until all are drained", seconds, "s"),
        Row(f"{count} at once, one Consul: requests for each drain", each, ""),
        Row(f"{count} serving, one Consul: requests a second, each", idle / count, "/s"),
    ]
