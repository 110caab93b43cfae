"""Whole drains that somebody holds up: real servers, and clients that keep their connections."""

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deregister_agent.config.backends import find
from deregister_agent.engine.agent import Agent
from deregister_agent.engine.instance_loop import InstanceLoop
from deregister_agent.engine.knowledge import InstanceSetup
from deregister_agent.host.clock import SystemClock
from deregister_agent.host.peers import kept_peers
from deregister_agent.host.process_finder import ProbeMark
from deregister_agent.journal.journal import Journal
from deregister_agent.model import Instance, OnDeadline, Outcome, Policy, StopRequest
from deregister_agent.registries import file
from tests.apps.app_server import GUNICORN, UVICORN, Server, Start, servers
from tests.integration.test_app_drains import documented
from tests.integration.test_app_servers import FASTAPI, FLASK
from tests.loops import eventually, until

# Each sends on one kept connection, and writes down when each request was answered.
CLIENTS = {
    "requests": """
        import requests
        session = requests.Session()
        ask = lambda url: session.get(url, timeout=30).status_code
    """,
    "http.client": """
        import http.client, urllib.parse
        kept = http.client.HTTPConnection(urllib.parse.urlsplit(sys.argv[1]).netloc, timeout=30)
        def ask(url):
            kept.request("GET", urllib.parse.urlsplit(url).path)
            answer = kept.getresponse()
            answer.read()
            return answer.status
    """,
}
LOAD = """
import sys, time
{client}
while True:
    assert ask(sys.argv[1]) == 404
    print(time.time(), flush=True)
    time.sleep(0.1)
"""
SERVERS = {"gunicorn": (FLASK, (*GUNICORN, "shop:app")), "uvicorn": (FASTAPI, UVICORN)}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers that the test ends."""
    with servers(tmp_path) as run:
        yield run


@contextmanager
def client(name: str, server: Server, path: str) -> Iterator[Path]:
    """Let a client of that name send requests over one connection; yield its log."""
    program = LOAD.format(client=textwrap.dedent(CLIENTS[name]))
    log = server.folder / f"{name}.log"
    with (
        log.open("w") as out,
        subprocess.Popen(
            [sys.executable, "-c", program, f"http://127.0.0.1:{server.port}{path}"], stdout=out
        ) as process,
    ):
        try:
            eventually(lambda: log.read_text().count("\n") > 2, "answers")
            yield log
        finally:
            process.kill()


@contextmanager
def agent_of(folder: Path, server: Server, **policy: object) -> Iterator[Agent]:
    """Run an agent of an instance that is in a file of targets, and counts its own work."""
    instance = Instance("web", "web", "127.0.0.1", server.port)
    probes = find("probes", "http_json")
    table = {"kind": "http_json", "url": f"http://127.0.0.1:{server.port}/-/work"} | documented()
    probe = probes.build(probes.Options.model_validate(table), instance)
    path = folder / "targets.json"
    path.write_text(f'[{{"targets": ["127.0.0.1:{server.port}"]}}]')
    listed = file.build(file.Options(kind="file", path=path), instance)
    clock = SystemClock()
    rules = Policy(**{"quiet": 0.5, "min_others": 0} | policy)  # type: ignore[arg-type]
    setup = InstanceSetup(
        instance, rules, [listed], [probe], ProbeMark(clock), peers=lambda: kept_peers(server.port)
    )
    agent = Agent(Journal(folder / "journal.db", clock), clock, [(setup, {})])
    agent.start()
    try:
        yield agent
    finally:
        agent.stop()


def detail(agent: Agent, loop: InstanceLoop, kind: str) -> dict[str, object]:
    found = agent.journal.drain("web", loop.drain.id)
    assert found is not None
    (event,) = [one for one in found[1] if one.kind == kind]
    return {"at": event.wall, **event.detail}


ARRIVES = re.compile(r"work keeps arriving .*: (\d+) in the last 5 s, (\d+) in the last (\d+) s")


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("name", CLIENTS)
def test_whoever_goes_on_sending_stands_in_the_history(
    start: Start, tmp_path: Path, server: str, name: str
) -> None:
    """By address and program, and with the count of requests that the client itself has counted."""
    app, command = SERVERS[server]
    shop = start(app, *command)
    shop.until(lambda: shop.ask()[0] == 200)
    with agent_of(tmp_path, shop, deadline=9.0, on_deadline=OnDeadline.HOLD) as agent:
        loop = agent.instances["web"]
        with client(name, shop, "/nowhere") as log:
            loop.stop_traffic(StopRequest())
            drain = until(loop, lambda drain: drain.outcome is not None, "an outcome")
        assert drain.outcome is Outcome.EXPIRED
        draining = detail(agent, loop, "draining")
        expired = detail(agent, loop, "expired")
    blocking = expired["blocking"]
    assert isinstance(blocking, list)
    (arrives,) = [found for line in blocking if (found := ARRIVES.match(line))]
    told, real = int(arrives[2]), between(log, draining["at"], expired["at"])
    assert abs(told - real) <= max(2, real / 10), (told, real)
    (peer,) = [line for line in blocking if " of 127.0.0.1" in line]
    assert peer.startswith("1 connection of 127.0.0.1 (python")


def between(log: Path, after: object, before: object) -> int:
    """Return how many requests were answered between two moments."""
    assert isinstance(after, float)
    assert isinstance(before, float)
    return sum(after < float(line) <= before for line in log.read_text().split())


def test_a_connection_that_only_waits_is_told_from_one_at_work(
    start: Start, tmp_path: Path
) -> None:
    """One has sent a request and waits, another was never used, and both are of others."""
    shop = start(FLASK, *GUNICORN, "shop:app")
    shop.until(lambda: shop.ask()[0] == 200)
    slow = (
        "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); "
        "s.sendall(sys.argv[2].encode()); input()"
    )
    request = "GET /slow HTTP/1.1\r\nhost: a\r\n\r\n"
    children = [
        subprocess.Popen([sys.executable, "-c", slow, str(shop.port), sent], stdin=subprocess.PIPE)
        for sent in (request, "")
    ]
    try:
        shop.until_in_flight(requests=1)
        with agent_of(tmp_path, shop, deadline=60.0) as agent:
            loop = agent.instances["web"]
            loop.stop_traffic(StopRequest())

            def told() -> bool:
                said = " ".join(loop.status().blocking)
                return "1 waiting for an answer" in said and "2 connections of 127.0.0.1" in said

            eventually(told, "who waits")
            assert not [line for line in loop.status().blocking if line.startswith("work")]
            shop.release()
            until(loop, lambda drain: drain.outcome is Outcome.DRAINED, "drained")
    finally:
        for child in children:
            child.communicate(b"\n")
