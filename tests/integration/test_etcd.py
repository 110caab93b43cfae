"""The etcd registry against one real etcd of each version. Nobody else's key ever changes."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from deregister_agent.errors import RegistryError
from deregister_agent.model import Phase
from deregister_agent.net.fetcher import Fetcher
from deregister_agent.registries.etcd.cluster import Cluster, Endpoint
from deregister_agent.registries.etcd.keys import KeyRange
from deregister_agent.registries.etcd.operations import EtcdOperation
from tests.integration.etcd_stage import POLICY, Orders, agent, registry, until
from tests.servers.etcd import VERSIONS, Etcd, Keyspace, shared

LONG = 60.0


@pytest.fixture(params=VERSIONS)
def node(request: pytest.FixtureRequest) -> Etcd:
    return shared(request.param)


@pytest.fixture
def orders(node: Etcd) -> Iterator[Orders]:
    """Give a service of three instances, and keys beside it that look much like it."""
    made = Orders(node, 3)
    for n in range(3):
        made.register(n)
    address = f"127.0.0.1:{made.ports[0]}"
    for sibling in (f"{made.prefix}2/1", f"x/{made.prefix}/1"):
        node.put(sibling, address, made.lease)
    node.put(made.prefix, "10.0.0.9:80", made.lease)  # that of the instance would be one more
    beside = node.keyspace(without=f"{made.prefix}/")
    yield made
    assert node.keyspace(without=f"{made.prefix}/") == beside
    node.clear(f"{made.prefix}/")
    node.revoke(made.lease)


def _other(keys: Keyspace, *ours: str) -> Keyspace:
    return {key: value for key, value in keys.items() if key not in ours}


def test_only_its_own_key_changes(orders: Orders) -> None:
    """Siblings with a like prefix, and keys on the same lease, stay through it all."""
    node, one = orders.node, orders.registry()
    before = node.keyspace()
    snapshot = one.snapshot()
    one.withdraw()
    assert node.keyspace() == _other(before, orders.key())
    assert node.lease_lives(orders.lease)
    one.restore(snapshot)
    assert node.keyspace() == before


def test_a_key_that_has_changed_is_not_deleted(orders: Orders) -> None:
    """The transaction deletes what was read, or nothing; nor is a key created over another."""
    node = orders.node
    link = Cluster([Endpoint(node.url, Fetcher(node.url, timeout=5))], None)
    operation = EtcdOperation(link, 30)
    found = operation.read(KeyRange(orders.key().encode()))
    orders.register()
    assert not operation.delete(found)
    assert not operation.create(found)
    assert not operation.replace(found[0], b"x")
    assert node.get(orders.key()) == f"127.0.0.1:{orders.ports[0]}"


def test_without_its_lease_a_key_stays_away(orders: Orders) -> None:
    """When the lease has ended nothing is put back; once the app is there, all is well."""
    node, one, lease = orders.node, orders.registry(), orders.node.grant(600)
    orders.register(lease=lease)
    snapshot = one.snapshot()
    one.withdraw()
    node.revoke(lease)
    before = node.keyspace()
    with pytest.raises(RegistryError, match=r"lease has ended.*the app has to register itself"):
        one.restore(snapshot)
    assert node.keyspace() == before
    node.put(f"{orders.prefix}/new", f"127.0.0.1:{orders.ports[0]}", orders.lease)
    after = node.keyspace()
    one.restore(snapshot)
    assert node.keyspace() == after


def test_a_key_without_a_lease_comes_back_without(orders: Orders) -> None:
    """What was permanent is permanent again, and a note says so."""
    orders.register(lease="0")
    before, one = orders.node.keyspace(), orders.registry()
    snapshot = one.snapshot()
    one.withdraw()
    one.restore(snapshot)
    assert orders.node.keyspace() == before
    assert "no lease" in one.notes(snapshot)[0]
    assert one.notes(None) == ()


def test_a_snapshot_that_was_taken_with_another_mode(orders: Orders) -> None:
    """After a change of the configuration in mid-drain nothing is written, and that is said."""
    node, key = orders.node, f"/apisix/{orders.ports[0]}"
    node.put(key, f'["127.0.0.1:{orders.ports[0]}"]', orders.lease)
    by_key, by_member = orders.registry(), orders.registry(mode="document", key=key, prefix="")
    snapshots = by_key.snapshot(), by_member.snapshot()
    for one in (by_key, by_member):
        one.withdraw()
    before = node.keyspace()
    for one, foreign in zip((by_member, by_key), snapshots, strict=True):
        with pytest.raises(RegistryError, match="taken with another mode"):
            one.restore(foreign)
    assert "taken with another mode" in by_key.notes(snapshots[1])[0]
    assert node.keyspace() == before
    node.delete(key)


def test_somebody_elses_key_is_not_overwritten(orders: Orders) -> None:
    """If the place is taken by something else, that stays, and restore says so."""
    one = orders.registry()
    snapshot = one.snapshot()
    one.withdraw()
    orders.node.put(orders.key(), "127.0.0.1:1")
    with pytest.raises(RegistryError, match="somebody else has put something"):
        one.restore(snapshot)
    assert orders.node.get(orders.key()) == "127.0.0.1:1"
    orders.node.delete(orders.key())


def test_two_keys_with_the_address_are_an_error(orders: Orders) -> None:
    """The agent does not choose: it lists both, and touches none."""
    orders.node.put(f"{orders.prefix}/orphan", f"127.0.0.1:{orders.ports[0]}")
    before, one = orders.node.keyspace(), orders.registry()
    for call in (one.lists, one.snapshot, one.withdraw):
        with pytest.raises(RegistryError, match=r"2 keys are .*\(lease .*orphan \(no lease\)"):
            call()
    assert orders.node.keyspace() == before
    orders.node.delete(f"{orders.prefix}/orphan")


def test_a_folder_of_keys_goes_and_comes_as_one(orders: Orders) -> None:
    """Traefik's url and weight of one server are withdrawn and restored together."""
    node = orders.node
    root = f"traefik/http/services/{orders.prefix}/loadbalancer/servers"
    for n in range(3):
        node.put(f"{root}/{n}/url", f"http://127.0.0.1:{orders.ports[n]}")
        node.put(f"{root}/{n}/weight", "3")
    before = node.keyspace()
    one = orders.registry(layout="traefik", prefix=root)
    snapshot = one.snapshot()
    assert one.others() == 2
    one.withdraw()
    assert node.keyspace() == _other(before, f"{root}/0/url", f"{root}/0/weight")
    one.restore(snapshot)
    assert node.keyspace() == before
    node.clear(f"{root}/")


def test_a_document_that_all_change_at_once(orders: Orders) -> None:
    """Each member goes and comes back, although all the others write too; its lease stays."""
    node, count = orders.node, 12
    key = f"/apisix/upstreams/{orders.ports[0]}"
    ports = [orders.ports[0] + n for n in range(count)]
    nodes = ",\n ".join(f'{{"host":"127.0.0.1", "port":{port}, "w":1.50}}' for port in ports)
    node.put(key, f'{{"nodes": [{nodes}], "timeout": 1.0e3}}', orders.lease)
    before = node.keyspace()
    options = {"mode": "document", "key": key, "pointer": "/nodes", "timeout": LONG}
    all_of_them = [registry([node.url], port, **options) for port in ports]
    snapshots = [one.snapshot() for one in all_of_them]
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda one: one.withdraw(), all_of_them))
        assert node.get(key) == '{"nodes": [], "timeout": 1.0e3}'
        assert _other(node.keyspace(), key) == _other(before, key)
        list(pool.map(lambda one, kept: one.restore(kept), all_of_them, snapshots))
    text, lease = node.keyspace()[key]
    assert sorted(n["port"] for n in json.loads(text)["nodes"]) == ports
    assert text.count('"w": 1.50') == count
    assert lease == orders.lease
    node.delete(key)


def test_a_watch_knows_whom_it_concerns(orders: Orders) -> None:
    """Others come, change and go without waking it; its own key wakes it, coming and going."""
    one, node = orders.registry(), orders.node
    cursor = one.watch(None, LONG)
    assert cursor is not None
    with ThreadPoolExecutor(1) as pool:
        for change in (partial(node.delete, orders.key()), orders.register):
            watch = pool.submit(one.watch, cursor, LONG)
            node.delete(orders.key(1))
            orders.register(1)
            orders.register(2)
            assert not watch.done()
            change()
            cursor = watch.result(timeout=30)
            assert cursor == str(node.revision())


def test_a_watch_tells_of_what_was_before_it(orders: Orders) -> None:
    """Nothing is missed between two watches: the very next change counts."""
    one = orders.registry()
    cursor = one.watch(None, LONG)
    orders.register()
    after = one.watch(cursor, LONG)
    assert after == str(orders.node.revision())
    orders.node.delete(orders.key())
    assert one.watch(after, LONG) == str(orders.node.revision())


def test_a_watch_from_a_revision_that_is_no_more(orders: Orders) -> None:
    """In a cluster that was set back to a backup it begins anew, and is not deaf until then."""
    one = orders.registry()
    cursor = one.watch(str(orders.node.revision() + 1000), LONG)
    assert cursor == str(orders.node.revision())
    orders.register()
    assert one.watch(cursor, LONG) == str(orders.node.revision())


def test_a_watch_outlives_a_compaction(orders: Orders) -> None:
    """What was compacted away may have concerned: it returns at once, and can go on from there."""
    one, node = orders.registry(), orders.node
    cursor = one.watch(None, LONG)
    one.withdraw()
    orders.register()
    node.compact()
    after = one.watch(cursor, LONG)
    assert after == str(node.revision())
    with ThreadPoolExecutor(1) as pool:
        watch = pool.submit(one.watch, after, LONG)
        node.put("compacted-under-it", "1")
        node.compact()
        node.delete(orders.key())
        watch.result(timeout=30)
    node.delete("compacted-under-it")
    assert not one.lists()


class Stubborn:
    """An app as go-zero makes them: it watches its key and puts it back when it is gone."""

    def __init__(self, orders: Orders, times: int) -> None:
        self._orders, self.left, self.over = orders, times, threading.Event()
        self._thread = threading.Thread(target=self._guard)
        self._thread.start()

    def _guard(self) -> None:
        node, key = self._orders.node, self._orders.key()
        while not self.over.is_set() and self.left:
            if node.get(key) is None:
                self._orders.register()
                self.left -= 1
            self.over.wait(0.002)

    def end(self) -> None:
        self.over.set()
        self._thread.join()


def test_an_app_that_registers_itself_is_taken_out_each_time(
    orders: Orders, tmp_path: Path
) -> None:
    """The drain ends when the app gives up, with the app idle and everything else as it was."""
    before = orders.node.keyspace()
    with agent(tmp_path, [orders.registry()]) as (loop,):
        loop.probe.begin()
        app = Stubborn(orders, 5)
        try:
            loop.stop_traffic()
            until(lambda: app.left == 0, "the app has given up")
            loop.reaches(Phase.DRAINING)
        finally:
            app.end()
        loop.probe.end()
        loop.reaches(Phase.DRAINED)
        assert orders.node.keyspace() == _other(before, orders.key())


def test_an_app_that_never_stops_registering_itself(orders: Orders, tmp_path: Path) -> None:
    """The drain is never called drained; it expires, and says what the app does."""
    policy = replace(POLICY, deadline=3.0)
    with agent(tmp_path, [orders.registry()], policy) as (loop,):
        loop.probe.begin()
        app = Stubborn(orders, 1_000_000)
        try:
            loop.stop_traffic()
            loop.says("the app keeps registering itself")
            assert loop.reaches(Phase.DRAINED, Phase.EXPIRED) is Phase.EXPIRED
        finally:
            app.end()


def test_a_lease_that_ends_in_mid_drain(orders: Orders, tmp_path: Path) -> None:
    """Restoring waits for the app, says so, and ends when the app has registered itself."""
    lease = orders.node.grant(6)
    orders.register(lease=lease)
    with agent(tmp_path, [orders.registry()]) as (loop,):
        loop.probe.begin()
        loop.stop_traffic()
        loop.reaches(Phase.DRAINING)
        until(lambda: not orders.node.lease_lives(lease), "the lease has ended by itself")
        loop.probe.end()
        loop.reaches(Phase.DRAINED)
        before = orders.node.keyspace()
        loop.loop.start_traffic("test", "test")
        loop.says("its lease has ended")
        assert orders.node.keyspace() == before
        orders.register()
        loop.reaches(Phase.SERVING)


@pytest.mark.timeout(300)
def test_compactions_in_mid_drain(orders: Orders, tmp_path: Path) -> None:
    """What is registered right before a compaction is found out and taken out again."""
    node = orders.node
    with agent(tmp_path, [orders.registry()]) as (loop,):
        loop.probe.begin()
        loop.stop_traffic()
        for _ in range(3):
            loop.reaches(Phase.DRAINING)
            orders.register()
            node.compact()
            until(lambda: node.get(orders.key()) is None, "it is out again")
        loop.probe.end()
        loop.reaches(Phase.DRAINED)
        assert node.get(orders.key()) is None


def test_a_hundred_at_the_same_time(node: Etcd, tmp_path: Path) -> None:
    """A hundred instances of one service are drained and restored at once; no other key moves."""
    count = 100
    orders = Orders(node, count + 1)
    for n in range(count + 1):
        orders.register(n)
    before = node.keyspace()
    ours = [orders.key(n) for n in range(count)]
    policy = replace(POLICY, deadline=240.0, restore_deadline=240.0)
    registries = [orders.registry(n, timeout=30.0) for n in range(count)]
    with agent(tmp_path, registries, policy) as loops:
        for loop in loops:
            loop.stop_traffic()
        for loop in loops:
            loop.reaches(Phase.DRAINED, limit=240.0)
        assert node.keyspace() == _other(before, *ours)
        for loop in loops:
            loop.loop.start_traffic("test", "test")
        for loop in loops:
            loop.reaches(Phase.SERVING, limit=240.0)
        assert node.keyspace() == before
    node.revoke(orders.lease)
