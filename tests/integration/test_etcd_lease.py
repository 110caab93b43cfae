"""A key on a lease of the agent's: there for as long as the app is ready, and no longer."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deregister_agent.errors import RegistryError
from deregister_agent.model import Phase
from deregister_agent.probes.ready_check import ReadyOptions, UrlReadyCheck
from deregister_agent.registries.etcd.registry import Etcd as EtcdRegistry
from tests.apps.pages import Pages, page, pages
from tests.integration.etcd_stage import Loop, Orders, agent, until
from tests.servers.etcd import VERSIONS, Etcd, shared

TTL = 7  # seconds


@pytest.fixture(params=VERSIONS)
def orders(request: pytest.FixtureRequest) -> Iterator[Orders]:
    """Give a service of two instances; the lease of the first one's app has 600 s to live."""
    made = Orders(shared(request.param), 2)
    for n in range(2):
        made.register(n)
    beside = _but(made, made.key())
    yield made
    assert _but(made, made.key()) == beside
    made.node.clear(f"{made.prefix}/")
    made.node.revoke(made.lease)


@pytest.fixture
def app() -> Iterator[Pages]:
    """Give the page of an app that says that it is ready."""
    with pages(lambda _: page("ready")) as server:
        yield server


def _but(orders: Orders, key: str) -> dict[str, tuple[str, str]]:
    return {k: v for k, v in orders.node.keyspace().items() if k != key}


def _one(orders: Orders) -> EtcdRegistry:
    return orders.registry(lease="agent", lease_ttl=TTL, timeout=3)


def _check(app: Pages) -> UrlReadyCheck:
    return UrlReadyCheck(ReadyOptions(url=app.url, every=0.05))


def _lease(orders: Orders) -> str:
    return orders.node.keyspace()[orders.key()][1]


def _on_own_lease(orders: Orders) -> bool:
    kept = orders.node.keyspace().get(orders.key())
    return kept is not None and kept[1] not in {orders.lease, "0"}


def _there_and_back(loop: Loop) -> None:
    loop.stop_traffic()
    loop.reaches(Phase.DRAINED)
    loop.loop.start_traffic("test", "test")
    loop.reaches(Phase.SERVING)


def test_it_is_put_back_on_a_lease_of_the_agents(orders: Orders) -> None:
    """Whether the app's lease lives or not; an agent that has restarted knows its lease again."""
    one, node = _one(orders), orders.node
    value = node.get(orders.key())
    snapshot = one.snapshot()
    one.withdraw()
    one.restore(snapshot)
    lease = _lease(orders)
    assert (node.get(orders.key()), lease == orders.lease) == (value, False)
    assert one.keep(snapshot) == pytest.approx(TTL / 3)
    again = _one(orders)
    snapshot = again.snapshot()
    again.withdraw()
    assert node.lease_lives(lease)
    again.restore(snapshot)
    assert again.keep(snapshot)
    assert (_lease(orders), "own lease" in again.notes(snapshot)[0]) == (lease, True)


def test_what_has_run_out_is_put_back_and_what_was_deleted_is_not(orders: Orders) -> None:
    """Only the end of its lease is the agent's to repair; a key deleted by others stays away."""
    one, node = _one(orders), orders.node
    snapshot = one.snapshot()
    one.withdraw()
    one.restore(snapshot)
    node.revoke(_lease(orders))
    assert not one.lists()
    one.keep(snapshot)
    assert _on_own_lease(orders)
    node.delete(orders.key())
    one.keep(snapshot)
    assert not one.lists()


def test_an_app_that_registers_itself_is_left_alone(orders: Orders) -> None:
    """Its key hangs on its own lease, and nothing is written, nor kept alive, beside it."""
    one, node = _one(orders), orders.node
    snapshot = one.snapshot()
    one.withdraw()
    orders.register()
    before, leases = node.keyspace(), _leases(node)
    one.restore(snapshot)
    one.keep(snapshot)
    one.keep(None)
    assert (node.keyspace(), _leases(node) - leases) == (before, set())


def _leases(node: Etcd) -> set[str]:
    return {lease["ID"] for lease in node.call("/lease/leases", {}).get("leases", [])}


def test_without_a_snapshot_there_is_nothing_to_put_back(orders: Orders) -> None:
    """An instance that was not there when the drain began is left to its app, as ever."""
    one = _one(orders)
    orders.node.delete(orders.key())
    with pytest.raises(RegistryError, match="not there when the drain began"):
        one.restore(None)
    orders.register()


def test_it_stays_for_as_long_as_the_app_is_ready(
    orders: Orders, app: Pages, tmp_path: Path
) -> None:
    """It outlives its lease's time; when the app is not ready it goes, and then comes back."""
    with agent(tmp_path, [_one(orders)], ready=[_check(app)]) as (loop,):
        _there_and_back(loop)
        beside = orders.node.grant(2 * TTL)
        until(lambda: not orders.node.lease_lives(beside), "more than its time has passed")
        assert _on_own_lease(orders)
        app.said = page("starting", status="503 Service Unavailable")
        until(lambda: orders.node.get(orders.key()) is None, "it has run out")
        assert any("only while the app is ready" in note for note in loop.loop.status().notes)
        app.said = None
        until(lambda: _on_own_lease(orders), "it is back")
        assert loop.loop.drain.phase is Phase.SERVING


def test_it_outlives_a_restart_of_the_agent(orders: Orders, app: Pages, tmp_path: Path) -> None:
    """While no agent runs it runs out; the next one knows what to put back, and drains it."""
    with agent(tmp_path, [_one(orders)], ready=[_check(app)]) as (loop,):
        _there_and_back(loop)
    until(lambda: orders.node.get(orders.key()) is None, "it has run out")
    with agent(tmp_path, [_one(orders)], ready=[_check(app)]) as (loop,):
        until(lambda: _on_own_lease(orders), "it is back")
        _there_and_back(loop)
        loop.stop_traffic()
        loop.reaches(Phase.DRAINED)
        assert orders.node.get(orders.key()) is None
