"""Registries of several servers, of which one can be taken away: for the faults."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from compose.fronts import Asked
from compose.places import CONSUL, CONSULS, Place
from deregister_agent.net.fetcher import FetchError
from tests.servers.child import wait_until
from tests.servers.etcd import MemberAddress as Spot
from tests.servers.etcd import Nodes, cluster
from tests.servers.netns import Hosts, hosts_around

MEMBERS = 3


def consul_leader(place: Place) -> str:
    """Wait until all servers of Consul are well; return the name of the one that leads."""
    servers = Asked([place.url(name, CONSUL) for name in CONSULS])

    def are_well() -> bool:
        with suppress(FetchError):
            return bool(servers.ask("GET", "/v1/operator/autopilot/health")["Healthy"])
        return False

    wait_until(are_well, "all servers of Consul are well", limit=60.0, pause=0.2)
    address = servers.ask("GET", "/v1/status/leader").partition(":")[0]
    return next(name for name in CONSULS if place.at(name) == address)


class Cluster:
    """A cluster of etcd, each member on a host of its own."""

    def __init__(self, nodes: Nodes, net: Hosts) -> None:
        self._nodes, self._net = nodes, net

    @property
    def urls(self) -> Sequence[str]:
        """Where every member is, the leader first."""
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
def etcd_cluster() -> Iterator[Cluster]:
    """Run one on hosts that are there already: see bench/faults.py."""
    net = hosts_around()
    spots = [Spot(f"m{n}", net.address(n), (2379, 2380), net.before(n)) for n in range(MEMBERS)]
    with cluster("3.5", spots) as nodes:
        yield Cluster(nodes, net)
