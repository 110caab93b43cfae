"""The ``health`` registry: with balancers that poll at their own pace and address."""

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from deregister_agent.cli.client import path_of
from deregister_agent.demo.stage import Apps, config_text, free_ports, running_agent
from deregister_agent.errors import ConfigError, RegistryError
from deregister_agent.model import Instance, Listing, Look
from deregister_agent.registries.health.registry import OURS, Health, Options, build
from tests.servers.admin import Asked, Said, serving
from tests.servers.child import wait_until
from tests.servers.poller import Balancer

ORDERS = Instance("orders-1", "orders", "127.0.0.1", 8080)


class App:
    """An app whose health check says what the test wants, when it wants."""

    def __init__(self) -> None:
        self.said: Said = (200, "application/json", '{"status": "UP"}')
        self.asked: list[Asked] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def answer(self, asked: Asked) -> Said:
        self.asked.append(asked)
        said = self.said
        self.may_answer.wait(20)
        return said


class Stage:
    """An app, a port to poll, and the registry, which may be made anew."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.app = App()
        self.url = stack.enter_context(serving(self.app))
        self.port = free_ports(1)[0]
        self.marker = folder / "orders-1.withdrawn"
        self._stack = stack

    def registry(self, **more: Any) -> Health:
        table: dict[str, Any] = {
            "kind": "health",
            "listen": f"127.0.0.1:{self.port}",
            "path": "/up",
            "app": f"{self.url}/healthz?full=1",
            "polls": 2,
            "every": 0.5,
            "marker": str(self.marker),
        }
        made = build(Options.model_validate_json(json.dumps(table | more)), ORDERS)
        self._stack.callback(made.close)
        assert made.lists()
        return made

    def ask(self, method: str = "GET", path: str = "/up") -> tuple[int, str, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, str(answer.headers["Content-Type"]), answer.read().decode()
        finally:
            connection.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(tmp_path, stack)


def test_every_balancer_has_turned_away(stage: Stage) -> None:
    """Withdrawn means that the slowest balancer has seen it as often as it takes; so restored."""
    one = stage.registry(polls=3, every=1.0)
    with (
        Balancer(stage.port, "127.0.0.5", every=0.02, threshold=3) as quick,
        Balancer(stage.port, "127.0.0.6", every=0.4, threshold=3) as slow,
    ):
        wait_until(lambda: len(slow.answers) > 2, "both poll")
        one.withdraw()
        assert not quick.up
        assert not slow.up
        assert not one.lists()
        one.restore(one.snapshot())
        assert quick.up
        assert slow.up


def test_it_stays_out(stage: Stage) -> None:
    """Polls that come in all the time do not make it listed for a moment."""
    one = stage.registry()
    with Balancer(stage.port, "127.0.0.5", every=0.001) as balancer:
        wait_until(lambda: balancer.answers, "it polls")
        one.withdraw()
        assert not any(one.lists() for _ in range(300))


def test_not_told_often_enough(stage: Stage) -> None:
    """The error says who has been told how often."""
    one = stage.registry(polls=50, every=20.0, timeout=0.3)
    with Balancer(stage.port, "127.0.0.5") as balancer:
        wait_until(lambda: balancer.answers, "it polls")
        with pytest.raises(RegistryError, match=r"127.0.0.5 was answered out \d+ of 50 times"):
            one.withdraw()
        assert one.lists()


def test_the_agent_is_started_again(stage: Stage) -> None:
    """The marker outlives it: 503 at once, and nothing is known until all had the time to poll."""
    one = stage.registry(every=3.0)
    with Balancer(stage.port, "127.0.0.5") as balancer:
        wait_until(lambda: balancer.answers, "it polls")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(one.withdraw).result()
        one.close()
        again = stage.registry(every=3.0)
        seen = len(balancer.answers)
        wait_until(lambda: len(balancer.answers) > seen + 4, "it goes on polling")
        assert 200 not in balancer.answers[seen:]
        assert again.lists()
        wait_until(lambda: not again.lists(), "all had the time")


def test_nobody_polls(stage: Stage) -> None:
    """That is not known to be withdrawn, unless the options say so."""
    one = stage.registry(every=0.2, timeout=1.0)
    with pytest.raises(RegistryError, match=r"nobody polls .*:\d+/up, so nobody has been told"):
        one.withdraw()
    with pytest.raises(RegistryError, match="nobody polls"):
        one.lists()
    one.close()
    again = stage.registry(every=0.2, nobody="withdrawn")
    again.withdraw()
    assert not again.lists()


def test_nobody_has_seen_it_come_back(stage: Stage) -> None:
    """Restored without anybody who polls is not restored, as far as anybody knows."""
    one = stage.registry(every=0.2, timeout=0.6)
    stage.marker.write_text(OURS)
    with pytest.raises(RegistryError, match="cannot restore orders-1: nobody polls"):
        one.restore(None)
    assert stage.ask()[0] == 200


def test_a_balancer_that_is_gone(stage: Stage) -> None:
    """It is waited for while it may still be there, and then no longer."""
    one = stage.registry(every=0.3, timeout=10.0)
    with Balancer(stage.port, "127.0.0.5"):
        with Balancer(stage.port, "127.0.0.6") as gone:
            wait_until(lambda: gone.answers, "it polls")
        began = time.monotonic()
        one.withdraw()
        assert time.monotonic() - began > 0.5


def test_strangers_do_not_count(stage: Stage) -> None:
    """With pollers given, only polls from there are counted and waited for."""
    one = stage.registry(pollers=["127.0.0.5/32"], every=20.0, timeout=0.5)
    for _ in range(5):
        assert stage.ask()[0] == 200
    one._polls._began -= 60
    with pytest.raises(RegistryError, match="nobody polls"):
        one.withdraw()
    for _ in range(5):
        assert stage.ask()[0] == 503
    with pytest.raises(RegistryError, match="nobody polls"):
        one.lists()
    with Balancer(stage.port, "127.0.0.5"):
        wait_until(lambda: not _listed(one), "it has been told")


def _listed(one: Health) -> bool:
    try:
        return one.lists()
    except RegistryError:
        return True


def test_withdrawn_while_the_app_is_asked(stage: Stage) -> None:
    """A poll that has begun before is answered 503 as well, and nothing is proven until it is."""
    one = stage.registry(app_timeout=20.0, every=0.1, timeout=0.4)
    assert stage.ask()[0] == 200
    stage.app.may_answer.clear()
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(stage.ask)
        wait_until(lambda: len(stage.app.asked) > 1, "the app is asked")
        with pytest.raises(RegistryError, match=r"out 0 of 2|is being answered|nobody polls"):
            one.withdraw()
        assert [stage.ask()[0] for _ in range(3)] == [503] * 3
        assert one.lists()
        stage.app.may_answer.set()
        assert poll.result(20)[0] == 503
    assert not one.lists()


def test_the_app_speaks_for_itself(stage: Stage) -> None:
    """Its status, type and body are passed on; one that does not answer is unhealthy."""
    stage.registry(app_timeout=0.2)
    assert stage.ask() == (200, "application/json", '{"status": "UP"}')
    assert stage.ask("HEAD") == (200, "application/json", "")
    assert stage.app.asked[0].parts == ("healthz",)
    assert stage.app.asked[0].query == {"full": "1"}
    stage.app.said = (418, "text/plain", "short and stout")
    assert stage.ask() == (418, "text/plain", "short and stout")
    stage.app.may_answer.clear()
    assert stage.ask() == (503, "text/plain", "no answer from the app\n")
    stage.app.may_answer.set()


def test_restore_waits_for_a_healthy_app(stage: Stage) -> None:
    """The balancers must have seen it healthy, or it is not restored."""
    one = stage.registry(timeout=2.0)
    with Balancer(stage.port, "127.0.0.5", every=0.02) as balancer:
        wait_until(lambda: balancer.answers, "it polls")
        one.withdraw()
        stage.app.said = (500, "text/plain", "starting")
        with pytest.raises(RegistryError, match=r"127.0.0.5 was answered healthy 0 of 2 times"):
            one.restore(None)
        stage.app.said = (200, "text/plain", "ok")
        one.restore(None)
        assert balancer.up


def test_a_marker_of_somebody_else(stage: Stage) -> None:
    """What an operator has put there takes the instance out, and stays."""
    one = stage.registry()
    stage.marker.write_text("disk is being replaced\n")
    assert stage.ask()[0] == 503
    with Balancer(stage.port, "127.0.0.5", every=0.02) as balancer:
        wait_until(lambda: balancer.answers, "it polls")
        one.withdraw()
        assert stage.marker.read_text() != OURS
        with pytest.raises(RegistryError, match=r"is not ours.*remove it when it may go on"):
            one.restore(one.snapshot())
        look = one.look()
        assert look.listing is Listing.OUT
        assert look.out_by == f"{stage.marker} is not ours: 'disk is being replaced'"


def test_what_a_look_shows(stage: Stage) -> None:
    """Listed until everybody has been told, then out by our own hand; absent if nobody polls."""
    one = stage.registry()
    with Balancer(stage.port, "127.0.0.5", every=0.02) as balancer:
        wait_until(lambda: balancer.answers, "it polls")
        stage.marker.write_text(OURS)
        wait_until(lambda: not one.look().listed, "it has been told")
        assert one.look() == Look(Listing.OUT)
        assert list(one.look_alikes()) == []
    one.close()
    alone = stage.registry(every=0.2, nobody="withdrawn")
    wait_until(lambda: alone.look() == Look(Listing.ABSENT), "it has seen that nobody polls")


def test_whoever_lets_nobody_poll_lets_it_be_absent() -> None:
    """Nobody = "withdrawn" says so too, unless absent is given."""
    table = {"kind": "health", "listen": "127.0.0.1:8651", "app": "http://127.0.0.1:8080/"}
    assert Options.read_table(table).absent == "refuse"
    assert Options.read_table(table | {"nobody": "withdrawn"}).absent == "withdrawn"
    given = table | {"nobody": "withdrawn", "absent": "refuse"}
    assert Options.read_table(given).absent == "refuse"


def test_a_marker_that_cannot_be_looked_at(stage: Stage) -> None:
    """It is an error, and the answers stay what they were."""
    one = stage.registry()
    assert stage.ask()[0] == 200
    one._marker = stage.marker / "is" / "no-folder"
    stage.marker.write_text("")
    with pytest.raises(RegistryError, match="Not a directory"):
        one.lists()
    assert stage.ask()[0] == 200
    one._was_out = True
    assert stage.ask()[0] == 503


def test_nothing_else_is_answered(stage: Stage) -> None:
    """Another path, another method and what is no HTTP get nowhere, and are not counted."""
    one = stage.registry()
    assert stage.ask(path="/v1/instances")[0] == 404
    assert stage.ask("POST")[0] == 405
    for sent in (b"\0" * 100 + b"\r\n\r\n", b"GET /up HTTP/1.1\r\nX: " + b"x" * 9000):
        with socket.create_connection(("127.0.0.1", stage.port), timeout=10) as client:
            client.sendall(sent)
            answer = client.recv(100)
            assert not answer or b" 404 " in answer
    assert not one._polls.anybody()
    assert stage.app.asked == []


def test_silent_clients_are_in_nobodys_way(stage: Stage) -> None:
    """Connections that say nothing do not keep a balancer from its answer."""
    stage.registry()
    with ExitStack() as stack:
        for _ in range(100):
            address = ("127.0.0.1", stage.port)
            stack.enter_context(socket.create_connection(address, timeout=10))
        assert stage.ask()[0] == 200


def test_the_port_is_taken(stage: Stage) -> None:
    """The error says so until it is free, and then it answers."""
    with (
        socket.create_server(("127.0.0.1", stage.port)),
        pytest.raises(RegistryError, match=r"cannot listen on .*Address already in use.*ss -l"),
    ):
        stage.registry()
    stage.registry()
    assert stage.ask()[0] == 200


@pytest.mark.parametrize(
    "more", [{"listen": "unix:/run/x.sock"}, {"path": "up"}, {"path": "/up?a=1"}, {"polls": 0}]
)
def test_options_that_are_refused(stage: Stage, more: dict[str, Any]) -> None:
    """What could never be polled is refused when the configuration is read."""
    with pytest.raises(ValidationError):
        stage.registry(**more)


def test_an_app_that_is_no_url(stage: Stage) -> None:
    """It is refused when the registry is made, which opens no port."""
    with pytest.raises(ConfigError, match="app: "):
        stage.registry(app="healthz")


TABLE = """[[instance.registry]]
kind = "health"
listen = "127.0.0.1:{port}"
path = "/up"
app = "http://127.0.0.1:{app}/healthz"
polls = 3
every = 1
marker = "{folder}/shop-1.withdrawn"
"""


def test_a_whole_drain(tmp_path: Path) -> None:
    """An agent is started again in mid-drain: "drained" comes when the balancer has turned away."""
    apps = Apps(["shop-1"])
    port = free_ports(1)[0]
    table = TABLE.format(port=port, app=apps.ports["shop-1"], folder=tmp_path)
    config = config_text(tmp_path, apps, {"shop-1": table}, quiet=0.2)
    try:
        apps.start("shop-1")
        with Balancer(port, "127.0.0.5", threshold=3) as balancer:
            with running_agent(tmp_path, config) as agent:
                _checked(tmp_path)
                wait_until(lambda: 200 in balancer.answers[-1:], "it polls")
                assert agent.post(path_of("shop-1", "stop-traffic"), {}).status == 202
                wait_until(lambda: 503 in balancer.answers[-1:], "it is told")
            with running_agent(tmp_path, config) as agent:
                assert agent.get(path_of("shop-1", "traffic-drained"), wait=60).status == 200
                assert not balancer.up
                apps.replace("shop-1")
                assert agent.post(path_of("shop-1", "start-traffic"), {}).status == 202
                assert agent.get(path_of("shop-1", "traffic-started"), wait=60).status == 200
                assert balancer.up
    finally:
        apps.close()
    assert "ERROR" not in (tmp_path / "agent.log").read_text()


def _checked(folder: Path) -> None:
    """Check the configuration beside the running agent: the port is left alone."""
    command = [sys.executable, "-m", "deregister_agent", "--config", f"{folder}/agent.toml"]
    subprocess.run([*command, "check-config"], check=True, timeout=60, capture_output=True)
