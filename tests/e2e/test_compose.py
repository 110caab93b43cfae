"""The stack: its files hold together, and a rolling deploy in it loses nothing."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from compose import local_images
from compose.configs import files
from compose.dashboards import expressions, panels
from compose.deploy import CARELESS, NO_ENGINE, OURS, deploy
from compose.described import services
from compose.local import processes
from compose.places import BROKER, CONTAINERS, NAMES, PROMETHEUS, WATCHERS
from compose.render import HERE as STACK
from compose.render import rendered
from compose.traffic.mixes import EVERY_DOOR
from compose.walk import steps
from compose.whole import AGENTS, WAITING, Whole
from deregister_agent.config.load import validated

ROOT = STACK.parent
VARIABLE = re.compile(r"\$\{(\w+)\}")
LIMIT = 1500  # seconds; the first time, base images are made


def _variables(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if "=" in line and line[0] != "#"]
    return dict(line.split("=", 1) for line in lines)


def test_what_is_rendered_is_current() -> None:
    """compose.yaml and the files beside it are those of the description."""
    stale = [path.name for path, text in rendered().items() if path.read_text() != text]
    assert stale == [], "run python -m compose.render"


PARTS: dict[str, tuple[set[str], set[str]]] = {
    "Consul": ({"consul-server", *(f"consul-{n}" for n in (1, 2, 3))}, {"consul"}),
    "etcd": ({"etcd", "register"}, {"etcd"}),
    "Nginx": ({"gateway", "gateway-agent"}, {"agent"}),
    BROKER: ({"broker"}, set()),
    WATCHERS: ({"load", "prometheus", "pipeline", "grafana"}, set()),
}
"""Each part that may be left out: its services, and how an app's agent takes it out of there."""


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("alone", [False, True])
def test_a_part_that_is_absent_appears_nowhere(part: str, *, alone: bool) -> None:
    """Neither as a service, nor as what one needs, nor in an agent's table."""
    parts = [each for each in PARTS if (each == part) is alone]
    place = replace(CONTAINERS, parts=parts)
    found, absent = services(place), set(PARTS) - set(parts)
    missing = {name for each in absent for name in PARTS[each][0]}
    assert {name for one in found for name in (one.name, *one.needs)} & missing == set()
    assert {one.name for one in services(CONTAINERS)} - missing == {one.name for one in found}
    (instance,) = tomllib.loads(files(place)["agents/shop-1.toml"])["instance"]
    kinds = {registry["kind"] for registry in instance["registry"]}
    assert kinds == {"http"} | {kind for each in parts for kind in PARTS[each][1]}


@pytest.mark.parametrize("name", ["gateway", *NAMES])
def test_an_agent_takes_its_configuration(name: str) -> None:
    """Each agent's configuration is valid, and nothing in it is unknown."""
    path = STACK / "agents" / f"{name}.toml"
    config = validated(tomllib.loads(path.read_text()), path.name)
    assert [one.name for one in config.instances] == [name] if name in NAMES else list(NAMES)


def test_every_image_is_a_variable() -> None:
    """Names and versions of images stand in the .env files, and nowhere else."""
    services = yaml.safe_load((STACK / "compose.yaml").read_text())["services"]
    assert [n for n, s in services.items() if not VARIABLE.fullmatch(s["image"])] == []
    froms = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert set(froms) == {"${PYTHON_IMAGE}", "${NGINX_IMAGE}", "agent"}


@pytest.mark.parametrize("name", [".env", "local.env"])
def test_every_variable_has_a_value(name: str) -> None:
    """What compose.yaml names is in both files, and nothing else is."""
    used = VARIABLE.findall((STACK / "compose.yaml").read_text())
    assert set(used) == set(_variables(STACK / name))


def test_local_images_are_those_that_are_made() -> None:
    """local.env names the images that local_images makes."""
    base = {v for v in _variables(STACK / "local.env").values() if v.startswith("local/")}
    assert base == {local_images.PYTHON, local_images.ALL, "local/there-is-no-grafana-in-debian"}


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    """Each metric in a query is one of the agent's reference page, or of the load."""
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    agents = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    loads = {"load_sent_total", "load_lost_total", "load_in_flight"}
    asked = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for each in expressions()
        for name in re.findall(r"\b(?:deregister_agent|load)_\w+", each)
    }
    assert asked <= agents | loads


def test_grafana_is_given_the_prometheus_of_the_stack() -> None:
    """The panels' data source is the one that is provisioned, and that one is there."""
    folder = STACK / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert (source["type"], source["url"]) == ("prometheus", f"http://prometheus:{PROMETHEUS}")
    assert {panel["datasource"]["uid"] for panel in panels()} == {source["uid"]}
    (provider,) = yaml.safe_load((folder / "dashboards" / "drains.yml").read_text())["providers"]
    mounted = yaml.safe_load((STACK / "compose.yaml").read_text())["services"]["grafana"]["volumes"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in mounted


def test_the_walk_is_found() -> None:
    """The commands of the README are those that the test in containers types."""
    commands = [command for command, _ in steps()]
    assert [c for c in commands if "stop-traffic" in c or "start-traffic" in c]
    assert [answer for command, answer in steps() if "traffic-drained" in command] == ["200\n"]


class Shown(Whole):
    """A stack of which only the agents' logs and one metric can be seen."""

    place = CONTAINERS
    scraped = 0.0

    def __init__(self, log: str, waiting: str) -> None:
        self._log, self._waiting_now = log, waiting

    def ask(self, urls: Sequence[str]) -> list[Any]:
        """Return the same count for each agent."""
        values = [
            {"metric": {"instance": name}, "value": [0, self._waiting_now]} for name in AGENTS
        ]
        return [{"data": {"result": values}} for _ in urls]

    def load_result(self) -> str:
        """Return nothing."""
        return ""

    def log(self, service: str) -> str:
        """Return the log of one agent; the others have none."""
        return self._log if service == AGENTS[1] else ""


@pytest.mark.parametrize(
    ("log", "waiting", "wrong"),
    [
        ("2026-01-01 00:00:00,000 INFO    an error was told\n", "0", []),
        ("2026-01-01 ERROR   a defect\n", "0", ["agent-1 wrote: 2026-01-01 ERROR   a defect"]),
        ("Traceback (most recent\n", "0", ["agent-1 wrote: Traceback (most recent"]),
        ("", "1", [f"{name}: {WAITING} is 1" for name in AGENTS]),
    ],
)
def test_trouble_of_an_agent_is_found(log: str, waiting: str, wrong: list[str]) -> None:
    """An error or a traceback in a log is trouble, and so is an announcement that waits."""
    assert Shown(log, waiting).trouble() == wrong


@pytest.mark.timeout(300)
def test_a_rolling_deploy_of_processes_loses_nothing() -> None:
    """The whole stack as processes: every app is killed after "drained", all is done once."""
    with processes() as whole:
        result, wrong = deploy(whole, OURS)
    assert (result.lost, result.begun_twice, result.done_twice, wrong) == ({}, 0, 0, [])
    assert [one.name for one in result.replaced] == list(NAMES)
    assert {kind.name for kind in EVERY_DOOR} <= {one.kind for one in result.sent}
    assert result.counter == result.accepted


@pytest.mark.timeout(300)
def test_the_deploy_sees_what_a_careless_one_loses() -> None:
    """Without the agents the same deploy loses requests and background work, and says so."""
    with processes() as whole:
        result, _ = deploy(whole, CARELESS)
    assert result.lost_in_all > 0
    assert result.counter < result.accepted


@pytest.mark.nightly
@pytest.mark.timeout(LIMIT)
def test_a_rolling_deploy_in_containers_loses_nothing() -> None:
    """The same in containers, with the README's commands typed as they stand there."""
    done = subprocess.run(
        [STACK / "test"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT - 10,
        check=False,
    )
    if done.returncode == NO_ENGINE:
        print(done.stdout, file=sys.stderr)
        pytest.skip(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout[-6000:]
