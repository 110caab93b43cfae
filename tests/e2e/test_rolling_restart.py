"""The whole job: a service under load is replaced, copy by copy, and nothing is lost."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.cli.client import AgentClient
from deregister_agent.demo.load import Load
from deregister_agent.demo.rollout import replace_one
from deregister_agent.demo.stage import Apps, config_text, running_agent
from tests.servers.child import wait_until
from tests.servers.consul import Consul, shared

SERVICE = "e2e-shop"

_TABLE = """[[instance.registry]]
kind = "consul"
url = "{url}"
service_id = "{name}"
mode = "{mode}"
"""


@pytest.fixture
def apps() -> Iterator[Apps]:
    """Three copies of the service, running; ended also when the test fails."""
    running = Apps(["e2e-1", "e2e-2", "e2e-3"])
    try:
        for name in running.ports:
            running.start(name)
        yield running
    finally:
        running.close()


def register(consul: Consul, apps: Apps) -> None:
    """Register each copy as its own start script would, with tags, meta and weights."""
    for name, port in apps.ports.items():
        consul.register(
            {
                "ID": name,
                "Name": SERVICE,
                "Address": "127.0.0.1",
                "Port": port,
                "Tags": ["v1", "blue"],
                "Meta": {"rack": "a"},
                "Weights": {"Passing": 3, "Warning": 1},
            }
        )


def discovered(consul: Consul) -> Sequence[str]:
    """Return the targets as a consumer of Consul sees them that asks for healthy ones."""
    entries = consul.ok("GET", f"/v1/health/service/{SERVICE}?passing")
    return [f"{entry['Service']['Address']}:{entry['Service']['Port']}" for entry in entries]


def config(folder: Path, apps: Apps, consul: Consul, mode: str) -> str:
    tables = {name: _TABLE.format(url=consul.url, name=name, mode=mode) for name in apps.ports}
    return config_text(folder, apps, tables, quiet=0.5).replace('"shop"', f'"{SERVICE}"')


def roll(agent: AgentClient, apps: Apps, consul: Consul) -> tuple[Load, list[dict[str, Any]]]:
    """Replace every copy under load; the load is stopped and every answer is in."""
    load = Load(partial(discovered, consul), rate=30, slow=2.0)
    load.start()
    try:
        wait_until(lambda: load.tally.answered > 20, "the load is answered")
        drains = [replace_one(agent, name, apps.replace) for name in apps.ports]
        seen = load.tally.answered
        wait_until(lambda: load.tally.answered > seen + 20, "the new copies answer")
    finally:
        load.stop()
    return load, drains


@pytest.mark.parametrize("mode", ["deregister", "maintenance"])
def test_rolling_restart_with_consul_loses_nothing(tmp_path: Path, apps: Apps, mode: str) -> None:
    """Each copy is drained, killed hard and put back; every request sent is answered."""
    consul = shared()
    register(consul, apps)
    before = consul.entries(SERVICE)
    with running_agent(tmp_path, config(tmp_path, apps, consul, mode)) as agent:
        load, drains = roll(agent, apps, consul)
    assert load.tally.lost == []
    assert load.tally.answered == load.tally.sent
    assert [drain["outcome"] for drain in drains] == ["drained"] * 3
    assert sorted(map(plain, consul.entries(SERVICE))) == sorted(map(plain, before))
    errors = [line for line in (tmp_path / "agent.log").read_text().splitlines() if "ERROR" in line]
    assert errors == []
    for name in apps.ports:
        consul.deregister(name)


def plain(entry: dict[str, Any]) -> str:
    """Return what a consumer gets from an entry, without Consul's own bookkeeping."""
    service = entry["Service"]
    kept = {key: service[key] for key in ("ID", "Address", "Port", "Tags", "Meta", "Weights")}
    return json.dumps(kept, sort_keys=True)


def test_the_demonstration_loses_nothing() -> None:
    """``deregister-agent demo --json`` prints one object with what was sent and lost."""
    done = subprocess.run(
        [sys.executable, "-m", "deregister_agent", "demo", "--json"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["sent"] > 0
    assert result["lost"] == 0
    assert [drain["outcome"] for drain in result["drains"]] == ["drained"] * 3
