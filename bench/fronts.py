"""What sends the instances their work: Consul, etcd, Nginx or HAProxy, each a real server."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from bench.proxies import ByHaproxy, ByNginx, Ports
from tests.servers.child import Child, free_ports
from tests.servers.consul import Consul, consul
from tests.servers.etcd import Etcd, etcd
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


@contextmanager
def front(kind: str, ports: Ports, folder: Path) -> Iterator[Front]:
    """Run the front of that name, with all instances in it."""
    match kind:
        case "Consul":
            with consul() as server:
                yield ByConsul(server, ports, folder)
        case "etcd":
            with etcd("3.5") as server:
                yield ByEtcd(server, ports)
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
