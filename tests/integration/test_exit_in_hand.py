"""An exit with work in hand: the real agent beside servers whose work outlives their process."""

import http.client
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.integration.presence_stage import Host, TargetFile
from tests.integration.process_stage import FORKING, PYTHON, WSGI, Started, free_port, is_alive
from tests.loops import eventually

TCP = "[[instance.probe]]\nkind = 'tcp'\n"


def _add(host: Host, port: int, process: str, probe: str = TCP) -> None:
    file = TargetFile(host.root / "targets.json", f"127.0.0.1:{port}", "b:1")
    table = file.table(f"target = '127.0.0.1:{port}'")
    host.add("app", table, probe=probe, port=port, process=process, quiet=0.3)


def _ask(stack: ExitStack, port: int) -> socket.socket:
    """Send a request that is not answered yet."""

    def connects() -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", port)) == 0

    eventually(connects, "the app listens")
    client = stack.enter_context(socket.create_connection(("127.0.0.1", port), 60))
    client.sendall(b"GET /slow HTTP/1.1\r\nHost: app\r\n\r\n")
    return client


def _answer(client: socket.socket) -> int:
    answer = http.client.HTTPResponse(client)
    answer.begin()
    return answer.status


@contextmanager
def _host(root: Path) -> Iterator[tuple[Host, ExitStack]]:
    with ExitStack() as stack:
        host = Host(root)
        stack.callback(host.apps.close)
        yield host, stack


def _in_flight(host: Host) -> bool:
    return any("in flight" in line for line in host.get("app").body["blocking"])


def _judge(host: Host, client: socket.socket, sign: Path) -> None:
    """Expect no "drained" after the exit while the request is in hand, and one after it."""
    eventually(lambda: host.get("app").body["process"]["exited"], "the exit is known")
    for _ in range(30):
        answer = host.get("app", "traffic-drained", wait=0.1)
        assert answer.status == 503, answer.body
        assert _in_flight(host), answer.body
    sign.touch()
    assert _answer(client) == 200
    eventually(lambda: host.get("app", "traffic-drained").status == 200, "it is drained")
    assert host.last("app")["outcome"] in {"app-exited", "drained"}


@pytest.mark.parametrize("own_session", [False, True])
def test_a_server_that_forks_for_each_connection(tmp_path: Path, own_session: bool) -> None:
    """Its parent is killed while a child has a request in hand."""
    with _host(tmp_path) as (host, stack):
        port, sign = free_port(), tmp_path / "sign"
        code = FORKING.format(own_session=own_session)
        app = Started(stack, [PYTHON, "-c", code, str(port), str(sign)])
        stack.callback(sign.touch)
        _add(host, port, 'process = { by = "port" }')
        client = _ask(stack, port)
        with host.agent():
            eventually(lambda: host.get("app").body["process"]["pids"], "the app is seen")
            assert host.post("app", "stop-traffic").status == 202
            eventually(lambda: host.phase("app") == "draining", "it drains")
            app.kill()
            _judge(host, client, sign)


@pytest.mark.parametrize("by", ["pid_file", "port"])
def test_a_master_that_is_killed_while_its_worker_works(tmp_path: Path, by: str) -> None:
    """gunicorn: the worker answers its client, and ends after that."""
    with _host(tmp_path) as (host, stack):
        port, sign, pid_file = free_port(), tmp_path / "sign", tmp_path / "app.pid"
        (tmp_path / "slow.py").write_text(WSGI)
        asked = tmp_path / "asked"
        command = [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}", "-p", str(pid_file)]
        app = Started(
            stack,
            [*command, "--chdir", str(tmp_path), "--timeout", "600", "slow:app"],
            SIGN=str(sign),
            ASKED=str(asked),
        )
        stack.callback(sign.touch)
        process = (
            f'{{ by = "pid_file", file = "{pid_file}" }}' if by == "pid_file" else '{ by = "port" }'
        )
        _add(host, port, f"process = {process}")
        client = _ask(stack, port)
        eventually(asked.exists, "the worker has the request")
        with host.agent():
            eventually(lambda: host.get("app").body["process"]["pids"], "the app is seen")
            assert host.post("app", "stop-traffic").status == 202
            eventually(lambda: host.phase("app") == "draining", "it drains")
            app.kill()
            if by == "pid_file":
                _judge(host, client, sign)
                return
            for _ in range(20):
                assert host.get("app", "traffic-drained", wait=0.1).status == 503
            sign.touch()
            assert _answer(client) == 200
            eventually(lambda: host.get("app", "traffic-drained").status == 200, "it is drained")


CGROUPS = Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup")


def _new_cgroup(stack: ExitStack, name: str) -> Path:
    """Make a cgroup as systemd does for a unit; skip where this user may not."""
    for root in CGROUPS:
        if (root / "cgroup.procs").is_file():
            folder = root / name
            try:
                folder.mkdir()
            except OSError as e:
                pytest.skip(f"no cgroup can be made here: {e}")
            stack.callback(folder.rmdir)
            return folder
    pytest.skip("no hierarchy of cgroups is mounted")


def test_what_a_unit_leaves_behind_is_part_of_it(tmp_path: Path) -> None:
    """KillMode=process: the unit is inactive, and a child in its cgroup has a request in hand."""
    with _host(tmp_path) as (host, stack):
        name = f"orders-{os.getpid()}.service"
        folder = _new_cgroup(stack, name)
        port, sign, says = free_port(), tmp_path / "sign", tmp_path / "says"
        systemctl = tmp_path / "systemctl"
        systemctl.write_text(f"#!/bin/sh\ncat {says}\n")
        systemctl.chmod(0o755)
        enter = f'echo $$ > {folder}/cgroup.procs; exec "$@"'
        code = FORKING.format(own_session=True)
        python = [PYTHON, "-c", code, str(port), str(sign)]
        app = Started(stack, ["sh", "-c", enter, "sh", *python])
        stack.callback(lambda: eventually(lambda: not _members(folder), "nobody is left"))
        stack.callback(sign.touch)
        stack.callback(app.end_group)
        head = f"LoadState=loaded\nControlGroup=/{name}\n"
        says.write_text(f"{head}MainPID={app.pid}\nActiveState=active\n")
        by = f'{{ by = "systemd_unit", unit = "{name}", systemctl = ["{systemctl}"] }}'
        page = "[[instance.probe]]\nkind = 'http_json'\nurl = 'http://127.0.0.1:9/work'\n"
        page += "in_flight = {{ requests = '/n' }}\n"
        _add(host, port, f"process = {by}", probe=page)
        client = _ask(stack, port)
        eventually(lambda: len(_members(folder)) > 1, "a child has the request")
        with host.agent():
            eventually(lambda: host.get("app").body["process"]["pids"], "the app is seen")
            assert host.post("app", "stop-traffic").status == 202
            eventually(lambda: host.phase("app") == "draining", "it drains")
            app.kill()
            says.write_text("LoadState=loaded\nControlGroup=\nMainPID=0\nActiveState=inactive\n")
            (child,) = _members(folder)
            eventually(
                lambda: f"pid {child}" in str(host.get("app").body["blocking"]), "it is told"
            )
            assert host.get("app", "traffic-drained", wait=1.0).status == 503
            sign.touch()
            assert _answer(client) == 200
            eventually(lambda: host.get("app", "traffic-drained").status == 200, "it is drained")
            assert host.last("app")["outcome"] == "app-exited"
            assert not is_alive(child)


def _members(folder: Path) -> list[int]:
    return [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
