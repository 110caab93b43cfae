"""
What the consul registry asks of Consul's HTTP API, and how it reads the answers.

Facts are from Consul's api-docs (agent/service, health, features/blocking) and from runs
against Consul 1.8.7. A token that may not read gets an empty list instead of an error,
hence check_rights().
"""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from deregister_agent.errors import AgentError, excerpt
from deregister_agent.net.fetcher import Answer, Fetcher
from deregister_agent.registries.consul.definition import writable

RIGHTS = "its token needs agent:read, node:read, service:read and service:write"

_AGENT_IS_THERE = "serfHealth"
"""The check of each node that has an agent; a node that was only written down has none."""


class UnknownService(AgentError):  # noqa: N818 - the fact
    """The agent does not have the service."""


class Denied(AgentError):  # noqa: N818 - the fact
    """The token may not do that."""


class LookAlike(AgentError):  # noqa: N818 - the fact
    """What is there may be the instance, and is not recognised as it."""


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One instance as the catalog has it."""

    id: str
    node: str
    address: str
    port: int
    critical: Mapping[str, str]  # its critical checks, those of the node too, and their notes
    indexes: Sequence[int] = ()  # of its last change, and of those of its node and its checks
    has_agent: bool = True  # its node has, which could take it out

    @classmethod
    def read(cls, raw: Any) -> "CatalogEntry":
        """Return the entry that an element of the answer of /v1/health/service describes."""
        service, node = raw["Service"], raw["Node"]
        critical = {c["CheckID"]: c["Notes"] for c in raw["Checks"] if c["Status"] == "critical"}
        address = service["Address"] or node["Address"]
        parts = (service, node, *raw["Checks"])
        indexes = [part.get(k, 0) for part in parts for k in ("CreateIndex", "ModifyIndex")]
        has_agent = any(check["CheckID"] == _AGENT_IS_THERE for check in raw["Checks"])
        place = (service["ID"], node["Node"], address, service["Port"])
        return cls(*place, critical, indexes, has_agent)


@dataclass(frozen=True, slots=True)
class RegisteredService:
    """Where in Consul the service is; an empty node, datacenter or namespace is the agent's own."""

    name: str
    id: str
    node: str = ""
    datacenter: str = ""
    namespace: str = ""

    @property
    def maintenance(self) -> str:
        """The ID of the check that maintenance mode is made of."""
        return f"_service_maintenance:{self.id}"


class ConsulOperation:
    """
    The calls of one operation, which share its deadline.

    Each raises AgentError if there is no answer in time, or not a good one, and may raise
    KeyError, TypeError, AttributeError or ValueError if the answer is not one of Consul's.
    """

    def __init__(self, fetcher: Fetcher, service: RegisteredService, timeout: float) -> None:
        self._fetcher = fetcher
        self.service = service
        self._id = quote(service.id, safe="")
        self._deadline = time.monotonic() + timeout

    def left(self) -> float:
        """Return the seconds that are left for the operation, never quite none."""
        return max(self._deadline - time.monotonic(), 0.001)

    def entries(
        self, index: str = "", wait: float = 0.0, only: str = ""
    ) -> tuple[list[CatalogEntry], str]:
        """
        Return the instances of the service, as a quorum of the servers has them, and an index.

        With the index of an earlier answer, return once the index has moved or after *wait*
        seconds. *only* is a filter; a Consul that knows no filters returns all instances.
        """
        blocking = (("index", index), ("wait", f"{max(1, wait * 1000):.0f}ms")) if index else ()
        target = f"/v1/health/service/{quote(self.service.name, safe='')}?consistent"
        answer = self._call("GET", target, *self._catalog, *blocking, ("filter", only))
        # An index below 1 would make the next call return at once, again and again.
        return [CatalogEntry.read(raw) for raw in answer.json()], str(
            max(1, int(answer.headers["X-Consul-Index"]))
        )

    def node(self) -> str | None:
        """Return the name of the agent's node; None if the token may not know."""
        if self.service.node:
            return self.service.node
        answer = self._call("GET", "/v1/agent/self", ok=(HTTPStatus.OK, HTTPStatus.FORBIDDEN))
        known = answer.status == HTTPStatus.OK
        return str(answer.json()["Config"]["NodeName"]) if known else None

    def is_open(self) -> bool:
        """Tell whether there are no ACLs, so that nothing is kept from anybody."""
        return self._readable(service=self.service.name) is None

    def check_rights(self, node: str | None) -> None:
        """Raise AgentError unless the token may read the service, and the node it is on."""
        if node is None:
            raise AgentError(f"it cannot learn the name of its node: {RIGHTS}; or set node")
        readable = self._readable(service=self.service.name, node=node)
        if readable is None:
            return
        if refused := [each for each in ("service", "node") if each not in readable]:
            raise AgentError(
                f"it may not read the {' and the '.join(refused)}, so Consul does not show "
                f"whether the instance is there: {RIGHTS}"
            )

    def hidden(self) -> list[str]:
        """Return of what there may be some that the token may not read: services, nodes."""
        readable = self._readable(service="", node="")  # as no rule for a prefix but "" says
        if readable is None:
            return []
        return [f"{one}s" for one in ("service", "node") if one not in readable]

    def has_agent(self, node: str) -> bool:
        """Tell whether a node has an agent, and was not only written into the catalog."""
        checks = self.from_catalog(f"/v1/health/node/{quote(node, safe='')}")
        return any(check["CheckID"] == _AGENT_IS_THERE for check in checks)

    def _readable(self, **wanted: str) -> set[str] | None:
        """Return which of the resources wanted the token may read; None where there are no ACLs."""
        asked = [{"Resource": k, "Access": "read", "Segment": v} for k, v in wanted.items()]
        target, ok = "/v1/internal/acl/authorize", (HTTPStatus.OK, HTTPStatus.UNAUTHORIZED)
        answer = self._call("POST", target, *self._catalog, payload=asked, ok=ok)
        if answer.status == HTTPStatus.UNAUTHORIZED and "disabled" in answer.text:
            return None
        return {right["Resource"] for right in answer.json() if right["Allow"] is True}

    def from_agent(self, target: str, only: str = "") -> Any:
        """Return what the agent says to a read that is none of the others; *only* is a filter."""
        return self._call("GET", target, self._namespace, ("filter", only)).json()

    def from_catalog(self, target: str, only: str = "") -> Any:
        """Return what the catalog says to such a read; *only* is a filter."""
        return self._call("GET", target, *self._catalog, ("filter", only)).json()

    def held(self) -> dict[str, Any] | None:
        """Return the service as this agent has it; None if the agent does not have it."""
        target, ok = f"/v1/agent/service/{self._id}", (HTTPStatus.OK, HTTPStatus.NOT_FOUND)
        answer = self._call("GET", target, self._namespace, ok=ok)
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        service: dict[str, Any] = answer.json()
        if service["Service"] != self.service.name:
            name = service["Service"]
            raise LookAlike(
                f"it is registered as an instance of {name!r}, not of {self.service.name!r}: "
                f"correct service or service_id (service = {json.dumps(name)})"
            )
        return service

    def snapshot(self) -> dict[str, Any] | None:
        """Return the service as the agent has it, and the names of what hangs on it."""
        service = self.held()
        if service is None:
            return None
        checks = self.checks()
        return {
            "service": writable(service),
            "maintenance": checks.pop(self.service.maintenance, None),
            "checks": sorted(checks),
            "sidecars": self.sidecars(),
        }

    def checks(self) -> dict[str, str]:
        """Return the checks of the service that this agent has, by ID, and their notes."""
        checks = self._agent.checks().items()
        return {id_: c["Notes"] for id_, c in checks if c["ServiceID"] == self.service.id}

    def sidecars(self) -> list[str]:
        """Return the IDs of the proxies for the service that this agent has."""
        services = self._agent.services(filter_expr='Kind == "connect-proxy"').items()
        return sorted(
            id_
            for id_, one in services
            if one.get("Kind") == "connect-proxy"
            and one["Proxy"].get("DestinationServiceID") == self.service.id
        )

    def deregister(self) -> None:
        """Take the service out of the agent, if the agent has it."""
        with suppress(UnknownService):
            self._agent.service.deregister(self._id)

    def maintain(self, *, reason: str | None) -> None:
        """Switch maintenance mode on, with a reason, or off. An earlier reason stays."""
        with suppress(UnknownService):
            self._agent.service.maintenance(self._id, enable=bool(reason), reason=reason)

    def register(self, definition: Mapping[str, Any]) -> None:
        """
        Register the service with the agent, from the whole definition.

        Not by py-consul, whose register() drops what it has no parameter for.
        """
        target = "/v1/agent/service/register"
        self._call("PUT", target, self._namespace, payload=definition)

    @cached_property
    def _agent(self) -> Any:
        """The calls of py-consul to the agent; each goes through _call()."""
        from deregister_agent.registries.consul.client import Client  # noqa: PLC0415 - 50 ms

        return Client(
            lambda method, path, params: self._call(method, path, self._namespace, *params)
        ).agent

    @property
    def _namespace(self) -> tuple[str, str]:
        return ("ns", self.service.namespace)

    @property
    def _catalog(self) -> tuple[tuple[str, str], ...]:
        return (self._namespace, ("dc", self.service.datacenter))

    def _call(
        self,
        method: str,
        target: str,
        *params: tuple[str, str],
        payload: object = None,
        ok: tuple[int, ...] = (HTTPStatus.OK,),
    ) -> Answer:
        given = [param for param in params if param[1]]
        answer = self._fetcher.call(
            method, target, params=given, payload=payload, timeout=self.left()
        )
        if answer.status not in ok:
            raise _refusal(answer)
        return answer


def _refusal(answer: Answer) -> AgentError:
    said = excerpt(answer.text, 200)
    advice = f" ({RIGHTS})" if answer.status == HTTPStatus.FORBIDDEN else ""
    # Consul answers 404 or 500 for a service that it does not know, by its version; 500 means
    # all else too.
    lost = answer.status in (HTTPStatus.NOT_FOUND, HTTPStatus.INTERNAL_SERVER_ERROR)
    kind = UnknownService if lost and "unknown service" in answer.text.lower() else AgentError
    if answer.status == HTTPStatus.FORBIDDEN:
        kind = Denied
    return kind(f"Consul answered {answer.status} {said}{advice}")
