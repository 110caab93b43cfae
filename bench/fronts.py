"""What sends the instances their work: Consul, etcd, Nginx or HAProxy, each a real server."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from bench.by_consul import ByConsul, ByConsulCluster, consul_cluster
from bench.by_etcd import ByCluster, ByEtcd, etcd_cluster
from bench.proxies import ByHaproxy, ByNginx
from bench.targets import Doors, Targets, by_door
from tests.servers.child import Child, free_ports
from tests.servers.consul import consul
from tests.servers.etcd import etcd
from tests.servers.nginx import nginx

__all__ = ["EVERY", "FRONTS", "ByCluster", "ByConsulCluster", "ByEvery", "Front", "front"]

FRONTS = ("Consul", "etcd", "Nginx")
EVERY = "all three"
"""The front that is Consul, etcd and Nginx together, each with its share of the clients."""


class Front(Protocol):
    """One way by which requests reach the instances."""

    name: str
    settle: float  # seconds for which a client may go on to use what it was told

    @property
    def server(self) -> Child:
        """Return its process."""

    def targets(self) -> Targets | Sequence[str]:
        """Return where a client sends its next request, for each door; a list is for HTTP."""

    def out(self, name: str) -> None:
        """Take an instance out, as a deploy script does."""

    def back(self, name: str) -> None:
        """Put an instance back, as a deploy script or the app itself does."""

    def table(self, name: str) -> str:
        """Return the table of our own agent's configuration."""


class ByEvery:
    """Several fronts at once, and each client goes by one of them."""

    name = EVERY

    def __init__(self, fronts: Sequence[Front]) -> None:
        self._fronts = fronts
        self.settle = max(front.settle for front in fronts)

    @property
    def server(self) -> Child:
        """Return the first one's process."""
        return self._fronts[0].server

    def targets(self) -> Targets:
        """Return the targets of all, such that each gets about the same share."""
        told = [by_door(front.targets()) for front in self._fronts]
        found: dict[str, list[str]] = {}
        for door in told[0]:
            most = max(len(targets[door]) for targets in told)
            for targets in told:
                one = targets[door]
                found.setdefault(door, []).extend(list(one) * (most // max(1, len(one))))
        return found

    def out(self, name: str) -> None:
        """Take it out of all."""
        for front in self._fronts:
            front.out(name)

    def back(self, name: str) -> None:
        """Put it back into all."""
        for front in self._fronts:
            front.back(name)

    def table(self, name: str) -> str:
        """Return the registries of all."""
        return "".join(front.table(name) for front in self._fronts)


@contextmanager
def front(kind: str, doors: Doors, folder: Path) -> Iterator[Front]:
    """Run the front of that name, with all instances in it."""
    match kind:
        case "Consul":
            with consul() as server:
                yield ByConsul(server, doors, folder)
        case "Consul cluster":
            with consul_cluster(doors, folder) as servers:
                yield servers
        case "etcd":
            with etcd("3.5") as server:
                yield ByEtcd(server, doors)
        case "etcd cluster":
            with etcd_cluster(doors) as members:
                yield members
        case "Nginx":
            ports = dict(zip(doors, free_ports(len(doors)), strict=True))
            with nginx("nginx-1.26", folder, ByNginx.config(doors, ports)) as server:
                yield ByNginx(server, doors, ports)
        case "HAProxy":
            proxy = ByHaproxy(folder, doors)
            with proxy.server:
                yield proxy
        case _ if kind == EVERY:
            with ExitStack() as last:
                yield ByEvery([last.enter_context(front(one, doors, folder)) for one in FRONTS])
        case _:
            raise LookupError(f"no such front: {kind}")
