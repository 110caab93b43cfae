"""
What looks like the instance in Consul, where it was not found under its name and ID.

Asked once an absence is in doubt, so it may cost some requests; all share one deadline. Consul
cannot be asked by address: the agent is asked for its services, the catalog for those of the
nodes with our address, and for the instances of services whose name comes near to ours.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from enum import IntEnum

from deregister_agent.errors import AgentError
from deregister_agent.host.addresses import host, joined
from deregister_agent.host.mentions import is_any_name
from deregister_agent.host.own_addresses import OwnAddresses
from deregister_agent.registries.consul.node_services import (
    NodeService,
    OwnPlace,
    of_service,
    on_agent,
    on_node,
)
from deregister_agent.registries.consul.operations import ConsulOperation
from deregister_agent.registries.consul.reasons import without_agent
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
class LookAlikes:
    """What could be the instance *own* of *service*, among what an operation finds."""

    own: OwnEntries
    service: str
    not_ours: Sequence[str] = ()

    def sentences(self, operation: ConsulOperation) -> list[str]:
        """Name what looks like the instance, and nothing that does so much less."""
        node = operation.node()
        found: dict[tuple[str, str, str], NodeService] = {}
        for one in on_agent(operation, node or ""):
            found[one.service, one.id, one.node] = one
        # What the agent has told is worth saying also where the catalog does not answer.
        with suppress(AgentError):
            for one in self._in_catalog(operation, node):
                found[one.service, one.id, one.node] = one
        rated = sorted(
            ((self._likeness(one, node), -_ratio(one.id, self.own.id), one.id, one.node), one)
            for one in found.values()
            if one.id not in self.not_ours and not one.is_proxy  # which is never the instance
        )
        best = min((rate[0] for rate, _ in rated), default=Likeness.NONE)
        # Where something is at our place, what has but a like name is another instance.
        limit = min(max(best, Likeness.SAME_ID), Likeness.SAME_NAME)
        likely = [one for rate, one in rated if rate[0] <= limit]
        return [self._sentence(one, node, operation) for one in likely[:MOST]]

    def _in_catalog(self, operation: ConsulOperation, node: str | None) -> Iterator[NodeService]:
        address = host(self.own.address)
        nodes = operation.from_catalog("/v1/catalog/nodes", f'Address == "{address}"')
        # A Consul before 1.5 knows no filters, and tells of all.
        near = [raw["Node"] for raw in nodes if host(raw["Address"]) == address][:_FEW]
        for name in dict.fromkeys([*([node] if node else []), *near]):
            yield from on_node(operation, name).services
        for name in _close(self.service, operation.from_catalog("/v1/catalog/services")):
            yield from of_service(operation, name, self.own.filter)

    def _likeness(self, one: NodeService, node: str | None) -> Likeness:
        # No name is resolved: what is at one is named where it may be meant.
        place = OwnPlace(self.own, node, OwnAddresses(self.own.address, {}))
        here, lead = place.has_node_of(one), place.lead(one)
        alike = max(_ratio(one.service, self.service), _ratio(one.id, self.own.id)) >= _NEAR
        if lead is not None and (lead.known or here):
            return Likeness.SAME
        if one.port == self.own.port and alike and is_any_name(one.at):
            return Likeness.SAME_PORT
        if one.id == self.own.id:
            return Likeness.SAME if here else Likeness.SAME_ID
        return Likeness.SAME_NAME if here and alike and not one.kind else Likeness.NONE

    def _sentence(self, one: NodeService, node: str | None, operation: ConsulOperation) -> str:
        """Say what it is, and what to write for it to be meant."""
        at = joined(one.at, one.port)
        lines = [f"service = {json.dumps(one.service)}", f"service_id = {json.dumps(one.id)}"]
        if one.port != self.own.port:
            lines.append(f"address = {json.dumps(at)}")
        way = f"write {' and '.join(lines)}"
        if node not in (None, one.node):
            there = operation.has_agent(one.node)
            elsewhere = f"{way}, and as url the agent of node {one.node}"
            way = elsewhere if there else without_agent(one.node, one.id)
        node_of = f"node {one.node}" if one.node else "the agent's node"
        return f"ID {one.id!r} of service {one.service!r} at {at} on {node_of} ({way})"


def _ratio(one: str, other: str) -> float:
    return SequenceMatcher(None, one.casefold(), other.casefold()).ratio()


def _close(name: str, known: Iterable[str]) -> list[str]:
    """Return the names that come near to one, in whatever letter case."""
    spelled = {each.casefold(): each for each in known}
    return [spelled[each] for each in get_close_matches(name.casefold(), spelled, n=_FEW)]
