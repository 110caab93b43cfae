"""The command line where none of the optional libraries is installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deregister_agent.demo.stage import Apps, config_text, free_ports, list_in_file, running_agent

LIMIT = 60.0
HIDING = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"celery", "grpc", "grpc_channelz", "grpc_health", "redis"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""
INSTANCE = """
[agent]
journal = "{folder}/journal.db"
[[instance]]
name = "orders-1"
service = "orders"
port = {port}
deadline = 3
[[instance.registry]]
kind = "file"
path = "{folder}/targets.json"
[[instance.probe]]
kind = "http_json"
url = "http://127.0.0.1:{port}/-/work"
in_flight = {{ requests = "/requests" }}
"""


@pytest.fixture(autouse=True)
def _nothing_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the optional libraries from every process that the test starts."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HIDING)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def run(*args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deregister_agent", *args],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def configuration(folder: Path) -> str:
    """Write a configuration whose app does not answer; return its path."""
    path = folder / "config.toml"
    (port,) = free_ports(1)
    targets = [f"127.0.0.1:{port}", "127.0.0.1:1"]
    (folder / "targets.json").write_text(json.dumps([{"targets": targets}]))
    path.write_text(INSTANCE.format(folder=folder, port=port))
    return str(path)


def test_the_schema_describes_every_kind() -> None:
    """A kind whose library is missing is described like all others."""
    done = run("check-config", "--schema")
    assert done.returncode == 0, done.stderr
    described = json.dumps(json.loads(done.stdout))
    assert '"const": "http_json"' in described
    assert '"const": "grpc"' in described
    assert '"server_name"' in described


def test_a_configuration_without_them_is_good(tmp_path: Path) -> None:
    """Only the backends that are configured are imported."""
    done = run("--config", configuration(tmp_path), "check-config")
    assert done.returncode == 0, done.stderr


def test_a_drain_runs_in_the_process_of_the_command(tmp_path: Path) -> None:
    """The app does not answer, so the drain expires."""
    done = run("--config", configuration(tmp_path), "drain", "--standalone")
    assert done.returncode == 3, done.stderr


def test_an_agent_serves(tmp_path: Path) -> None:
    """It starts, answers the commands that ask it, and stops."""
    apps = Apps(["shop-1"])
    tables = list_in_file(tmp_path / "shop.json", apps)
    with running_agent(tmp_path, config_text(tmp_path, apps, tables, quiet=1.0)):
        for command in ("status", "history"):
            done = run("--url", f"unix:{tmp_path}/agent.sock", command)
            assert done.returncode == 0, done.stderr


def test_the_demonstration_can_be_loaded() -> None:
    """Its app and its view import nothing optional."""
    modules = "import deregister_agent.demo.app, deregister_agent.demo.show"
    subprocess.run([sys.executable, "-c", modules], timeout=LIMIT, check=True)
