"""Consul as the front: clients ask it for the instances."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from bench.proxies import SERVICE
from bench.targets import HTTP, RPC, Doors, Targets
from deregister_agent.fetch import FetchError
from tests.servers.child import wait_until
from tests.servers.consul import Consul


class ByConsul:
    """
    Clients ask Consul for the instances that pass their check, once a second.

    The port for gRPC stands in the service's metadata, as gRPC clients of Consul look for it.
    """

    name = "Consul"
    settle = 1.5
    _PORT = "gRPC_port"

    def __init__(self, server: Consul, doors: Doors, folder: Path) -> None:
        self.server, self._doors, self._folder = server, doors, folder
        for name in doors[HTTP]:
            self._definition(name).write_text(json.dumps({"service": self._service(name)}))
            self.back(name)

    def targets(self) -> Targets:
        """Return those that are listed and healthy."""
        entries = self.server.ok("GET", f"/v1/health/service/{SERVICE}?passing")
        services = [entry["Service"] for entry in entries]
        return {
            HTTP: [f"{one['Address']}:{one['Port']}" for one in services],
            RPC: [f"{one['Address']}:{one['Meta'][self._PORT]}" for one in services],
        }

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
        port = self._doors[HTTP][name]
        check = {"TCP": f"127.0.0.1:{port}", "Interval": "1s", "Status": "passing"}
        place = {"ID": name, "Name": SERVICE, "Address": "127.0.0.1", "Port": port}
        meta = {self._PORT: str(self._doors[RPC][name])}
        return {**place, "Meta": meta, "Check": {"Name": "listens", **check}}


class ByConsulCluster(ByConsul):
    """The same with three servers; the instances are registered with an agent that is none."""

    def __init__(
        self, servers: Sequence[Consul], agent: Consul, doors: Doors, folder: Path
    ) -> None:
        self._servers = servers
        super().__init__(agent, doors, folder)

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


@contextmanager
def consul_cluster(doors: Doors, folder: Path) -> Iterator[ByConsulCluster]:
    """Run three servers and an agent, until the block ends."""
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
        agent = stack.enter_context(servers[0].client())
        yield ByConsulCluster(servers, agent, doors, folder)
