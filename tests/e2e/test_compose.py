"""The stack in containers: its files hold together, and a rolling deploy in it loses nothing."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from compose import local_images
from compose.deploy import APPS, NO_ENGINE

ROOT = Path(__file__).resolve().parents[2]
STACK = ROOT / "compose"
VARIABLE = re.compile(r"\$\{(\w+)(?::-[^}]*)?\}")
LIMIT = 1500  # seconds; the first time, base images are made


def _variables(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if "=" in line and line[0] != "#"]
    return dict(line.split("=", 1) for line in lines)


def test_every_image_is_a_variable() -> None:
    """Names and versions of images stand in the .env files, and nowhere else."""
    services = yaml.safe_load((STACK / "compose.yaml").read_text())["services"]
    assert [n for n, s in services.items() if not VARIABLE.fullmatch(s["image"])] == []
    froms = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert set(froms) == {"${PYTHON_IMAGE}", "${NGINX_IMAGE}", "agent"}


@pytest.mark.parametrize("name", [".env", "local.env"])
def test_every_variable_has_a_value(name: str) -> None:
    """What compose.yaml names without a default of its own is in both files."""
    used = VARIABLE.findall((STACK / "compose.yaml").read_text())
    assert set(used) - {"SHOP_VERSION"} == set(_variables(STACK / name))


def test_local_images_are_those_that_are_made() -> None:
    """local.env names the images that local_images makes."""
    base = {v for v in _variables(STACK / "local.env").values() if v.startswith("local/")}
    assert base == {local_images.PYTHON, local_images.ALL, "local/there-is-no-grafana-in-debian"}


def test_the_gateway_knows_the_apps_as_their_hosts_do() -> None:
    """Address, port and upstream file of each instance are the same on both sides."""
    gateway = tomllib.loads((STACK / "agents" / "gateway.toml").read_text())
    app = tomllib.loads((STACK / "agents" / "shop-1.toml").read_text())
    there = {each["name"]: (each["address"], each["port"]) for each in gateway["instance"]}
    assert tuple(there) == APPS
    here = app["instance"][0]
    assert there["shop-1"] == (here["address"], here["port"])
    services = yaml.safe_load((STACK / "compose.yaml").read_text())["services"]
    hosts = {f"shop-{n}": services[f"host-{n}"]["networks"]["stack"] for n in (1, 2, 3)}
    assert {name: at["ipv4_address"] for name, at in hosts.items()} == {
        name: address for name, (address, _) in there.items()
    }


@pytest.mark.timeout(LIMIT)
def test_a_rolling_deploy_in_containers_loses_nothing() -> None:
    """Every app is killed after "drained" and replaced under load; all work is done once."""
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
