"""That nobody uses a port: no listener, no connection, not even the memory of one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deregister_agent.host.clock import SystemClock
from deregister_agent.host.find_by_pid import PidFile, PidFinder
from deregister_agent.host.find_by_port import PortFinder
from deregister_agent.host.vacant_port import who_uses

HERE = "127.0.0.1"


def a_port() -> int:
    with socket.socket() as free:
        free.bind((HERE, 0))
        port: int = free.getsockname()[1]
        return port


def test_nobody_uses_it() -> None:
    """A port that nothing was ever bound to."""
    port = a_port()
    assert who_uses(HERE, port) == ""
    assert PortFinder(port, HERE, SystemClock()).look(None).nobody


@pytest.mark.parametrize("address", [HERE, "0.0.0.0"])
def test_somebody_listens(address: str) -> None:
    """On whichever address of the host."""
    with socket.create_server((address, 0)) as server:
        port = server.getsockname()[1]
        assert "LISTEN" in who_uses(HERE, port)
        assert not PortFinder(port, HERE, SystemClock()).look(None).nobody


def test_a_connection_outlives_its_listener() -> None:
    """An app that was told to stop closes its listener, and goes on with the work in hand."""
    with socket.create_server((HERE, 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection((HERE, port))
        taken, _ = server.accept()
    with client, taken:
        assert "ESTABLISHED" in who_uses(HERE, port)
        assert not PortFinder(port, HERE, SystemClock()).look(None).nobody
        taken.close()
    assert "TIME_WAIT" in who_uses(HERE, port)


ELSEWHERE = [("192.0.2.7", "no address of this host"), ("app.example", "cannot be told")]


@pytest.mark.parametrize(("address", "why"), ELSEWHERE)
def test_another_host_looks_like_nobody(address: str, why: str) -> None:
    """An app that cannot be seen is not nobody."""
    port = a_port()
    assert why in who_uses(address, port)
    seen = PortFinder(port, address, SystemClock()).look(None)
    assert not seen.nobody
    assert why in seen.note


def test_a_pid_file_that_is_not_there(tmp_path: Path) -> None:
    """It says nobody, and the port has to say so as well."""
    finder = PidFinder(PidFile(tmp_path / "app.pid"), SystemClock(), HERE, a_port())
    assert finder.look(None).nobody
    with socket.create_server((HERE, 0)) as server:
        port = server.getsockname()[1]
        finder = PidFinder(PidFile(tmp_path / "app.pid"), SystemClock(), HERE, port)
        assert not finder.look(None).nobody


BOUND_TO_ANY = """
import pathlib, socket
from deregister_agent.host.vacant_port import who_uses
pathlib.Path("/proc/sys/net/ipv4/ip_nonlocal_bind").write_text("1")
with socket.socket() as trial:
    trial.bind(("192.0.2.7", 0))
print(who_uses("192.0.2.7", 8080))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a network of its own")
def test_an_address_that_may_be_bound_to_need_not_be_of_this_host() -> None:
    """As on hosts whose addresses wander, with net.ipv4.ip_nonlocal_bind."""
    command = ["unshare", "--net", sys.executable, "-c", BOUND_TO_ANY]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "no address of this host" in done.stdout


def test_each_address_of_this_host_is_its_own() -> None:
    """Not the loopback alone: registries know an app by another one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_way:
        try:
            any_way.connect(("192.0.2.7", 9))
        except OSError:
            return  # a host without a way out has no other
        assert who_uses(any_way.getsockname()[0], a_port()) == ""
