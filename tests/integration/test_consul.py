"""The consul registry against a real Consul without ACLs, on good days and bad ones."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.errors import ConfigError, RegistryError
from deregister_agent.registries.consul.registry import REASON
from tests.servers.child import wait_until
from tests.servers.consul import Consul
from tests.servers.orders import Orders

ALIVE = {"CheckID": "alive", "Name": "alive", "TTL": "1h", "Status": "passing"}
FULL: dict[str, Any] = {
    "Tags": ["blue", "v1"],
    "Meta": {"zone": "a"},
    "Weights": {"Passing": 3, "Warning": 2},
    "EnableTagOverride": True,
    "TaggedAddresses": {"wan": {"Address": "192.0.2.7", "Port": 80}},
}


@pytest.fixture
def orders(agent: Consul) -> Iterator[Orders]:
    made = Orders(agent)
    yield made
    agent.deregister(made.id)


def test_a_restored_service_is_the_same(orders: Orders) -> None:
    """Tags, meta, weights, addresses and port are in the catalog as they were."""
    orders.register(**FULL)
    before, registry = orders.entry(), orders.registry()
    snapshot = registry.snapshot()
    registry.withdraw()
    assert orders.entry() is None
    registry.restore(snapshot)
    after = orders.entry()
    assert before is not None
    assert after is not None
    for entry in (before, after):
        del entry["Service"]["CreateIndex"], entry["Service"]["ModifyIndex"]
    assert after["Service"] == before["Service"]


def test_what_consuls_own_program_does_and_sees(orders: Orders) -> None:
    """What it registers is withdrawn and restored in its eyes; what it takes out is out."""
    where = (f"-name={orders.service}", f"-id={orders.id}", f"-port={orders.port}")
    orders.agent.program("services", "register", "-address=127.0.0.1", *where)
    registry = orders.registry()
    wait_until(registry.lists, "the catalog has it")
    snapshot = registry.snapshot()
    registry.withdraw()
    assert orders.service not in orders.agent.program("catalog", "services")
    registry.restore(snapshot)
    assert orders.service in orders.agent.program("catalog", "services").splitlines()
    orders.agent.program("services", "deregister", f"-id={orders.id}")
    wait_until(lambda: orders.entry() is None, "the catalog has it no more")
    assert not registry.lists()


def test_an_app_may_be_two_services(agent: Consul, orders: Orders) -> None:
    """Each has its name, ID and port in Consul, a registry of its own, and goes alone."""
    calls = Orders(agent)
    orders.register()
    calls.register()
    try:
        where = {"service": calls.service, "service_id": calls.id}
        second = orders.registry(name="calls", address=f"127.0.0.1:{calls.port}", **where)
        snapshot = second.snapshot()
        second.withdraw()
        assert not second.lists()
        assert calls.entry() is None
        assert orders.registry().lists()
        second.restore(snapshot)
        assert second.lists()
        with pytest.raises(RegistryError, match="also registered as"):
            orders.registry(
                address=f"127.0.0.1:{calls.port}", **where | {"service_id": "n"}
            ).lists()
    finally:
        agent.deregister(calls.id)


def test_an_address_is_host_and_port(orders: Orders) -> None:
    """Anything else is refused before it is used."""
    with pytest.raises(ConfigError, match=r"address: '127\.0\.0\.1' is not host:port"):
        orders.registry(address="127.0.0.1")


def test_checks_that_a_restore_loses_are_named(orders: Orders) -> None:
    """Consul does not give checks out: without a definition they are lost, and a note says so."""
    orders.register(Check=ALIVE)
    registry = orders.registry()
    snapshot = registry.snapshot()
    assert "(alive)" in registry.notes(snapshot)[0]
    assert "set definition" in registry.notes(snapshot)[0]
    registry.withdraw()
    registry.restore(snapshot)
    assert orders.checks() == {}
    assert not orders.registry(mode="maintenance").notes(snapshot)
    assert not registry.notes(None)


def test_a_sidecar_that_a_restore_loses_is_named(orders: Orders) -> None:
    """Consul takes the sidecar out with its service, and a snapshot does not bring it back."""
    orders.register(Connect={"sidecar_service": {}})
    registry, sidecar = orders.registry(), f"{orders.id}-sidecar-proxy"
    snapshot = registry.snapshot()
    assert f"its sidecars ({sidecar})" in registry.notes(snapshot)[0]
    registry.withdraw()
    services = orders.agent.client.agent.services
    assert sidecar not in services()
    registry.restore(snapshot)
    assert sidecar not in services()


def test_a_definition_gives_the_checks_back(orders: Orders, tmp_path: Path) -> None:
    """A file in Consul's own spelling restores the checks, also where there is no snapshot."""
    check = {"id": "alive", "name": "alive", "ttl": "1h", "status": "passing"}
    later: dict[str, Any] = {"http": "http://127.0.0.1:1/", "interval": "1h", "status": "warning"}
    later |= {"tls_skip_verify": True, "deregister_critical_service_after": "90m", "name": "page"}
    service = {"id": orders.id, "name": orders.service, "port": orders.port}
    service |= {"checks": [check, later], "enable_tag_override": True}
    file = tmp_path / "orders.json"
    file.write_text(json.dumps({"service": service}))
    registry = orders.registry(definition=file)
    registry.restore(None)
    assert sorted(orders.checks().values()) == ["passing", "warning"]
    assert "alive" in orders.checks()
    assert not registry.notes(registry.snapshot())


def test_a_restore_is_not_complete_while_a_check_is_critical(orders: Orders) -> None:
    """Work must not be promised to an instance that consumers pass by; the error says why."""
    orders.register(Check=ALIVE)
    registry = orders.registry(mode="maintenance", timeout=2.0)
    registry.withdraw()
    orders.agent.client.agent.check.ttl_fail("alive")
    with pytest.raises(RegistryError, match="critical: alive"):
        registry.restore(registry.snapshot())
    assert not registry.lists()
    orders.agent.client.agent.check.ttl_pass("alive")
    registry.restore(registry.snapshot())
    assert registry.lists()


def test_maintenance_keeps_everything(orders: Orders) -> None:
    """Maintenance adds one critical check, with our reason, and takes it off again."""
    orders.register(Check=ALIVE, **FULL)
    registry = orders.registry(mode="maintenance")
    before = orders.checks()
    registry.withdraw()
    assert orders.checks() == before | {f"_service_maintenance:{orders.id}": "critical"}
    registry.restore(None)
    assert orders.checks() == before


class TestTheMaintenanceOfAnOperator:
    def _enable(self, orders: Orders, *, reason: str) -> None:
        orders.agent.program("maint", "-enable", f"-service={orders.id}", f"-reason={reason}")
        wait_until(lambda: "critical" in orders.checks().values(), "the maintenance is known")

    def _reason(self, orders: Orders) -> str | None:
        checks = orders.agent.client.agent.checks()
        check = checks.get(f"_service_maintenance:{orders.id}")
        return None if check is None else str(check["Notes"])

    def test_before_the_drain(self, orders: Orders) -> None:
        """It was not ours to begin with: it stays, and the error says whose word keeps it out."""
        orders.register()
        self._enable(orders, reason="upgrade")
        registry = orders.registry(mode="maintenance", timeout=2.0)
        snapshot = registry.snapshot()
        registry.withdraw()
        with pytest.raises(RegistryError, match=r"critical: .*\(upgrade\)"):
            registry.restore(snapshot)
        assert self._reason(orders) == "upgrade"

    def test_during_the_drain(self, orders: Orders) -> None:
        """An operator who lifts ours and sets another has the last word."""
        orders.register()
        registry = orders.registry(mode="maintenance", timeout=2.0)
        snapshot = registry.snapshot()
        registry.withdraw()
        assert self._reason(orders) == REASON
        orders.agent.program("maint", "-disable", f"-service={orders.id}")
        self._enable(orders, reason="disk")
        with pytest.raises(RegistryError, match=r"critical: .*\(disk\)"):
            registry.restore(snapshot)
        assert self._reason(orders) == "disk"

    def test_outlives_a_deregistration(self, orders: Orders) -> None:
        """A service that was in maintenance is so again after it was registered again."""
        orders.register()
        self._enable(orders, reason="upgrade")
        registry = orders.registry(timeout=2.0)
        snapshot = registry.snapshot()
        registry.withdraw()
        assert self._reason(orders) is None
        with pytest.raises(RegistryError, match=r"critical: .*\(upgrade\)"):
            registry.restore(snapshot)
        assert self._reason(orders) == "upgrade"

    def test_of_the_whole_node(self, orders: Orders) -> None:
        """A node in maintenance gets no work in maintenance mode, and it is not ours to lift."""
        orders.register()
        registry = orders.registry(mode="maintenance", timeout=2.0)
        orders.agent.program("maint", "-enable", "-reason=kernel")
        try:
            wait_until(lambda: not registry.lists(), "the node is known to be in maintenance")
            with pytest.raises(RegistryError, match=r"_node_maintenance \(kernel\)"):
                registry.restore(None)
        finally:
            orders.agent.program("maint", "-disable")


def test_left_to_the_app(orders: Orders) -> None:
    """With restore_by = app, a restore registers nothing and waits for the app."""
    orders.register()
    registry = orders.registry(restore_by="app", timeout=1.0)
    snapshot = registry.snapshot()
    registry.withdraw()
    with pytest.raises(RegistryError, match="the app has to register itself"):
        registry.restore(snapshot)
    orders.register()
    registry.restore(snapshot)
    assert registry.lists()


def test_nothing_to_restore_from(orders: Orders) -> None:
    """Without a snapshot and a definition, a restore says so."""
    with pytest.raises(RegistryError, match="neither a snapshot nor a definition"):
        orders.registry().restore(None)
