"""A FIFO where a file is expected: it is told, nothing waits for it, and the drain goes on."""

import os
from pathlib import Path

import pytest

from deregister_agent.cli.follow import ExitCode
from deregister_agent.host.socket_holders import holders
from deregister_agent.host.sockets import listeners
from tests.integration.presence_stage import Host, listed_host
from tests.loops import eventually

FIFO = "a FIFO, and no plain file"


def said(host: Host) -> str:
    """Return all that the status says of the instance."""
    return str(host.get("orders-1").body)


def pid_on(port: int) -> int:
    """Return who listens on a port."""
    ((process,),) = holders([one.inode for one in listeners(port)]).values()
    return process[0]


def become_fifo(path: Path) -> None:
    """Put a FIFO in the place of a file; nobody ever writes into it."""
    path.unlink()
    os.mkfifo(path)


def test_target_file(tmp_path: Path) -> None:
    """The agent answers, and goes on as soon as the file is back, in mid-drain too."""
    with listed_host(tmp_path) as host:
        targets = tmp_path / "targets.json"
        content = targets.read_bytes()
        with host.agent():
            eventually(lambda: host.get("orders-1").body["registries"][0]["listed"], "listed")
            become_fifo(targets)
            host.post("orders-1", "stop-traffic")
            eventually(lambda: FIFO in said(host), "what is wrong")
            targets.unlink()
            targets.write_bytes(content)
            done = host.run("drain", "orders-1", "--wait")
            assert done.returncode == ExitCode.DONE, done
            content = targets.read_bytes()
            become_fifo(targets)
            host.post("orders-1", "start-traffic")
            eventually(lambda: FIFO in said(host), "what is wrong")
            targets.unlink()
            targets.write_bytes(content)
            assert host.run("restore", "orders-1", "--wait").returncode == ExitCode.DONE


@pytest.mark.parametrize("at", ["before", "after"])
def test_pid_file(tmp_path: Path, at: str) -> None:
    """Which process is the app is not known then; a drain that does not need it ends."""
    pid_file = tmp_path / "app.pid"
    process = f'process = {{ by = "pid_file", file = "{pid_file}" }}'
    with listed_host(tmp_path, process=process) as host:
        pid_file.write_text(f"{pid_on(host.port)}\n")
        if at == "before":
            become_fifo(pid_file)
        with host.agent():
            eventually(lambda: host.get("orders-1").body["registries"][0]["listed"], "listed")
            if at == "after":
                become_fifo(pid_file)
            done = host.run("drain", "orders-1", "--wait")
            assert done.returncode == ExitCode.DONE, done
            if at == "before":  # else the process that was read from it before lives on
                eventually(lambda: FIFO in said(host), "what is wrong")


def test_token_of_a_registry(tmp_path: Path) -> None:
    """The registry cannot be asked, and says why; the agent answers at once."""
    os.mkfifo(tmp_path / "secret")
    consul = (
        f'kind = "consul"\nurl = "http://127.0.0.1:9"\ntoken = {{ file = "{tmp_path}/secret" }}'
    )
    with listed_host(tmp_path, consul) as host, host.agent():
        eventually(lambda: FIFO in said(host), "what is wrong")
        assert host.run("doctor", "orders-1").returncode == ExitCode.UNFIT
