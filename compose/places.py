"""What a part of the stack is, and where each is found: addresses, ports and folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

HOSTS = (1, 2, 3)
NAMES = tuple(f"shop-{n}" for n in HOSTS)
AGENT, GATEWAY, LOAD = 8650, 8080, 9100
CONSUL, ETCD, REDIS, AMQP, PROMETHEUS = 8500, 2379, 6379, 5672, 9090
APPS, OWN = 8070, 8170  # the first app has 8081 and 8181
"""Ports. Those of the apps differ, as an app takes who has its port for a part of itself."""

NUMBERS = {
    "consul-server": 2,
    "etcd": 3,
    "gateway": 4,
    "gateway-agent": 4,
    "redis": 6,
    "broker": 7,
    "prometheus": 8,
    "load": 9,
    **{f"{kind}-{n}": 10 + n for kind in ("host", "consul", "shop", "agent") for n in HOSTS},
}


@dataclass(frozen=True, slots=True)
class Place:
    """
    Where one stack runs: its addresses begin with *net*, its files lie below *root*.

    In containers each part has its own files, so root is empty; as processes of one
    machine they share the file system. *broker* is its place, where it is none of *net*.
    """

    net: str
    root: str = ""
    broker: tuple[str, int] | None = None

    def at(self, name: str) -> str:
        """Return the address of a service; all of one host have the same."""
        return f"{self.net}.{NUMBERS[name]}"

    def app(self, name: str) -> tuple[str, int]:
        """Return where an app takes requests."""
        return self.at(name), APPS + NUMBERS[name]

    def own(self, name: str) -> tuple[str, int]:
        """Return where its agent alone talks to an app."""
        return self.loopback(name), OWN + NUMBERS[name]

    def loopback(self, name: str) -> str:
        """Return an address that only the services of the same host reach."""
        return self.at(name) if self.root else "127.0.0.1"

    def url(self, name: str, port: int) -> str:
        """Return where that service answers HTTP."""
        return f"http://{self.at(name)}:{port}"

    def file(self, path: str, of: str = "") -> str:
        """Return where *path* is; *of* names the service that has it for itself."""
        if not self.root:
            return path
        return f"{self.root}/{of}{path}" if of else f"{self.root}{path}"

    def scratch(self, of: str, name: str = "") -> str:
        """Return where a service keeps what may be lost."""
        return self.file(f"/tmp/{name}".rstrip("/"), of)  # noqa: S108 - in a container of its own

    @property
    def queue(self) -> tuple[str, int]:
        """Where the broker takes messages."""
        return self.broker or (self.at("broker"), AMQP)


CONTAINERS = Place("172.28.8")


@dataclass(frozen=True, slots=True)
class Service:
    """
    One part of the stack.

    *image* is the variable that names its image. *healthy* is a command that succeeds once
    it is ready, and is run *every* so many seconds; *port* accepts connections then. One that
    runs *once* is ready when it has ended. *compose* is what only containers need. Without a
    command it exists in containers only, and so does one that sleeps: it stands for a machine.
    """

    name: str
    image: str
    command: Sequence[str] = ()
    needs: Sequence[str] = ()
    healthy: Sequence[str] = ()
    every: int = 2
    port: int = 0
    once: bool = False
    compose: Mapping[str, Any] = field(default_factory=dict)
