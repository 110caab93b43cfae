"""In service is what registries show after the question: what they lost is told and put back."""

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deregister_agent.cli.follow import ExitCode
from tests.integration.presence_stage import PROBE, READY, Host, TargetFile
from tests.integration.service_stage import Fleet, is_served, running_fleet
from tests.loops import eventually
from tests.servers.child import Child

ASKED = 0.5  # seconds for which it is asked again and again after the loss, from at once


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running_fleet(tmp_path_factory.mktemp("host")) as made:
        yield made


def lose(fleet: Fleet, name: str) -> object:
    """Lose its registration while it serves; fail if that is ever called serving."""
    assert is_served(fleet.host, name)
    before = fleet.served[name].truth()
    fleet.served[name].lose()
    is_never_called_served(fleet.host, name)
    return before


def is_never_called_served(host: Host, name: str) -> None:
    """Ask from now on: no answer may rest on what was seen before."""
    end = time.monotonic() + ASKED
    answers = {host.get(name, "traffic-started").status}
    while time.monotonic() < end:
        answers.add(host.get(name, "traffic-started").status)
    assert answers <= {409, 503}
    assert host.phase(name) == "serving"


def is_red(host: Host, name: str) -> None:
    """Fail unless a person, a scrape and the log are told, the log once."""
    metric = f'deregister_agent_not_listed_in_service{{instance="{name}"}}'
    eventually(lambda: host.metric(metric) == f"{metric} 1.0", "the metric shows it")
    assert "serving, but NOT listed everywhere" in host.run("status", name).stdout
    lines = [line for line in host.log().splitlines() if ": in service, and: " in line]
    assert sum(f" {name}@" in line for line in lines) == 1, lines


@pytest.mark.parametrize("name", ["file", "etcd", "consul", "consul-defined"])
def test_what_was_lost_is_put_back_as_it_was(fleet: Fleet, name: str) -> None:
    """By start-traffic alone, if the app is ready; in a record of its own."""
    host = fleet.host
    before = lose(fleet, name)
    is_red(host, name)
    done = host.run("restore", name, "--wait", "--reason", "nightly")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{name}: serving: every registry lists it again" in done.stdout.splitlines()[-1]
    assert fleet.served[name].truth() == before
    assert is_served(host, name)
    record = host.last(name)
    assert (record["kind"], record["outcome"], record["reason"]) == (
        "restore",
        "restored",
        "nightly",
    )
    assert record["id"]
    assert "as it was at " in str(record["events"][0]["detail"]["put_back"])
    assert [one["kind"] for one in record["events"]] == ["restoring", "serving"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("consul-checked", "restart the app, so that it registers itself, or set definition"),
        ("unchecked", "no readiness check tells whether the app can take traffic"),
    ],
)
def test_what_cannot_be_put_back_rightly_is_refused(fleet: Fleet, name: str, why: str) -> None:
    """409 and exit 4, with what to do; nothing is done."""
    host = fleet.host
    lose(fleet, name)
    after = fleet.served[name].truth()
    is_red(host, name)
    answer = host.post(name, "start-traffic")
    assert (answer.status, why in answer.detail) == (409, True), answer.detail
    done = host.run("restore", name, "--wait")
    assert (done.returncode, why in done.stderr) == (4, True)
    assert (fleet.served[name].truth(), host.phase(name)) == (after, "serving")
    if name == "unchecked":
        assert host.run("restore", name, "--wait", "--anyway").returncode == 0
        assert is_served(host, name)


def test_a_server_that_nginx_has_no_more_is_not_waited_for_without_end(fleet: Fleet) -> None:
    """Who has taken it out of the file has to put it there: said at once, and exit 3 in time."""
    lose(fleet, "nginx")
    is_red(fleet.host, "nginx")
    after = fleet.served["nginx"].truth()
    done = fleet.host.run("restore", "nginx", "--wait")
    assert (done.returncode, "has no server" in done.stdout.splitlines()[-1]) == (3, True)
    assert fleet.served["nginx"].truth() == after


def test_what_others_have_taken_out_is_theirs(fleet: Fleet) -> None:
    """No start-traffic lifts their mark, before or after a drain; exit 5 and whose turn it is."""
    host, name = fleet.host, "nginx-down"
    lose(fleet, name)
    is_red(host, name)
    after = fleet.served[name].truth()
    assert host.post(name, "start-traffic").status == 202
    told = host.get(name, "traffic-started")
    assert (told.status, "by another hand (" in told.detail) == (409, True), told.detail
    assert "POST start-traffic" not in told.detail
    assert host.run("restore", name, "--wait").returncode == 5
    assert host.run("drain", name, "--wait").returncode == 0
    done = host.run("restore", name, "--wait")
    last = done.stdout.splitlines()[-1]
    assert (done.returncode, host.phase(name)) == (5, "serving")
    assert "as before the drain, by another hand (" in last
    assert last.endswith(": theirs to end")
    assert fleet.served[name].truth() == after


def test_what_was_out_before_is_out_afterwards_where_nobody_can_tell_by_whom(fleet: Fleet) -> None:
    """Restoring ends there at once, and says so; what the operator lists again is in service."""
    host, name = fleet.host, "command"
    lose(fleet, name)
    assert host.run("drain", name, "--wait").returncode == 0
    done = host.run("restore", name, "--wait")
    last = done.stdout.splitlines()[-1]
    assert (done.returncode, host.phase(name)) == (5, "serving")
    assert "as before the drain, by another hand (it was out before the drain)" in last
    assert fleet.served[name].truth() == "out"
    (host.root / "command.state").write_text("listed")
    eventually(lambda: is_served(host, name), "it is in service again")


def test_a_maintenance_of_others_is_theirs(fleet: Fleet) -> None:
    """It is not lifted, and the answer has its reason."""
    host, name, orders = fleet.host, "consul-maintained", fleet.maintained
    assert is_served(host, name)
    assert orders.agent.client.agent.service.maintenance(orders.id, True, "disk")
    eventually(lambda: "disk" in str(orders.entry()), "the maintenance is known")
    assert host.post(name, "start-traffic").status == 202
    told = host.get(name, "traffic-started")
    assert (told.status, "maintenance: disk" in told.detail) == (409, True)
    assert host.run("restore", name, "--wait").returncode == 5
    assert "disk" in str(orders.entry())


def test_a_consul_that_does_not_answer_is_no_yes(fleet: Fleet) -> None:
    """It was listed a moment ago; whether it still is, nobody can tell."""
    host, name = fleet.host, "consul-stopped"
    lose(fleet, name)
    assert host.get(name, "traffic-started").status == 503
    log, command = host.root / "restore.log", ["restore", name, "--wait"]
    whole = [sys.executable, "-m", "deregister_agent", *command]
    with Child(whole, log, environment=host.environment()) as waiting:
        eventually(
            lambda: "has not told; waits for: consul: cannot" in log.read_text(), "it says for whom"
        )
        assert host.get(name, "traffic-started").status == 503
        waiting.signal(signal.SIGINT)
        assert waiting.process.wait(60) == ExitCode.INTERRUPTED
    assert "every registry lists it" not in log.read_text()


def test_a_pipeline_stops_at_the_first(fleet: Fleet) -> None:
    """Three whose registration has vanished: one after the other would empty the fleet."""
    names = [f"fleet-{n}" for n in (1, 2, 3)]
    for name in names:
        lose(fleet, name)
    done = []
    for name in names:
        if fleet.host.run("restore", name, "--wait").returncode != 0:
            break
        done.append(name)
    assert done == []


def test_what_a_gateway_has_lost_is_put_back_from_here(tmp_path: Path, fleet: Fleet) -> None:
    """Start-traffic in service reaches the agent there, which asks its own readiness check."""
    gateway, near = (Host(tmp_path / name, fleet.host.apps) for name in ("gateway", "near"))
    for one in (gateway, near):
        one.root.mkdir()
    file = TargetFile(gateway.root / "shop.json", "a:1", "b:1")
    gateway.add("orders", file.table("target = 'a:1'"), probe=PROBE + READY)
    url = f"http+unix://{str(gateway.root / 'agent.sock').replace('/', '%2F')}"
    near.add("orders", f"kind = 'agent'\nurl = '{url}'", probe=PROBE + READY)
    with gateway.agent(), near.agent():
        eventually(lambda: is_served(near, "orders"), "it is in service")
        file.write("b:1")
        is_never_called_served(near, "orders")
        is_red(near, "orders")
        done = near.run("restore", "orders", "--wait")
        assert (done.returncode, done.stderr) == (0, "")
        assert file.targets() == ["a:1", "b:1"]
        assert [one.last("orders")["outcome"] for one in (gateway, near)] == ["restored"] * 2
