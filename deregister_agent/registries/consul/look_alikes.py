"""
What looks like the instance in Consul, where it was not found under its name and ID.

Asked once an absence is in doubt, so it may cost some requests; all share one deadline. Consul
cannot be asked by address: the agent is asked for its services, the catalog for those of the
nodes with our address, and for the instances of services whose name comes near to ours.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from enum import IntEnum
from typing import Any
from urllib.parse import quote

from deregister_agent.errors import AgentError
from deregister_agent.host.addresses import host, joined
from deregister_agent.host.mentions import is_any_name
from deregister_agent.registries.consul.operations import ConsulOperation
from deregister_agent.registries.consul.watch import OwnEntries

MOST = 5
"""Sentences."""
_NEAR = 0.6
"""How much of two names must be the same: what difflib takes for a close match."""
_FEW = 3
"""Nodes, and names of services, that are looked into."""


class Likeness(IntEnum):
    """How likely a service is the instance; the likeliest first."""

    SAME = 1  # our port at our place, or our ID on our node
    SAME_ID = 2  # on another node, which the agent at the url does not hold
    SAME_PORT = 3  # under a name and an ID like ours
    SAME_NAME = 4  # or one like it, at another port of our node
    NONE = 5


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

    @classmethod
    def read(cls, raw: Any, node: str, *node_addresses: str) -> "NodeService":
        """Return the service that an element of a list of them describes."""
        address, port = raw.get("Address") or "", raw.get("Port") or 0
        kind = raw.get("Kind") or ""
        return cls(raw["ID"], raw["Service"], address, port, node, node_addresses, kind)

    @property
    def at(self) -> str:
        """Where it gets its work."""
        return self.address or next(iter(self.node_addresses), "")


@dataclass(frozen=True, slots=True)
class LookAlikes:
    """What could be the instance *own* of *service*, among what an operation finds."""

    own: OwnEntries
    service: str

    def sentences(self, operation: ConsulOperation) -> list[str]:
        """Name what looks like the instance, and nothing that does so much less."""
        node = operation.node()
        found: dict[tuple[str, str, str], NodeService] = {}
        for raw in operation.from_agent("/v1/agent/services").values():
            one = NodeService.read(raw, node or "")
            found[one.service, one.id, one.node] = one
        # What the agent has told is worth saying also where the catalog does not answer.
        with suppress(AgentError):
            for one in self._in_catalog(operation, node):
                found[one.service, one.id, one.node] = one
        rated = sorted(
            ((self._likeness(one, node), -_ratio(one.id, self.own.id), one.id, one.node), one)
            for one in found.values()
        )
        best = min((rate[0] for rate, _ in rated), default=Likeness.NONE)
        # Where something is at our place, what has but a like name is another instance.
        limit = min(max(best, Likeness.SAME_ID), Likeness.SAME_NAME)
        likely = [one for rate, one in rated if rate[0] <= limit]
        return [self._sentence(one, node) for one in likely[:MOST]]

    def _in_catalog(self, operation: ConsulOperation, node: str | None) -> Iterator[NodeService]:
        address = host(self.own.address)
        nodes = operation.from_catalog("/v1/catalog/nodes", f'Address == "{address}"')
        # A Consul before 1.5 knows no filters, and tells of all.
        near = [raw["Node"] for raw in nodes if host(raw["Address"]) == address][:_FEW]
        for name in dict.fromkeys([*([node] if node else []), *near]):
            answer = operation.from_catalog(f"/v1/catalog/node/{quote(name, safe='')}")
            yield from _on_node(answer) if answer else ()
        for name in _close(self.service, operation.from_catalog("/v1/catalog/services")):
            target = f"/v1/health/service/{quote(name, safe='')}"
            for raw in operation.from_catalog(target, self.own.filter):
                yield NodeService.read(raw["Service"], raw["Node"]["Node"], *_places(raw["Node"]))

    def _likeness(self, one: NodeService, node: str | None) -> Likeness:
        here = node in (None, one.node)
        alike = max(_ratio(one.service, self.service), _ratio(one.id, self.own.id)) >= _NEAR
        if one.port == self.own.port:
            at, ours = host(one.at), host(self.own.address)
            if at == ours or (here and (at == "" or at in map(host, one.node_addresses))):
                return Likeness.SAME
            if is_any_name(at) and (here or alike):
                return Likeness.SAME if here else Likeness.SAME_PORT
        if one.id == self.own.id:
            return Likeness.SAME if here else Likeness.SAME_ID
        return Likeness.SAME_NAME if here and alike and not one.kind else Likeness.NONE

    def _sentence(self, one: NodeService, node: str | None) -> str:
        """Say what it is, and what to write for it to be meant."""
        at = joined(one.at, one.port)
        lines = [f"service = {json.dumps(one.service)}", f"service_id = {json.dumps(one.id)}"]
        if one.port != self.own.port:
            lines.append(f"address = {json.dumps(at)}")
        elsewhere = (
            f", and as url the agent of node {one.node}" if node not in (None, one.node) else ""
        )
        node_of = f"node {one.node}" if one.node else "the agent's node"
        return (
            f"ID {one.id!r} of service {one.service!r} at {at} on {node_of} "
            f"(write {' and '.join(lines)}{elsewhere})"
        )


def _on_node(answer: Any) -> Iterator[NodeService]:
    """Yield the services in an answer of /v1/catalog/node."""
    node = answer["Node"]
    for raw in answer["Services"].values():
        yield NodeService.read(raw, node["Node"], *_places(node))


def _places(node: Any) -> list[str]:
    return [node["Address"], *(node.get("TaggedAddresses") or {}).values()]


def _ratio(one: str, other: str) -> float:
    return SequenceMatcher(None, one.casefold(), other.casefold()).ratio()


def _close(name: str, known: Iterable[str]) -> list[str]:
    """Return the names that come near to one, in whatever letter case."""
    spelled = {each.casefold(): each for each in known}
    return [spelled[each] for each in get_close_matches(name.casefold(), spelled, n=_FEW)]
