"""What needs an extra says so, and nothing else needs one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deregister_agent.config.backends import built_in
from deregister_agent.errors import ConfigError
from deregister_agent.model import Instance
from deregister_agent.probes.grpc import Options, build

EXTRAS = ("celery", "google.protobuf", "grpc", "grpc_channelz", "grpc_health", "pika", "redis")
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS!r}))\n"
MAIN = "from deregister_agent.cli.main import main\nsys.argv[0] = 'deregister-agent'\nmain()"
GRPC = """
[[instance]]
name = "orders-1"
service = "orders"
address = "127.0.0.1"
port = 8080

[[instance.registry]]
kind = "file"
path = "/nowhere/targets.json"

[[instance.probe]]
kind = "grpc"
"""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in which no extra is installed."""
    command = [sys.executable, "-c", WITHOUT + program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_schema_is_printed_without_any_extra() -> None:
    """Every backend's keys can be described where the library of none is installed."""
    done = run(MAIN, "check-config", "--schema")
    assert done.returncode == 0, done.stderr
    for kind in built_in("probes"):
        assert json.dumps(kind) in done.stdout


def test_no_options_load_what_an_extra_brings() -> None:
    """Where the extras are installed, only the backends in use load them."""
    program = f"""
import sys
from deregister_agent.config.load import config_schema
config_schema()
print(sorted(set({EXTRAS!r}) & set(sys.modules)))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_backend_says_which_extra_it_needs(tmp_path: Path) -> None:
    """Where the extra is missing, check-config says what to install."""
    config = tmp_path / "agent.toml"
    config.write_text(GRPC)
    done = run(MAIN, "--config", str(config), "check-config")
    assert done.returncode != 0
    needed = "grpc: kind: gRPC needs an extra: pip install 'deregister-agent[grpc]'"
    assert needed in done.stderr, done.stderr


def test_part_of_an_extra_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library alone, which other packages bring as well, does not do."""
    monkeypatch.setitem(sys.modules, "grpc_channelz", None)
    with pytest.raises(ConfigError, match=r"deregister-agent\[grpc\]"):
        build(Options(kind="grpc"), Instance("orders-1", "orders", "127.0.0.1", 80))
