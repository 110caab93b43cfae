"""The consul registry when somebody interferes, and when Consul itself is in trouble."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from deregister_agent.errors import ConfigError, RegistryError
from deregister_agent.model import Instance
from deregister_agent.registries.consul.operations import ConsulOperation
from deregister_agent.registries.consul.registry import Options, build
from tests.servers.child import wait_until
from tests.servers.consul import Consul, shared
from tests.servers.orders import Orders
from tests.servers.talking import answering, talking


@pytest.fixture
def orders(agent: Consul) -> Iterator[Orders]:
    made = Orders(agent)
    yield made
    agent.deregister(made.id)


def test_an_app_that_registers_itself_again_and_again(orders: Orders) -> None:
    """A watch sees each registration, and each is withdrawn again."""
    registry = orders.registry()
    orders.register()
    over = threading.Event()
    seen: list[bool] = []

    def guard() -> None:
        cursor = registry.watch(None, 1)
        while not over.is_set():
            if registry.lists():
                seen.append(True)
                registry.withdraw()
            cursor = registry.watch(cursor, 1)

    thread = threading.Thread(target=guard)
    thread.start()
    try:
        for times in (1, 2, 3, 4):
            wait_until(lambda: orders.entry() is None, "it is withdrawn")
            assert len(seen) >= times
            orders.register_only()
            wait_until(lambda n=times: len(seen) > n, "the guard has seen it")  # type: ignore[misc]
    finally:
        over.set()
        orders.agent.deregister(orders.id)
        thread.join()
    assert not registry.lists()


def test_a_service_from_a_file_comes_back_with_a_reload(orders: Orders) -> None:
    """Consul registers it again when it is reloaded; that is seen, and withdrawn again."""
    file = orders.agent.services / f"{orders.service}.json"
    service = {"id": orders.id, "name": orders.service, "port": orders.port}
    file.write_text(json.dumps({"service": service | {"address": "127.0.0.1"}}))
    try:
        orders.agent.client.agent.reload()
        registry = orders.registry()
        wait_until(registry.lists, "the file is read")
        registry.withdraw()
        assert not registry.lists()
        orders.agent.client.agent.reload()
        wait_until(registry.lists, "the service is back")
        registry.withdraw()
        assert not registry.lists()
    finally:
        file.unlink()


@pytest.mark.parametrize("service_id", ["a/b c?d#e", "ü%2F+&=;", "a/", "..a", "a'\"b"])
def test_odd_ids(agent: Consul, service_id: str) -> None:
    """An ID may hold anything that Consul can take out again."""
    orders = Orders(agent, service_id=service_id)
    orders.register()
    for mode in ("maintenance", "deregister"):
        registry = orders.registry(mode=mode)
        snapshot = registry.snapshot()
        registry.withdraw()
        assert not registry.lists()
        registry.restore(snapshot)
        assert registry.lists()
    registry.withdraw()
    assert orders.entry() is None


@pytest.mark.parametrize("service_id", ["a//b", "/a", "a/../b", "a/./b", "..", "."])
def test_ids_that_consul_cannot_take_out(service_id: str) -> None:
    """They are refused before a drain begins."""
    instance = Instance("orders-1", "orders", "127.0.0.1", 80)
    with pytest.raises(ConfigError, match="service_id: Consul cannot deregister"):
        build(Options(kind="consul", service_id=service_id), instance)


class TestWhoIsWho:
    def test_the_same_id_on_another_node(self, orders: Orders) -> None:
        """An ID belongs to its node: the other is no part of this, but one of the others."""
        orders.register()
        twin = Orders(shared(), service_id=orders.id)
        twin.service = orders.service
        twin.register()
        registry = orders.registry()
        assert registry.others() == 1
        registry.withdraw()
        assert not registry.lists()
        nodes = [e["Node"]["Node"] for e in shared().entries(orders.service)]
        assert nodes == [shared().node]
        shared().deregister(orders.id)

    def test_the_same_address_under_another_id(self, orders: Orders) -> None:
        """Work would still reach the app, so it does not count as withdrawn; the error says why."""
        orders.register()
        registry = orders.registry()
        second = Orders(orders.agent)
        second.service, second.port = orders.service, orders.port
        second.register()
        registry.withdraw()
        with pytest.raises(RegistryError, match=f"also registered as '{second.id}'"):
            registry.lists()
        orders.agent.deregister(second.id)
        wait_until(lambda: not orders.agent.entries(orders.service), "the second is gone")
        assert not registry.lists()

    def test_the_same_address_in_another_spelling(self, orders: Orders) -> None:
        """An IPv6 address has many; each of them is where the work goes."""
        orders.register(Address="FD00:0:0::7")
        wrong = build(
            Options(kind="consul", url=orders.agent.url),
            Instance("another", orders.service, "fd00::7", orders.port),
        )
        with pytest.raises(RegistryError, match=f"also registered as '{orders.id}'"):
            wrong.lists()

    def test_the_wrong_service_name(self, orders: Orders) -> None:
        """A name that the agent knows to be another's is an error, and nothing is withdrawn."""
        orders.register()
        wrong = build(
            Options(kind="consul", url=orders.agent.url),
            Instance(orders.id, "order", "127.0.0.1", orders.port),
        )
        for call in (wrong.lists, wrong.withdraw, wrong.snapshot):
            with pytest.raises(RegistryError, match=f"an instance of '{orders.service}'"):
                call()
        assert orders.entry() is not None


def test_a_watch_goes_on_while_others_change(orders: Orders) -> None:
    """What others of the service do does not end it; what is done to the instance does."""
    orders.register()
    registry, another = orders.registry(), orders.definition() | {"ID": f"{orders.id}-2"}
    cursor = registry.watch(None, 1)
    assert registry.lists()
    with ThreadPoolExecutor(1) as pool:
        watch = pool.submit(registry.watch, cursor, 30)
        for _ in range(2):
            orders.agent.register(another | {"Address": "10.0.0.99"})
            orders.agent.deregister(another["ID"])
        assert not watch.done()
        orders.agent.register(another)
        assert watch.result(20) != cursor, "another one at its address"
    orders.agent.deregister(another["ID"])


def test_where_nothing_is_the_node_need_not_be_known(
    orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ACLs, an answer without a word about the instance is the same on every node."""
    orders.register()
    registry = orders.registry()
    registry.withdraw()
    asked: list[str] = []
    call = ConsulOperation._call

    def counted(self: ConsulOperation, method: str, target: str, *rest: Any, **more: Any) -> Any:
        asked.append(target.partition("?")[0])
        return call(self, method, target, *rest, **more)

    monkeypatch.setattr(ConsulOperation, "_call", counted)
    assert not registry.lists()
    assert asked == [
        f"/v1/health/service/{orders.service}",
        "/v1/internal/acl/authorize",
        f"/v1/agent/service/{orders.id}",
    ]


@pytest.mark.parametrize("name", ['a"b', "a b", "a`b"])
def test_a_name_that_a_filter_cannot_take(agent: Consul, name: str) -> None:
    """It is found, withdrawn and seen to be gone all the same."""
    orders = Orders(agent, service_id=name)
    orders.register()
    registry = orders.registry()
    assert registry.lists()
    registry.withdraw()
    assert not registry.lists()


def test_another_datacenter(orders: Orders) -> None:
    """The datacenter is passed on: its own is as good as none, and an unknown one an error."""
    orders.register()
    assert orders.registry(datacenter="dc1").lists()
    with pytest.raises(RegistryError, match=r"500 .*No path to datacenter"):
        orders.registry(datacenter="dc9").lists()


class TestOutage:
    def test_frozen_killed_refusing(self) -> None:
        """Nothing is known of an agent that hangs or is dead; after a freeze, all is as before."""
        with shared().joined() as agent:
            orders = Orders(agent)
            orders.register()
            registry = orders.registry(timeout=0.5)
            agent.stop()
            with pytest.raises(RegistryError, match="no answer within"):
                registry.lists()
            with pytest.raises(RegistryError, match="no answer within"):
                registry.withdraw()
            with pytest.raises(RegistryError, match="no answer within"):
                registry.watch("1", 0.5)
            agent.cont()
            wait_until(agent.has_leader, "it answers again")
            orders.registry().withdraw()
            assert not orders.registry().lists()
            agent.kill()
            for call in (registry.lists, registry.withdraw, registry.others, registry.snapshot):
                with pytest.raises(RegistryError, match="Connection refused"):
                    call()

    @pytest.mark.parametrize(
        "page",
        [
            b"Content-Type: text/html\r\n\r\n<html>hello",
            b"Content-Type: application/json\r\n\r\n[]",
            b"X-Consul-Index: 1\r\n\r\n{}",
            b"X-Consul-Index: 1\r\n\r\n[{}]",
            b"X-Consul-Index: x\r\n\r\n[]",
        ],
    )
    def test_another_server(self, page: bytes) -> None:
        """What does not answer as Consul does is not believed, 200 or not."""
        with talking(answering(b"HTTP/1.1 200 OK\r\n" + page)) as server:
            registry = build(
                Options(kind="consul", url=f"http://127.0.0.1:{server.port}"),
                Instance("orders-1", "orders", "127.0.0.1", 80),
            )
            for call in (registry.lists, registry.withdraw, registry.others):
                with pytest.raises(RegistryError):
                    call()
