"""Whole drains by the real loop against a real Consul, with trouble on the way."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from deregister_agent.config.options import Secret
from deregister_agent.model import Instance, Outcome, Phase, StopRequest
from tests.fakes import Directory, FakeRegistry
from tests.loops import POLICY, agent_of, eventually
from tests.servers.consul import Consul, shared
from tests.servers.orders import Orders

BRIEF = replace(POLICY, deadline=3.0)


@pytest.fixture
def agent() -> Iterator[Consul]:
    """Give a client agent of its own: the test may stop and kill it."""
    with shared().joined() as client:
        yield client


@pytest.fixture
def orders(agent: Consul) -> Orders:
    made = Orders(agent)
    made.register()
    return made


def instance(orders: Orders) -> Instance:
    return Instance(orders.id, orders.service, "127.0.0.1", orders.port)


@contextmanager
def registering_itself(orders: Orders) -> Iterator[None]:
    """Let the app register itself again every second, as some frameworks do."""
    over = threading.Event()

    def again() -> None:
        while not over.wait(1.0):
            orders.register_only()

    thread = threading.Thread(target=again)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_an_app_that_registers_itself_again_is_never_drained(
    tmp_path: Path, orders: Orders
) -> None:
    """It is withdrawn each time and never quiet for long enough; the reason names its habit."""
    policy = replace(POLICY, deadline=8.0, quiet=1.5)
    with (
        agent_of(tmp_path, instance(orders), [orders.registry()], policy) as running,
        registering_itself(orders),
    ):
        running.loop.stop_traffic(StopRequest())
        assert running.outcome() is Outcome.EXPIRED
        (expired,) = running.events("expired")
    assert running.loop.drain.relisted >= 2
    assert "keeps registering itself" in str(expired["blocking"])
    assert "drained" not in running.notifier.kinds()


def test_an_app_that_gives_up_registering_itself_is_drained(tmp_path: Path, orders: Orders) -> None:
    """Once it stays out, the drain ends as any other."""
    with agent_of(tmp_path, instance(orders), [orders.registry()]) as running:
        with registering_itself(orders):
            running.probe.begin()
            running.loop.stop_traffic(StopRequest())
            eventually(lambda: running.loop.drain.relisted >= 2, "it has come back twice")
        running.probe.end()
        running.until(Phase.DRAINED)
        assert orders.entry() is None
        running.loop.start_traffic("", "")
        running.until(Phase.SERVING)
        assert orders.entry() is not None


def test_a_blocked_sync_ends_in_expired_with_that_reason(tmp_path: Path) -> None:
    """200 OK while the catalog still lists it is not drained; the reason names the ACLs."""
    server = shared(acl=True)
    with server.joined() as client:
        orders = Orders(client)
        # Consul 1.8 tells its catalog with the token that the service was registered with
        write = f'service "{orders.service}" {{ policy = "write" }}'
        registered_with = server.new_token(f'node_prefix "" {{ policy = "read" }} {write}')
        orders.register(token=registered_with)
        server.delete_token(registered_with)
        file = tmp_path / "token"
        file.write_text(server.token)
        registry = orders.registry(token=Secret(file=file), timeout=1.0)
        with agent_of(tmp_path, instance(orders), [registry], BRIEF) as running:
            running.loop.stop_traffic(StopRequest())
            assert running.outcome() is Outcome.EXPIRED
            (expired,) = running.events("expired")
            assert "ACL" in str(expired["blocking"])
            assert orders.entry() is not None


def test_a_hung_consul_delays_nobody_else(tmp_path: Path, agent: Consul, orders: Orders) -> None:
    """While it hangs, stop-traffic answers and the other registry is withdrawn; then it goes on."""
    directory = Directory({orders.id: {}})
    memory = FakeRegistry(directory, orders.id)
    registries = [orders.registry(timeout=1.0), memory]
    with agent_of(tmp_path, instance(orders), registries) as running:
        agent.stop()
        try:
            running.loop.stop_traffic(StopRequest())
            eventually(lambda: not directory.listed, "the other registry is withdrawn")
            assert running.loop.drain.phase is Phase.WITHDRAWING
            eventually(lambda: running.loop.status().registries[0].error, "the error shows")
        finally:
            agent.cont()
        running.until(Phase.DRAINED)
        assert orders.entry() is None


def test_a_consul_that_hangs_for_ever_ends_in_expired(
    tmp_path: Path, agent: Consul, orders: Orders
) -> None:
    """Unknown is never good news: the drain expires, and names the registry that did not answer."""
    with agent_of(tmp_path, instance(orders), [orders.registry(timeout=0.5)], BRIEF) as running:
        agent.stop()
        try:
            running.loop.stop_traffic(StopRequest())
            assert running.outcome() is Outcome.EXPIRED
            (expired,) = running.events("expired")
            assert "consul" in str(expired["blocking"])
            assert "no answer" in str(expired["blocking"])
        finally:
            agent.cont()


def test_a_consul_that_is_killed_while_draining_is_no_proof(
    tmp_path: Path, agent: Consul, orders: Orders
) -> None:
    """Withdrawn before, unreachable since: that it is still out is not known, so it expires."""
    with agent_of(tmp_path, instance(orders), [orders.registry()], BRIEF) as running:
        running.probe.begin()
        running.loop.stop_traffic(StopRequest())
        running.until(Phase.DRAINING)
        agent.kill()
        running.probe.end()
        assert running.outcome() is Outcome.EXPIRED
        (expired,) = running.events("expired")
        assert "consul" in str(expired["blocking"])
        assert "drained" not in running.notifier.kinds()


def test_the_checks_that_were_lost_are_told(tmp_path: Path, orders: Orders) -> None:
    """Without a definition the checks cannot be put back; status says so."""
    orders.register(Check={"Name": "alive", "TTL": "30s", "Status": "passing"})
    with agent_of(tmp_path, instance(orders), [orders.registry()]) as running:
        running.loop.stop_traffic(StopRequest())
        running.until(Phase.DRAINED)
        assert "check" in str(running.loop.status().notes)
