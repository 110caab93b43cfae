"""
Services as they are registered on nodes, whatever they are called: where each gets its work.

Consul cannot be asked by address: the agent is asked for its services, the catalog for those of
one node, or for the instances of one service.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

from deregister_agent.host.addresses import host, split, without_brackets
from deregister_agent.host.own_addresses import OwnAddresses
from deregister_agent.host.resolving import parsed
from deregister_agent.registries.consul.operations import ConsulOperation
from deregister_agent.registries.consul.watch import OwnEntries

_VIRTUAL = {"virtual", "consul-virtual"}
"""Tags of addresses that only a mesh knows: its proxies lead from there to the service's own."""
_PROXY = "connect-proxy"


class Place(NamedTuple):
    """Where work is sent to; an empty host is the node."""

    host: str
    port: int
    as_what: str = ""  # empty for the address of the service itself


@dataclass(frozen=True, slots=True)
class NodeService:
    """A service as it is registered on a node; without an address it is at that of the node."""

    id: str
    service: str
    address: str
    port: int
    node: str
    node_addresses: tuple[str, ...] = ()
    kind: str = ""  # connect-proxy and the like; empty for an app
    more: tuple[Place, ...] = ()
    proxy_of: str = ""  # the ID of the service that it is the proxy of

    @classmethod
    def read(cls, raw: Any, node: str, *node_addresses: str) -> "NodeService":
        """Return the service that an element of a list of them describes."""
        address, port = _plain(raw.get("Address") or "", raw.get("Port") or 0)
        kind = raw.get("Kind") or ""
        proxy = (raw.get("Proxy") or {}) if kind == _PROXY else {}
        more = (*_tagged(raw, port), *_behind(proxy))
        return cls(
            *(raw["ID"], raw["Service"], address, port, node, node_addresses, kind, more),
            proxy.get("DestinationServiceID") or "",
        )

    @property
    def is_proxy(self) -> bool:
        """Whether it is the proxy of an app, and no app itself."""
        return self.kind == _PROXY

    @property
    def at(self) -> str:
        """Where it gets its work."""
        return self.address or next(iter(self.node_addresses), "")

    @property
    def places(self) -> tuple[Place, ...]:
        """All where it may get work: its address, its tagged ones, the app behind a proxy."""
        return (Place(self.at, self.port), *self.more)


class Lead(NamedTuple):
    """That a service leads to the instance: from which place, and whether that is known."""

    place: Place
    known: bool  # else the place is at a name, and what that stands for is not known


@dataclass(frozen=True, slots=True)
class OwnPlace:
    """Where the instance gets its work: by its entries, on the agent's node if that is known."""

    own: OwnEntries
    node: str | None
    addresses: OwnAddresses

    def has_node_of(self, one: NodeService) -> bool:
        """Tell whether a service is on the node of the agent, which is taken for the instance's."""
        return self.node in (None, one.node)

    def is_(self, one: NodeService) -> bool:
        """Tell whether a service is the instance itself: IDs are unique only within a node."""
        return one.id == self.own.id and self.has_node_of(one)

    def lead(self, one: NodeService) -> Lead | None:
        """Return how work for a service gets to the instance; None if it does not."""
        here, doubt = self.has_node_of(one), None
        for place in one.places:
            if place.port == self.own.port:
                meant = self._is_meant_by(place, one)
                if meant:
                    return Lead(place, known=True)
                if meant is None:
                    doubt = Lead(place, known=False)
        if here and one.proxy_of == self.own.id:
            return Lead(Place(one.at, one.port, "as the proxy of it"), known=True)
        return doubt

    def _is_meant_by(self, place: Place, one: NodeService) -> bool | None:
        here, at = self.has_node_of(one), host(place.host)
        if here and (at == "" or at in map(host, one.node_addresses)):
            return True
        return self.addresses.are_meant_by(at, here=here) if at else False


def on_agent(operation: ConsulOperation, node: str, only: str = "") -> Iterator[NodeService]:
    """
    Yield the services that the agent itself has; *only* is a filter.

    The agent does not tell the addresses of its node.
    """
    for raw in operation.from_agent("/v1/agent/services", only).values():
        yield NodeService.read(raw, node)


class Node(NamedTuple):
    """What the catalog has of a node: nothing of one that it does not show."""

    addresses: tuple[str, ...] = ()  # its own first
    services: tuple[NodeService, ...] = ()


def on_node(operation: ConsulOperation, name: str, only: str = "") -> Node:
    """Return what the catalog has of a node; *only* is a filter for its services."""
    answer = operation.from_catalog(f"/v1/catalog/node/{quote(name, safe='')}", only)
    if not answer:
        return Node()
    node, places = answer["Node"]["Node"], node_places(answer["Node"])
    services = (NodeService.read(raw, node, *places) for raw in answer["Services"].values())
    return Node(places, tuple(services))


def of_service(operation: ConsulOperation, name: str, only: str) -> Iterator[NodeService]:
    """Yield the instances of a service, on whatever node; *only* is a filter."""
    target = f"/v1/health/service/{quote(name, safe='')}"
    for raw in operation.from_catalog(target, only):
        yield NodeService.read(raw["Service"], raw["Node"]["Node"], *node_places(raw["Node"]))


def node_places(node: Any) -> tuple[str, ...]:
    """Return the addresses of a node, its own first."""
    return node["Address"], *(node.get("TaggedAddresses") or {}).values()


def _plain(address: str, port: int) -> tuple[str, int]:
    """Return host and port, of an address that is a URL or has its port with it, as some write."""
    text = address.partition("://")[2].partition("/")[0] or address
    parts = split(text) if parsed(without_brackets(text)) is None else None
    return (parts[0], port or parts[1]) if parts is not None else (text, port)


def _tagged(raw: Any, port: int) -> Iterator[Place]:
    for tag, place in (raw.get("TaggedAddresses") or {}).items():
        if tag not in _VIRTUAL:
            at = _plain(place["Address"], place.get("Port") or port)
            yield Place(*at, f"by its {tag} address")


def _behind(proxy: Any) -> Iterator[Place]:
    if port := proxy.get("LocalServicePort"):
        address = proxy.get("LocalServiceAddress") or "127.0.0.1"  # Consul's own default
        yield Place(address, port, "as the proxy of what is there")
