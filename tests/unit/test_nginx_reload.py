"""Nginx's commands: what counts as their failure, and what they are not given."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from deregister_agent.host import pids
from deregister_agent.registries.nginx.processes import NginxError
from deregister_agent.registries.nginx.reload import run
from tests.servers.child import wait_until

LONG = 30.0


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo first; echo second >&2; exit 3", r"failed \(3\): first; second"),
        ("echo 'nginx: [emerg] bind() failed' >&2", r"failed \(0\): nginx: \[emerg\] bind"),
        ("kill -KILL $$", r"failed \(-9\)"),
        ("head -c 2000000 /dev/zero", "printed more than"),
    ],
)
def test_failures(script: str, why: str) -> None:
    """An exit status but 0, an [emerg] whatever the status, and output without an end."""
    with pytest.raises(NginxError, match=why):
        run(("sh", "-c", script), LONG)


def test_no_such_program(tmp_path: Path) -> None:
    """The command that could not be run is named."""
    with pytest.raises(NginxError, match=r"`.*/nowhere -t`: it cannot be started"):
        run((str(tmp_path / "nowhere"), "-t"), LONG)


def test_many_warnings_are_no_failure() -> None:
    """A large configuration may have more to say than a pipe holds."""
    run(("sh", "-c", "yes 'nginx: [warn] conflicting server name' | head -n 9000 >&2"), LONG)


def test_a_command_is_not_given_the_secrets_of_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the agent's environment it gets what every program needs, and nothing else."""
    monkeypatch.setenv("GATEWAY_TOKEN", "a-secret")
    nginx, seen = tmp_path / "nginx", tmp_path / "seen"
    nginx.write_text(f"#!/bin/sh\nenv > {seen}\n")
    nginx.chmod(0o755)
    run((str(nginx), "-s", "reload"), LONG)
    assert "PATH=" in seen.read_text()
    assert "a-secret" not in seen.read_text()


def test_what_a_command_has_started_is_ended_at_the_limit(tmp_path: Path) -> None:
    """A wrapper that hangs does not leave its own children behind."""
    child = tmp_path / "child"
    script = f"sleep 1000 & echo $! > {child}.new; mv {child}.new {child}; wait"
    with pytest.raises(NginxError, match="no end within"):
        run(("sh", "-c", script), 1.0)
    started = int(child.read_text())
    try:
        wait_until(lambda: pids.find(started) is None, "the child has gone")
    finally:
        with suppress(ProcessLookupError):
            os.kill(started, signal.SIGKILL)
