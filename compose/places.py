"""What a part of the stack is, and where each is found: addresses, ports and folders."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

HOSTS = (1, 2, 3)
NAMES = tuple(f"shop-{n}" for n in HOSTS)
SERVICE = "shop"
AGENT, GATEWAY, GATEWAY_RPC, LOAD = 8650, 8080, 8090, 9100
CONSUL, ETCD, REDIS, AMQP, PROMETHEUS = 8500, 2379, 6379, 5672, 9090
APPS, OWN, RPC = 8070, 8170, 8270  # the first app has 8081, 8181 and 8281
"""Ports."""

CONSULS = ("consul-server", "consul-server-2", "consul-server-3")
"""Consul's servers: the first alone, or all."""
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
    **{name: 20 + n for n, name in enumerate(CONSULS[1:])},
}

FRONTS = ("Consul", "etcd", "Nginx")
"""What sends the apps their requests; each is a part that may be left out."""
BROKER, WATCHERS = "broker", "watchers"
"""The other such parts: RabbitMQ, and who uses or watches the stack."""
SETTLE = 1.5  # seconds: clients ask Consul and etcd once a second
QUIET = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """
    Where one stack runs, which *parts* of it, and what is set there.

    Its addresses begin with *net*, its files lie below *root*. In containers each part has
    its own files, so root is empty; as processes of one machine they share the file system.
    *broker* is its place, and *members* are URLs of etcd, where those are none of *net*.
    *consuls* is how many servers Consul has. A drain has *deadline* seconds; an app's own
    shutdown *waits* for its background work, or does not.
    """

    net: str
    root: str = ""
    parts: Collection[str] = (*FRONTS, BROKER, WATCHERS)
    broker: tuple[str, int] | None = None
    members: Sequence[str] = ()
    consuls: int = 1
    deadline: float = 120.0
    waits: bool = False

    def at(self, name: str) -> str:
        """Return the address of a service; all of one host have the same."""
        return f"{self.net}.{NUMBERS[name]}"

    def app(self, name: str) -> tuple[str, int]:
        """Return where an app takes requests."""
        return self.at(name), APPS + NUMBERS[name]

    def rpc(self, name: str) -> tuple[str, int]:
        """Return where an app takes calls by gRPC."""
        return self.at(name), RPC + NUMBERS[name]

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
        return self.file(f"/tmp/{name}".rstrip("/"), of)

    def socket(self, agent: str) -> str:
        """Return the Unix socket of an agent."""
        return self.file("/run/deregister-agent/agent.sock", agent)

    def state(self, agent: str) -> str:
        """Return the folder of an agent's journal."""
        return self.file("/var/lib/deregister-agent", agent)

    @property
    def queue(self) -> tuple[str, int]:
        """Where the broker takes messages."""
        return self.broker or (self.at("broker"), AMQP)

    @property
    def etcd(self) -> Sequence[str]:
        """The URLs of etcd."""
        return self.members or (self.url("etcd", ETCD),)

    @property
    def agents(self) -> Sequence[str]:
        """The names of the agents."""
        gateway = ("gateway-agent",) if "Nginx" in self.parts else ()
        return (*gateway, *map(agent_of, NAMES))

    @property
    def settle(self) -> float:
        """For how many seconds a client may go on to use what it was told."""
        return SETTLE if {"Consul", "etcd"} & set(self.parts) else 0.0


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


def agent_of(name: str) -> str:
    """Return what the agent of an app, or of the gateway, is called."""
    return "gateway-agent" if name == "gateway" else name.replace("shop", "agent")


def joined(place: tuple[str, int]) -> str:
    """Return ``ADDRESS:PORT``."""
    return f"{place[0]}:{place[1]}"
