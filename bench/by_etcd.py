"""etcd as the front: clients read the keys below a prefix."""

import json
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus

from bench.proxies import SERVICES
from bench.targets import HTTP, Doors, Targets
from deregister_agent.fetch import Fetcher, FetchError
from tests.servers.etcd import Etcd, Nodes, Place, cluster
from tests.servers.netns import Hosts


class ByEtcd:
    """Clients read the keys below a prefix in etcd, once a second."""

    name = "etcd"
    settle = 1.5

    def __init__(self, server: Etcd, doors: Doors) -> None:
        self.server, self._doors = server, doors
        for name in doors[HTTP]:
            self.back(name)

    def targets(self) -> Targets:
        """Return the addresses that are there."""
        return self._by_door({key: v for key, (v, _) in self.server.keyspace().items()})

    def out(self, name: str) -> None:
        """Delete its keys."""
        for door in self._doors:
            self.server.delete(f"{_prefix(door)}{name}")

    def back(self, name: str) -> None:
        """Write its keys."""
        for door, ports in self._doors.items():
            self.server.put(f"{_prefix(door)}{name}", f"127.0.0.1:{ports[name]}")

    def table(self, name: str) -> str:
        """Return registries for its keys."""
        return "".join(
            f'[[instance.registry]]\nkind = "etcd"\nname = "etcd-{door}"\n'
            f"endpoints = {json.dumps(self.endpoints())}\n"
            f'key = "{_prefix(door)}{name}"\nprefix = "{_prefix(door)}"\n'
            for door in self._doors
        )

    def endpoints(self) -> Sequence[str]:
        """Return what the agent may ask."""
        return [self.server.url]

    def _by_door(self, keys: Mapping[str, str]) -> Targets:
        return {
            door: [value for key, value in keys.items() if key.startswith(_prefix(door))]
            for door in self._doors
        }


_ALL = {"key": "AA==", "range_end": "AA=="}
"""Every key there is."""


class ByCluster(ByEtcd):
    """The same on a cluster of three, each on a host of its own; the agent knows them all."""

    MEMBERS = 3

    def __init__(self, nodes: Nodes, net: Hosts, doors: Doors) -> None:
        self._nodes, self._net = nodes, net
        self._readers = [Fetcher(node.url, timeout=1.0) for node in nodes]
        super().__init__(nodes.leader(), doors)

    def targets(self) -> Targets:
        """Return the addresses that the first member which answers knows."""
        for reader in tuple(self._readers):
            with suppress(FetchError):
                answer = reader.call("POST", "/v3/kv/range", payload=_ALL)
                if answer.status == HTTPStatus.OK:
                    pairs = [(one["key"], one["value"]) for one in answer.json()["kvs"]]
                    return self._by_door(
                        {b64decode(k).decode(): b64decode(v).decode() for k, v in pairs}
                    )
            self._readers.append(self._readers.pop(0))  # asked last next time
        raise LookupError("no member of the cluster answers")

    def endpoints(self) -> Sequence[str]:
        """Return every member, the leader first."""
        leader = self._nodes.leader()
        return [leader.url, *(node.url for node in self._nodes if node is not leader)]

    @contextmanager
    def without_leader(self) -> Iterator[None]:
        """Cut the leader off from the other members, until the block ends."""
        cut = self._nodes.index(self._nodes.leader())
        self._net.cut_off(cut)
        try:
            yield
        finally:
            self._net.join(cut)


@contextmanager
def etcd_cluster(doors: Doors) -> Iterator[ByCluster]:
    """Run one on hosts that are there already: see bench.faults."""
    net = Hosts(ByCluster.MEMBERS)
    with cluster("3.5", [_place(net, n) for n in range(ByCluster.MEMBERS)]) as nodes:
        yield ByCluster(nodes, net, doors)


def _place(net: Hosts, n: int) -> Place:
    return Place(f"m{n}", net.address(n), (2379, 2380), net.before(n))


def _prefix(door: str) -> str:
    return f"/{SERVICES[door]}/"
