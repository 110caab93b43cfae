"""How a drain grows: with the instances of one agent, and with the agents of one registry."""

import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench import fleet
from bench.fleet import NAMED, SETTLED, STAGGER, Server, rate, server_of
from bench.table import Row
from compose.alternatives import wait_for
from compose.processes import ROOT, accepts
from deregister_agent.cli.client import AgentClient, path_of
from deregister_agent.demo.stage import free_ports, running_agent
from deregister_agent.net.fetcher import Fetcher
from tests.servers.child import Child, wait_until
from tests.servers.consul import Consul
from tests.servers.etcd import Etcd

SIZES = (25, 50, 100, 200)
QUIET = 0.5
LIMIT = 120.0

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
Count = Callable[[], int]
"""Return how many requests a registry has had."""
KINDS = ("consul", "etcd")


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


def in_etcd(server: Etcd) -> Tables:
    """Return what writes a key for each into one etcd."""

    def register(folder: Path, ports: Sequence[int]) -> list[str]:
        del folder
        for number, port in enumerate(ports):
            server.put(f"/many/{number}", f"127.0.0.1:{port}")
        table = '[[instance.registry]]\nkind = "etcd"\nendpoints = ["{}"]\nkey = "/many/{}"\n'
        return [f'{table.format(server.url, n)}prefix = "/many/"\n' for n in range(len(ports))]

    return register


@contextmanager
def agent_of(count: int, tables: Tables) -> Iterator[tuple[AgentClient, int]]:
    """Run an agent with *count* instances, and their apps; give it and its process."""
    with tempfile.TemporaryDirectory(prefix="many-") as name:
        folder, ports = Path(name), free_ports(count)
        command = [sys.executable, "-m", "bench.many", *map(str, ports)]
        with Child(command, folder / "many.log", folder=ROOT) as apps:
            apps.wait_ready(
                lambda: accepts(("127.0.0.1", ports[-1]))
            )  # it begins to listen there last
            text = _HEAD.format(folder=folder) + "".join(
                _INSTANCE.format(number=number, port=port, quiet=QUIET, registry=table)
                for number, (port, table) in enumerate(
                    zip(ports, tables(folder, ports), strict=True)
                )
            )
            with running_agent(folder, text) as agent:
                yield agent, int((folder / "journal.db.lock").read_text())


def drain_all(agent: AgentClient, count: int) -> float:
    """Drain all instances at once; return the seconds until the last is drained."""
    began = time.monotonic()
    names = [f"many-{number}" for number in range(count)]
    for name in names:
        answer = agent.post(path_of(name, "stop-traffic"), {})
        assert answer.status == 202, answer.body
    for name in names:
        wait_for(agent, name, "traffic-drained")
    return time.monotonic() - began


_HTTP = re.compile(r"^consul_http_[A-Z]+_\w+_count(?:\{.*\})? (\d+)$", re.MULTILINE)


def asked_of_consul(server: Consul) -> Count:
    """Return what counts the requests that Consul has answered, but for those of the counting."""
    api = Fetcher(server.url, timeout=60.0)

    def count() -> int:
        text = api.call("GET", "/v1/agent/metrics", params=[("format", "prometheus")]).text
        counts = (one for one in _HTTP.finditer(text) if "_v1_agent_metrics" not in one[0])
        return sum(int(one[1]) for one in counts)

    return count


def asked_of_etcd(server: Etcd) -> Count:
    """Return what counts the calls that etcd says have come."""
    api = Fetcher(server.url, timeout=60.0)

    def count() -> int:
        lines = api.call("GET", "/metrics").text.splitlines()
        calls = [line for line in lines if line.startswith("grpc_server_started_total")]
        return int(sum(float(line.rpartition(" ")[2]) for line in calls))

    return count


def asked(server: Consul | Etcd) -> Count:
    """Return what counts the requests of a registry."""
    return asked_of_etcd(server) if isinstance(server, Etcd) else asked_of_consul(server)


def growth() -> Iterator[Row]:
    """Measure every size, and give each row out as soon as it is known."""
    yield from _grown(SIZES, _in_a_file)
    for kind in KINDS:
        yield from _grown(SIZES, partial(_with_server, kind, in_one_agent))
    for kind in KINDS:
        for stagger in (STAGGER, 0.0):
            drained = partial(fleet.measure, stagger=stagger)
            yield from _grown(fleet.SIZES, partial(_with_server, kind, drained))


def _grown(sizes: Sequence[int], measure: Callable[[int], Iterator[Row]]) -> Iterator[Row]:
    """Measure every size, and at the end how many times the first what each drain costs is."""
    first = dict[str, float]()
    for count in sizes:
        for row in measure(count):
            yield row
            what = row.what.replace(f"{count} a", "N a", 1)
            if what.endswith("each drain"):
                first.setdefault(what, row.value)
                if count == sizes[-1]:
                    times = row.value / max(first[what], 0.01)
                    yield Row(f"{what}: {count} against {sizes[0]}", times, "times")


def _with_server(
    kind: str, measure: Callable[[Server, int], Iterator[Row]], count: int
) -> Iterator[Row]:
    with server_of(kind, asked) as server:
        yield from measure(server, count)


def _in_a_file(count: int) -> Iterator[Row]:
    how = f"{count} at once in one agent, file"
    with agent_of(count, in_a_file) as (agent, pid):
        time.sleep(SETTLED)
        before = fleet.cpu_of(pid)
        seconds = drain_all(agent, count)
        used = (fleet.cpu_of(pid) - before) / count * 1000
    yield Row(f"{how}: until all are drained", seconds, "s")
    yield Row(f"{how}: CPU of the agent for each drain", used, "ms")


def in_one_agent(server: Server, count: int) -> Iterator[Row]:
    """Measure an agent's load on a registry: with nothing to do, during the drains, after them."""
    there = server.server
    tables = in_etcd(there) if isinstance(there, Etcd) else in_consul(there)
    how = f"{count} at once in one agent, {NAMED[server.kind]}"
    with agent_of(count, tables) as (agent, pid):
        time.sleep(SETTLED)
        idle = rate(server.asked) / count
        before = server.asked(), fleet.cpu_of(pid), server.cpu()
        seconds = drain_all(agent, count)
        after = server.asked(), fleet.cpu_of(pid), server.cpu()
        held, opened = rate(server.asked) / count, server.open()
    each, by_agent, by_server = ((b - a) / count for a, b in zip(before, after, strict=True))
    yield Row(f"{how}: until all are drained", seconds, "s")
    yield Row(f"{how}: requests for each drain", each, "")
    yield Row(f"{how}: CPU of the agent for each drain", by_agent * 1000, "ms")
    yield Row(f"{how}: CPU of the registry for each drain", by_server * 1000, "ms")
    yield Row(f"{how}: connections in all, while drained", opened, "")
    yield Row(f"{how}: requests a second of each, while drained", held, "/s")
    yield Row(f"{how}: requests a second of each, while serving", idle, "/s")
