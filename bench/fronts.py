"""What sends the instances their work: Consul, etcd, Nginx or HAProxy, each a real server."""

import json
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

from bench.proxies import ByHaproxy, ByNginx, Ports
from deregister_agent.fetch import Fetcher, FetchError
from tests.servers.child import Child, free_ports, wait_until
from tests.servers.consul import Consul, consul
from tests.servers.etcd import Etcd, Nodes, Place, cluster, etcd
from tests.servers.netns import Hosts
from tests.servers.nginx import nginx

SERVICE = "shop"


class Front(Protocol):
    """One way by which requests reach the instances."""

    name: str
    settle: float  # seconds for which a client may go on to use what it was told

    @property
    def server(self) -> Child:
        """Return its process."""

    def targets(self) -> Sequence[str]:
        """Return where a client sends its next request."""

    def out(self, name: str) -> None:
        """Take an instance out, as a deploy script does."""

    def back(self, name: str) -> None:
        """Put an instance back, as a deploy script or the app itself does."""

    def table(self, name: str) -> str:
        """Return the table of our own agent's configuration."""


class ByConsul:
    """Clients ask Consul for the instances that pass their check, once a second."""

    name = "Consul"
    settle = 1.5

    def __init__(self, server: Consul, ports: Ports, folder: Path) -> None:
        self.server, self._ports, self._folder = server, ports, folder
        for name in ports:
            self._definition(name).write_text(json.dumps({"service": self._service(name)}))
            self.back(name)

    def targets(self) -> Sequence[str]:
        """Return those that are listed and healthy."""
        entries = self.server.ok("GET", f"/v1/health/service/{SERVICE}?passing")
        return [f"{entry['Service']['Address']}:{entry['Service']['Port']}" for entry in entries]

    def out(self, name: str) -> None:
        """Deregister it."""
        self.server.deregister(name)

    def back(self, name: str) -> None:
        """Register it, and wait until the catalog has it."""
        self.server.register(self._service(name))

    def table(self, name: str) -> str:
        """Return a registry that registers it again with its check."""
        return (
            f'[[instance.registry]]\nkind = "consul"\nurl = "{self.server.url}"\n'
            f'service_id = "{name}"\ndefinition = "{self._definition(name)}"\n'
        )

    def _definition(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _service(self, name: str) -> dict[str, Any]:
        port = self._ports[name]
        check = {"TCP": f"127.0.0.1:{port}", "Interval": "1s", "Status": "passing"}
        place = {"ID": name, "Name": SERVICE, "Address": "127.0.0.1", "Port": port}
        return {**place, "Check": {"Name": "listens", **check}}


class ByConsulCluster(ByConsul):
    """The same with three servers; the instances are registered with an agent that is none."""

    def __init__(
        self, servers: Sequence[Consul], agent: Consul, ports: Ports, folder: Path
    ) -> None:
        self._servers = servers
        super().__init__(agent, ports, folder)

    def leader(self) -> Consul:
        """Wait until all three servers are well; return the one that leads."""
        wait_until(self._is_well, "all servers of Consul are well", limit=60.0, pause=0.2)
        port = int(self.server.ok("GET", "/v1/status/leader").rpartition(":")[2])
        return next(each for each in self._servers if each.ports["server"] == port)

    def _is_well(self) -> bool:
        with suppress(FetchError):
            answer = self.server.call("GET", "/v1/operator/autopilot/health")
            return bool(answer.status == HTTPStatus.OK and answer.json()["Healthy"])
        return False


class ByEtcd:
    """Clients read the keys below a prefix in etcd, once a second."""

    name = "etcd"
    settle = 1.5
    _PREFIX = f"/{SERVICE}/"

    def __init__(self, server: Etcd, ports: Ports) -> None:
        self.server, self._ports = server, ports
        for name in ports:
            self.back(name)

    def targets(self) -> Sequence[str]:
        """Return the addresses that are there."""
        return [value for key, (value, _) in self.server.keyspace().items() if SERVICE in key]

    def out(self, name: str) -> None:
        """Delete its key."""
        self.server.delete(self._key(name))

    def back(self, name: str) -> None:
        """Write its key."""
        self.server.put(self._key(name), f"127.0.0.1:{self._ports[name]}")

    def table(self, name: str) -> str:
        """Return a registry for its key."""
        return (
            f'[[instance.registry]]\nkind = "etcd"\nendpoints = ["{self.server.url}"]\n'
            f'key = "{self._key(name)}"\nprefix = "{self._PREFIX}"\n'
        )

    def _key(self, name: str) -> str:
        return f"{self._PREFIX}{name}"


_ALL = {"key": "AA==", "range_end": "AA=="}
"""Every key there is."""


class ByCluster(ByEtcd):
    """The same on a cluster of three, each on a host of its own; the agent knows them all."""

    MEMBERS = 3

    def __init__(self, nodes: Nodes, net: Hosts, ports: Ports) -> None:
        self._nodes, self._net = nodes, net
        self._readers = [Fetcher(node.url, timeout=1.0) for node in nodes]
        super().__init__(nodes.leader(), ports)

    def targets(self) -> Sequence[str]:
        """Return the addresses that the first member which answers knows."""
        for reader in tuple(self._readers):
            with suppress(FetchError):
                answer = reader.call("POST", "/v3/kv/range", payload=_ALL)
                if answer.status == HTTPStatus.OK:
                    return [b64decode(one["value"]).decode() for one in answer.json()["kvs"]]
            self._readers.append(self._readers.pop(0))  # asked last next time
        raise LookupError("no member of the cluster answers")

    def table(self, name: str) -> str:
        """Return a registry that is asked through every member, the leader first."""
        leader = self._nodes.leader()
        others = [node.url for node in self._nodes if node is not leader]
        endpoints = json.dumps([leader.url, *others])
        return (
            f'[[instance.registry]]\nkind = "etcd"\nendpoints = {endpoints}\n'
            f'key = "{self._key(name)}"\nprefix = "{self._PREFIX}"\n'
        )

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
def front(kind: str, ports: Ports, folder: Path) -> Iterator[Front]:
    """Run the front of that name, with all instances in it."""
    match kind:
        case "Consul":
            with consul() as server:
                yield ByConsul(server, ports, folder)
        case "Consul cluster":
            with _consul_cluster(folder) as servers, servers[0].client() as agent:
                yield ByConsulCluster(servers, agent, ports, folder)
        case "etcd":
            with etcd("3.5") as server:
                yield ByEtcd(server, ports)
        case "etcd cluster":  # on hosts that are there already: see bench.faults
            net = Hosts(ByCluster.MEMBERS)
            with cluster("3.5", [_place(net, n) for n in range(ByCluster.MEMBERS)]) as nodes:
                yield ByCluster(nodes, net, ports)
        case "Nginx":
            port = free_ports(1)[0]
            with nginx("nginx-1.26", folder, ByNginx.config(ports, port)) as server:
                yield ByNginx(server, ports, port)
        case "HAProxy":
            proxy = ByHaproxy(folder, ports)
            with proxy.server:
                yield proxy
        case _:
            raise LookupError(f"no such front: {kind}")


def _place(net: Hosts, n: int) -> Place:
    return Place(f"m{n}", net.address(n), (2379, 2380), net.before(n))


@contextmanager
def _consul_cluster(folder: Path) -> Iterator[Sequence[Consul]]:
    """Run three servers, until the block ends."""
    with ExitStack() as stack:
        servers: list[Consul] = []
        for n in range(3):
            known = [f"127.0.0.1:{each.ports['serf_lan']}" for each in servers]
            one = Consul(
                folder / f"consul-{n}",
                server=True,
                bootstrap_expect=3,
                node_name=f"s{n}",
                retry_join=known,
                retry_interval="500ms",
            )
            servers.append(stack.enter_context(one))
        for one in servers:
            one.wait_ready(one.has_leader)
        yield servers
