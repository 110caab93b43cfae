"""What Consul has of an instance that gets no work, and what Consul has reaped."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.errors import RegistryError
from deregister_agent.model import Listing, Look
from tests.servers.child import wait_until
from tests.servers.consul import Consul
from tests.servers.orders import Orders

ALIVE = {"CheckID": "alive", "Name": "alive", "TTL": "1h", "Status": "passing"}


@pytest.fixture
def orders(agent: Consul) -> Iterator[Orders]:
    made = Orders(agent)
    made.register(Check=ALIVE)
    yield made
    agent.deregister(made.id)


def _maintain(orders: Orders, *arguments: str, on: bool = True) -> None:
    switch = ["-enable", "-reason=disk"] if on else ["-disable"]
    orders.agent.program("maint", *switch, *arguments)
    if on:
        wait_until(lambda: "disk" in str(orders.entry()), "the maintenance is known")


class TestWhatIsOut:
    def test_ours(self, orders: Orders) -> None:
        """Under our own maintenance it is out, and nobody else has put it there."""
        registry = orders.registry(mode="maintenance")
        assert registry.look() == Look(Listing.LISTED)
        registry.withdraw()
        assert registry.look() == Look(Listing.OUT)

    def test_by_an_operator(self, orders: Orders) -> None:
        """It is out, and the reason is told."""
        _maintain(orders, f"-service={orders.id}")
        assert orders.registry(mode="maintenance").look() == Look(
            Listing.OUT, out_by="maintenance: disk"
        )

    def test_by_the_node(self, orders: Orders) -> None:
        """The maintenance of the node is told as such, beside ours as well."""
        registry = orders.registry(mode="maintenance")
        _maintain(orders)
        try:
            mark = f"maintenance of node {orders.agent.node}: disk"
            assert registry.look() == Look(Listing.OUT, out_by=mark)
            registry.withdraw()
            assert registry.look() == Look(Listing.OUT, out_by=mark)
        finally:
            _maintain(orders, on=False)

    def test_by_a_check(self, orders: Orders) -> None:
        """A critical instance is there and gets no work; that is nobody's mark."""
        registry = orders.registry(mode="maintenance")
        orders.agent.client.agent.check.ttl_fail("alive")
        wait_until(lambda: not registry.lists(), "the check is known to fail")
        assert registry.look() == Look(Listing.OUT)

    def test_in_mode_deregister_what_is_there_is_listed(self, orders: Orders) -> None:
        """Consumers that do not ask for healthy instances send it work."""
        _maintain(orders, f"-service={orders.id}")
        look = orders.registry().look()
        assert look == Look(Listing.LISTED, out_by="maintenance: disk")

    def test_what_is_gone_is_absent(self, orders: Orders) -> None:
        """In either mode."""
        orders.agent.deregister(orders.id)
        wait_until(lambda: orders.entry() is None, "the catalog has it no more")
        for mode in ("deregister", "maintenance"):
            assert orders.registry(mode=mode).look() == Look(Listing.ABSENT)


class TestGoneInMaintenance:
    def _gone(self, orders: Orders, **options: Any) -> tuple[Any, Any]:
        """Withdraw it, and take it out as Consul does when it reaps."""
        registry = orders.registry(mode="maintenance", timeout=2.0, **options)
        snapshot = json.loads(json.dumps(registry.snapshot()))
        registry.withdraw()
        orders.agent.deregister(orders.id)
        wait_until(lambda: orders.entry() is None, "the catalog has it no more")
        return registry, snapshot

    def test_with_a_definition(self, orders: Orders, tmp_path: Path) -> None:
        """It is registered again, with its checks."""
        check = {"id": "alive", "name": "alive", "ttl": "1h", "status": "passing"}
        service = {"id": orders.id, "name": orders.service, "port": orders.port, "check": check}
        (tmp_path / "orders.json").write_text(json.dumps({"service": service}))
        registry, snapshot = self._gone(orders, definition=tmp_path / "orders.json")
        registry.restore(snapshot)
        assert registry.look().listed
        assert orders.checks() == {"alive": "passing"}

    def test_without_checks(self, orders: Orders) -> None:
        """What had none is registered again from the snapshot."""
        orders.agent.deregister(orders.id)
        orders.register()
        registry, snapshot = self._gone(orders)
        registry.restore(snapshot)
        registry.restore(snapshot)
        assert registry.look().listed

    def test_checks_that_do_not_come_back(self, orders: Orders) -> None:
        """It is said at once what is missing and whose turn it is; once the app is there, fine."""
        registry, snapshot = self._gone(orders)
        why = r"reaped.*its checks \(alive\).*the app has to register itself, or set definition"
        with pytest.raises(RegistryError, match=why):
            registry.restore(snapshot)
        assert orders.entry() is None
        orders.register(Check=ALIVE)
        registry.restore(snapshot)
        assert registry.look().listed

    def test_left_to_the_app(self, orders: Orders) -> None:
        """With restore_by = app, nothing is registered, and that is said."""
        registry, snapshot = self._gone(orders, restore_by="app")
        with pytest.raises(RegistryError, match=r"reaped.*: the app has to register itself"):
            registry.restore(snapshot)
        assert orders.entry() is None

    def test_nothing_to_restore_from(self, orders: Orders) -> None:
        """Without a snapshot and a definition, a restore says so."""
        registry, _ = self._gone(orders)
        with pytest.raises(RegistryError, match="neither a snapshot nor a definition"):
            registry.restore(None)

    @pytest.mark.nightly
    @pytest.mark.timeout(300)
    def test_reaped_by_consul_itself(self, orders: Orders) -> None:
        """The real thing, which takes Consul a minute and a half."""
        orders.agent.deregister(orders.id)
        check = {"CheckID": "alive", "Name": "alive", "TTL": "1h", "Status": "passing"}
        check |= {"DeregisterCriticalServiceAfter": "1m"}
        registry = orders.registry(mode="maintenance", timeout=2.0)
        orders.register(Check=check)
        snapshot = registry.snapshot()
        registry.withdraw()
        orders.agent.client.agent.check.ttl_fail("alive")
        wait_until(lambda: orders.entry() is None, "Consul has reaped it", limit=200.0)
        assert registry.look() == Look(Listing.ABSENT)
        with pytest.raises(RegistryError, match=r"reaped.*its checks \(alive\)"):
            registry.restore(snapshot)


def test_what_a_restore_loses(orders: Orders) -> None:
    """Checks are named where this agent registers, and nothing else has them."""
    snapshot = orders.registry().snapshot()
    assert snapshot is not None
    assert "its checks (alive)" in orders.registry().lost_by_restoring(snapshot)
    for options in ({"mode": "maintenance"}, {"restore_by": "app"}):
        assert orders.registry(**options).lost_by_restoring(snapshot) == ""
    assert orders.registry().lost_by_restoring({"service": {}}) == ""
