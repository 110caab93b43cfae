"""A service in Consul with an instance of its own, for tests of the consul registry."""

from itertools import count
from typing import Any

from deregister_agent.demo.stage import free_ports
from deregister_agent.model import Instance
from deregister_agent.registries.consul.registry import Consul as Registry
from deregister_agent.registries.consul.registry import Options, build
from tests.servers.consul import Consul

_NUMBERS = count(1)  # a port that was let go may be drawn again, and its service still be known


class Orders:
    """Instance orders-N-1 of service orders-N, at the agent given."""

    def __init__(self, agent: Consul, *, service_id: str = "") -> None:
        self.agent = agent
        self.port = free_ports(1)[0]
        self.service = f"orders-{self.port}-{next(_NUMBERS)}"
        self.id = service_id or f"{self.service}-1"

    def definition(self, **more: Any) -> dict[str, Any]:
        """Return what to register it with."""
        place = {"ID": self.id, "Name": self.service, "Address": "127.0.0.1", "Port": self.port}
        return place | more

    def register(self, *, token: str | None = None, **more: Any) -> None:
        """Register it with the agent, as the app would, and wait for the catalog."""
        self.agent.register(self.definition(**more), token=token)

    def register_only(self) -> None:
        """Register it with the agent, as the app would."""
        self.agent.register_only(self.definition())

    def entry(self) -> dict[str, Any] | None:
        """Return it as the catalog has it, asked past the registry under test."""
        found = (e for e in self.agent.entries(self.service) if e["Service"]["ID"] == self.id)
        return next(found, None)

    def checks(self) -> dict[str, str]:
        """Return the status of each of its own checks in the catalog."""
        entry = self.entry() or {"Checks": []}
        return {c["CheckID"]: c["Status"] for c in entry["Checks"] if c["ServiceID"] == self.id}

    def registry(self, **options: Any) -> Registry:
        """Return the registry for it."""
        instance = Instance(self.id, self.service, "127.0.0.1", self.port)
        return build(Options(kind="consul", **{"url": self.agent.url} | options), instance)
