"""What else in Consul sends work to the instance: other IDs, other services, proxies."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

from deregister_agent.errors import few
from deregister_agent.host.addresses import joined
from deregister_agent.registries.consul.nearby_services import NearbyServices
from deregister_agent.registries.consul.node_services import Lead, NodeService
from deregister_agent.registries.consul.operations import ConsulOperation
from deregister_agent.registries.consul.reasons import left_out, without_agent
from deregister_agent.registries.consul.watch import OwnEntries

MOST = 5
"""Registrations that are named."""


class Findings(NamedTuple):
    """What else sends work to the instance, and what might without its being seen."""

    sentences: Sequence[str]
    unseen: Sequence[str]  # parts of one sentence


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose other registrations are looked for, and which of them do not count."""

    own: OwnEntries
    service: str
    not_ours: Sequence[str]  # IDs
    obeyed: bool  # consumers ask for healthy instances: what is in maintenance gets no work


def find(operation: ConsulOperation, wanted: Wanted) -> Findings:
    """
    Name each registration but the instance's own that leads to it, and is not left out.

    One at a name for which no address is found counts if it is with the instance's own agent.
    What is critical counts, as it gets work again once its check passes.
    """
    nearby = NearbyServices(operation, wanted.own, wanted.service)
    services, place = list(nearby.services()), nearby.place
    leads = [
        (one, lead)
        for one in services
        if not place.is_(one) and one.id not in wanted.not_ours
        if (lead := place.lead(one)) is not None
    ]
    doubt = nearby.is_on_own_machine
    counts = [each for each in leads if each[1].known or (doubt and place.has_node_of(each[0]))]
    passed_over = [lead.place.host for one, lead in leads if (one, lead) not in counts]
    idle = _Idle(operation, wanted, nearby.node)
    counts = [(one, lead) for one, lead in counts if not idle.is_one(one)]
    tell = _Sentences(operation, wanted, nearby.node, is_there=any(map(place.is_, services)))
    said = [tell.of(one, lead) for one, lead in counts[:MOST]]
    if len(counts) > MOST:
        more = [one.id for one, _ in counts[MOST:]]
        said.append(f"{len(more)} more registrations lead to it: {few(more)}")
    return Findings(said, [*nearby.unseen, *_unresolved(passed_over), *_unreadable(operation)])


def sidecar_of(service_id: str) -> str:
    """Return the ID that Consul gives to a proxy that is registered as a part of a service."""
    return f"{service_id}-sidecar-proxy"


class _Idle:
    """Which registrations get no work while the instance is out, by the checks of their node."""

    def __init__(self, operation: ConsulOperation, wanted: Wanted, node: str | None) -> None:
        self._operation, self._wanted, self._node = operation, wanted, node

    def is_one(self, one: NodeService) -> bool:
        """
        Tell whether consumers that obey pass it over, or it goes when the instance goes.

        In mode deregister Consul takes a sidecar out with its service: withdraw() looks
        whether it has. An alias check is no reason there: it passes once its service is gone.
        """
        ours, own = one.proxy_of == self._wanted.own.id, self._wanted.own
        if not self._wanted.obeyed:
            return ours and one.id == sidecar_of(own.id) and self._node in (None, one.node)
        checks = list(self._checks(one))
        maintenance = {f"_service_maintenance:{one.id}", "_node_maintenance"}
        critical = {check["CheckID"] for check in checks if check["Status"] == "critical"}
        aliases = any(c.get("Type") == "alias" and c["ServiceID"] == one.id for c in checks)
        return not maintenance.isdisjoint(critical) or (ours and aliases)

    def _checks(self, one: NodeService) -> Iterable[Any]:
        if self._node in (None, one.node):
            return list(self._operation.from_agent("/v1/agent/checks").values())
        target = f"/v1/health/node/{quote(one.node, safe='')}"
        return list(self._operation.from_catalog(target))


@dataclass(frozen=True, slots=True)
class _Sentences:
    """How a registration is told of, and what to do about it."""

    operation: ConsulOperation
    wanted: Wanted
    node: str | None
    is_there: bool  # the instance itself is, so that the other is another one

    def of(self, one: NodeService, lead: Lead) -> str:
        """Say what leads to the instance and where, and the lines that settle it."""
        at = joined(lead.place.host or "the address of its node", lead.place.port)
        how = f" ({lead.place.as_what})" if lead.place.as_what else ""
        where = f" on node {one.node}" if one.node else ""
        said = f"ID {one.id!r} of service {one.service!r}{where} sends work to {at}{how}"
        if not lead.known:
            said += f", and what {lead.place.host} stands for is not known here"
        return f"{said}: {self._remedy(one)}"

    def _remedy(self, one: NodeService) -> str:
        lines = f"service = {json.dumps(one.service)} and service_id = {json.dumps(one.id)}"
        line = left_out(one.id, self.wanted.not_ours)
        elsewhere = self.node not in (None, one.node)
        if elsewhere:
            lines += f", with the agent of node {one.node} as url"
        if elsewhere and not self.operation.has_agent(one.node):
            ways = without_agent(one.node, one.id)
        elif one.proxy_of:
            ways = "deregister it before the drain"
        elif not self.is_there:
            ways = f"write {lines} if that is the instance"
        else:
            ways = f"deregister it, or withdraw it too by a registry of its own ({lines})"
        own = one.id == self.wanted.own.id  # which cannot be left out
        return ways if own else f"{ways}; or write {line} if it brings the instance no work"


def _unresolved(names: list[str]) -> list[str]:
    said = "what is registered with its port at names that stand for no address here"
    return [f"{said}: {few(names)}"] if names else []


def _unreadable(operation: ConsulOperation) -> list[str]:
    hidden = operation.hidden()
    return [f"the {' and '.join(hidden)} that its token may not read"] if hidden else []
