"""
The services among which a second registration of the instance can be found.

Those of the agent, of its node, of the nodes with an address of the instance, and the instances
of the instance's own service. Not those of the whole catalog, which can be asked for one
service at a time only.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from deregister_agent.errors import few
from deregister_agent.host.addresses import host
from deregister_agent.host.own_addresses import OwnAddresses, is_of_its_host
from deregister_agent.host.resolving import resolved
from deregister_agent.registries.consul.node_services import (
    NodeService,
    OwnPlace,
    node_places,
    of_service,
    on_agent,
    on_node,
)
from deregister_agent.registries.consul.operations import ConsulOperation, Denied
from deregister_agent.registries.consul.watch import OwnEntries

_MOST_NODES = 8
"""Nodes beside the agent's own whose services are asked for."""
_SHARE = 0.4
"""The part of what is left of the timeout in which names are resolved, each time."""


class NearbyServices:
    """
    What one operation finds of them, and what names in them stand for.

    ``unseen`` says what could not be looked at, in parts of sentences.
    """

    def __init__(self, operation: ConsulOperation, own: OwnEntries, service: str) -> None:
        self.node = operation.node()
        self.unseen: list[str] = []
        self._operation, self._own, self._service = operation, own, service
        self._names: dict[str, frozenset[str]] = {}
        self._found: dict[tuple[str, str, str], NodeService] = {}
        self._node_addresses: tuple[str, ...] = ()  # as the catalog has them; empty if unknown
        self._collect()

    @property
    def place(self) -> OwnPlace:
        """Where the instance gets its work, by the names that are resolved so far."""
        return OwnPlace(self._own, self.node, OwnAddresses(self._own.address, self._names))

    @property
    def is_on_own_machine(self) -> bool:
        """Whether the agent's node is on the instance's machine, as far as can be told."""
        node, own = self._node_addresses, OwnAddresses(self._own.address, self._names)
        return not node or any(own.are_meant_by(each, here=True) for each in node)

    def services(self) -> Iterator[NodeService]:
        """Yield each service once; all that the names stand for is resolved before, in time."""
        self._resolve(
            place.host
            for one in self._found.values()
            for place in one.places
            if place.port == self._own.port
        )
        yield from self._found.values()

    def _collect(self) -> None:
        own, operation = self._own, self._operation
        with suppress(Denied):  # what nobody may see is left out, and hidden() tells of it
            self._take(on_agent(operation, self.node or "", own.filter_on_node))
        if self.node:
            self._node_addresses = self._take_node(self.node)
        else:
            self.unseen.append("what the catalog alone has of its node, whose name is hidden")
        for name in self._near_nodes():
            self._take_node(name)
        with suppress(Denied):
            self._take(of_service(operation, self._service, own.filter))

    def _take_node(self, name: str) -> tuple[str, ...]:
        """Take the services of a node, and return its addresses; none where they are hidden."""
        with suppress(Denied):
            node = on_node(self._operation, name, self._own.filter_on_node)
            self._take(node.services)
            return node.addresses
        return ()

    def _take(self, services: Iterable[NodeService]) -> None:
        for one in services:
            self._found[one.service, one.id, one.node] = one

    def _near_nodes(self) -> list[str]:
        """Return the other nodes that have an address of the instance, or of the agent's node."""
        known = (self._own.address, *self._node_addresses)
        self._resolve(known)
        ours = {one for each in known for one in self._names.get(host(each), ())}
        ours = {one for one in ours if not is_of_its_host(one)}
        nodes = self._nodes(ours)
        self._resolve(raw["Address"] for raw in nodes)
        self._note([n["Node"] for n in nodes if host(n["Address"]) not in self._names])
        near = [raw["Node"] for raw in nodes if not ours.isdisjoint(self._stands_for(raw))]
        near = [name for name in near if name != self.node]
        if len(near) > _MOST_NODES:
            self.unseen.append(f"{len(near) - _MOST_NODES} more nodes with its address")
        return near[:_MOST_NODES]

    def _nodes(self, ours: Iterable[str]) -> list[Any]:
        """Return the nodes with one of the addresses, or with a host name for an address."""
        keys = ("Address", "TaggedAddresses.lan", "TaggedAddresses.wan")
        ways = ['(Address not matches "^[0-9.]+$" and Address not matches ":")']
        ways += [f'{key} == "{one}"' for one in ours for key in keys]
        with suppress(Denied):
            # A Consul before 1.5 knows no filters, and tells of all.
            return list(self._operation.from_catalog("/v1/catalog/nodes", " or ".join(ways)))
        return []

    def _stands_for(self, raw: Any) -> set[str]:
        return {
            one for each in node_places(raw) for one in self._names.get(host(each), {host(each)})
        }

    def _resolve(self, names: Iterable[str]) -> None:
        unknown = [name for name in names if host(name) not in self._names]
        self._names.update(resolved(unknown, self._operation.left() * _SHARE))

    def _note(self, nodes: list[str]) -> None:
        if nodes:
            self.unseen.append(
                f"the services of nodes at names that stand for no address here: {few(nodes)}"
            )
