"""The etcd registry against a cluster of three, whose leader is lost while a drain is under way."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deregister_agent.errors import RegistryError
from deregister_agent.model import Phase
from tests.integration.etcd_stage import Loop, Orders, agent, until
from tests.servers.etcd import VERSIONS, Etcd, MemberAddress, Nodes, cluster
from tests.servers.netns import hosts

pytestmark = pytest.mark.timeout(300)


def _lose_kill(leader: Etcd) -> None:
    leader.kill()


def _lose_stop(leader: Etcd) -> None:
    leader.stop()
    stat = Path(f"/proc/{leader.pid}/stat")
    until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it is frozen")


def _endpoints(nodes: Nodes, first: Etcd) -> list[str]:
    """Return the endpoints, the leader's first: it is the one that is asked and then lost."""
    return [first.url, *(node.url for node in nodes if node is not first)]


def _idle_and_drained(loop: Loop) -> None:
    loop.probe.end()
    loop.reaches(Phase.DRAINED)


def _survives(nodes: Nodes, lose: Callable[[Etcd], None], folder: Path) -> None:
    """Drain an instance while the leader is lost; it registers itself again behind our back."""
    leader = nodes.leader()
    rest = [node for node in nodes if node is not leader]
    orders = Orders(rest[0], 3)
    for n in range(3):
        orders.register(n)
    rest[0].put(f"{orders.prefix}2/1", f"127.0.0.1:{orders.ports[0]}")
    before = rest[0].keyspace()
    one = orders.registry(endpoints=_endpoints(nodes, leader))
    with agent(folder, [one]) as (loop,):
        loop.probe.begin()
        loop.stop_traffic()
        loop.reaches(Phase.DRAINING)
        lose(leader)
        new = nodes.leader(rest)
        orders.register(at=new)
        until(lambda: new.get(orders.key()) is None, "it is taken out again", limit=60.0)
        assert loop.reaches(Phase.DRAINING, Phase.DRAINED) is Phase.DRAINING
        _idle_and_drained(loop)
        assert new.keyspace() == {k: v for k, v in before.items() if k != orders.key()}
        loop.loop.start_traffic("test", "test")
        loop.reaches(Phase.SERVING)
        assert new.keyspace() == before


@pytest.mark.parametrize("lose", [_lose_kill, _lose_stop])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_leader_is_lost(version: str, lose: Callable[[Etcd], None], tmp_path: Path) -> None:
    """Killed or frozen, the others elect a leader and the drain goes on to a true end."""
    with cluster(version) as nodes:
        _survives(nodes, lose, tmp_path)


@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_quorum_nothing_is_said(version: str) -> None:
    """With two of three frozen, the one left does not say that anything is there, or is not."""
    with cluster(version) as nodes:
        orders = Orders(nodes[0])
        one = orders.registry(endpoints=[node.url for node in nodes])
        nodes[0].put(f"{orders.prefix}/x", "127.0.0.1:1")
        before = nodes[0].keyspace()
        assert not one.lists()
        cursor = one.watch(None, 30)
        _lose_stop(nodes[1])
        _lose_stop(nodes[2])
        for call in (one.lists, one.withdraw, one.snapshot):
            with pytest.raises(RegistryError, match=r"^etcd: cannot "):
                call()
        nodes[1].cont()
        nodes[2].cont()
        nodes.leader()
        assert nodes[0].keyspace() == before
        orders.register()
        assert one.watch(cursor, 30) != cursor
        assert one.lists()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_leader_is_cut_off(version: str, tmp_path: Path) -> None:
    """A leader that its clients reach, and its peers do not, has no word any more."""
    with hosts(3) as net:
        places = [
            MemberAddress(f"m{n}", net.address(n), (2379, 2380), net.before(n)) for n in range(3)
        ]

        def work() -> None:
            with cluster(version, places) as nodes:
                _survives(nodes, lambda leader: net.cut_off(nodes.index(leader)), tmp_path)

        net.at_hub(work)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_watch_at_a_member_that_is_cut_off(version: str) -> None:
    """It ends by itself and goes on at another member, from where it was."""
    with hosts(3) as net:
        places = [
            MemberAddress(f"m{n}", net.address(n), (2379, 2380), net.before(n)) for n in range(3)
        ]

        def work() -> None:
            with cluster(version, places) as nodes, ThreadPoolExecutor(1) as pool:
                leader = nodes.leader()
                rest = [node for node in nodes if node is not leader]
                orders = Orders(rest[0])
                one = orders.registry(endpoints=_endpoints(nodes, leader))
                cursor = one.watch(None, 60)
                watch = pool.submit(one.watch, cursor, 60)
                net.cut_off(nodes.index(leader))
                new = nodes.leader(rest)
                orders.register(at=new)
                assert watch.result(timeout=60) == str(new.revision())
                assert one.lists()

        net.at_hub(work)
