"""
What the consul registry says to Consul's HTTP API, and how it reads the answers.

Facts are from Consul's api-docs (agent/service, health, features/blocking) and from runs
against Consul 1.8.7. A token that may not read gets an empty list instead of an error,
hence check_rights().
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from deregister_agent.errors import AgentError
from deregister_agent.net.fetcher import Answer, Fetcher

RIGHTS = "its token needs agent:read, node:read, service:read and service:write"


@dataclass(frozen=True, slots=True)
class Entry:
    """One instance as the catalog has it."""

    id: str
    node: str
    address: str
    port: int
    critical: Mapping[str, str]  # its critical checks, those of the node too, and their notes
    indexes: Sequence[int] = ()  # of its last change, and of those of its node and its checks

    @classmethod
    def read(cls, raw: Any) -> "Entry":
        """Make one of what /v1/health/service lists."""
        service, node = raw["Service"], raw["Node"]
        critical = {c["CheckID"]: c["Notes"] for c in raw["Checks"] if c["Status"] == "critical"}
        address = service["Address"] or node["Address"]
        parts = (service, node, *raw["Checks"])
        indexes = [part.get(k, 0) for part in parts for k in ("CreateIndex", "ModifyIndex")]
        return cls(service["ID"], node["Node"], address, service["Port"], critical, indexes)

    @property
    def on_loopback(self) -> bool:
        """Whether its address means another host on each node."""
        return self.address in ("localhost", "::1") or self.address.startswith("127.")


@dataclass(frozen=True, slots=True)
class Place:
    """Where in Consul the service is; empty means the agent's own."""

    service: str
    id: str
    node: str = ""
    datacenter: str = ""
    namespace: str = ""

    @property
    def maintenance(self) -> str:
        """The ID of the check that maintenance mode is made of."""
        return f"_service_maintenance:{self.id}"


class Talk:
    """
    The calls of one operation, which share its deadline.

    Each raises AgentError if there is no answer in time, or not a good one, and may raise
    KeyError, TypeError, AttributeError or ValueError if it is not one of Consul's.
    """

    def __init__(self, fetcher: Fetcher, place: Place, timeout: float) -> None:
        self._fetcher = fetcher
        self.place = place
        self._deadline = time.monotonic() + timeout

    def left(self) -> float:
        """Return the seconds that are left for the operation, never quite none."""
        return max(self._deadline - time.monotonic(), 0.001)

    def entries(
        self, index: str = "", wait: float = 0.0, only: str = ""
    ) -> tuple[list[Entry], str]:
        """
        Return the instances of the service, as a quorum of the servers has them, and an index.

        With the index of an earlier answer, return once it has moved or after *wait* seconds.
        *only* is a filter; a Consul that knows none returns them all.
        """
        blocking = (("index", index), ("wait", f"{max(1, wait * 1000):.0f}ms")) if index else ()
        target = f"/v1/health/service/{quote(self.place.service, safe='')}?consistent"
        answer = self._call("GET", target, *self._catalog, *blocking, ("filter", only))
        # An index below 1 would make the next call return at once, again and again.
        return [Entry.read(raw) for raw in answer.json()], str(
            max(1, int(answer.headers["X-Consul-Index"]))
        )

    def node(self) -> str | None:
        """Return the name of the agent's node; None if the token may not know."""
        if self.place.node:
            return self.place.node
        answer = self._call("GET", "/v1/agent/self", ok=(200, 403))
        return str(answer.json()["Config"]["NodeName"]) if answer.status == 200 else None  # noqa: PLR2004

    def is_open(self) -> bool:
        """Tell whether there are no ACLs, so that nothing is kept from anybody."""
        asked = [{"Resource": "service", "Access": "read", "Segment": self.place.service}]
        target = "/v1/internal/acl/authorize"
        answer = self._call("POST", target, *self._catalog, payload=asked, ok=(200, 401))
        return answer.status == 401 and "disabled" in answer.text  # noqa: PLR2004

    def check_rights(self, node: str | None) -> None:
        """Raise AgentError unless the token may read the service, and the node it is on."""
        if node is None:
            raise AgentError(f"it cannot learn the name of its node: {RIGHTS}; or set node")
        wanted = {"service": self.place.service, "node": node}
        asked = [{"Resource": k, "Access": "read", "Segment": v} for k, v in wanted.items()]
        answer = self._call(
            "POST", "/v1/internal/acl/authorize", *self._catalog, payload=asked, ok=(200, 401)
        )
        if answer.status == 401 and "disabled" in answer.text:  # noqa: PLR2004 - ACLs are off
            return
        if refused := [right["Resource"] for right in answer.json() if right["Allow"] is not True]:
            raise AgentError(
                f"it may not read the {' and the '.join(refused)}, so Consul does not show "
                f"whether the instance is there: {RIGHTS}"
            )

    def held(self) -> dict[str, Any] | None:
        """Return the service as this agent has it; None if it does not."""
        answer = self._call("GET", self._agent("service"), self._namespace, ok=(200, 404))
        if answer.status == 404:  # noqa: PLR2004
            return None
        service: dict[str, Any] = answer.json()
        if service["Service"] != self.place.service:
            raise AgentError(
                f"it is registered as an instance of {service['Service']!r}, not of "
                f"{self.place.service!r}: correct service or service_id"
            )
        return service

    def checks(self) -> dict[str, str]:
        """Return the checks of the service that this agent has, by ID, and their notes."""
        answer = self._call("GET", "/v1/agent/checks", self._namespace)
        checks = answer.json().items()
        return {id_: c["Notes"] for id_, c in checks if c["ServiceID"] == self.place.id}

    def sidecars(self) -> list[str]:
        """Return the IDs of the proxies of the service that this agent has."""
        proxies = ("filter", 'Kind == "connect-proxy"')
        services = self._call("GET", "/v1/agent/services", self._namespace, proxies).json()
        return sorted(
            id_
            for id_, one in services.items()
            if one.get("Kind") == "connect-proxy"
            and one["Proxy"].get("DestinationServiceID") == self.place.id
        )

    def deregister(self) -> None:
        """Take the service out of the agent. That the agent does not know it is no error."""
        self._change(self._agent("service/deregister"))

    def maintain(self, *, reason: str | None) -> None:
        """Switch maintenance mode on, with a reason, or off. An earlier reason stays."""
        switch = (("enable", "true"), ("reason", reason)) if reason else (("enable", "false"),)
        self._change(self._agent("service/maintenance"), *switch)

    def register(self, definition: Mapping[str, Any]) -> None:
        """Register the service with the agent."""
        self._call("PUT", "/v1/agent/service/register", self._namespace, payload=definition)

    def _change(self, target: str, *params: tuple[str, str]) -> None:
        answer = self._call("PUT", target, self._namespace, *params, ok=(200, 404, 500))
        # Both 404 and 500 are in use for "Unknown service"; 500 is so for all else too.
        if answer.status != 200 and "unknown service" not in answer.text.lower():  # noqa: PLR2004
            raise _unwanted(answer)

    def _agent(self, what: str) -> str:
        return f"/v1/agent/{what}/{quote(self.place.id, safe='')}"

    @property
    def _namespace(self) -> tuple[str, str]:
        return ("ns", self.place.namespace)

    @property
    def _catalog(self) -> tuple[tuple[str, str], ...]:
        return (self._namespace, ("dc", self.place.datacenter))

    def _call(
        self,
        method: str,
        target: str,
        *params: tuple[str, str],
        payload: object = None,
        ok: tuple[int, ...] = (200,),
    ) -> Answer:
        given = [param for param in params if param[1]]
        answer = self._fetcher.call(
            method, target, params=given, payload=payload, timeout=self.left()
        )
        if answer.status not in ok:
            raise _unwanted(answer)
        return answer


def _unwanted(answer: Answer) -> AgentError:
    said = " ".join(answer.text.split())[:200]
    advice = f" ({RIGHTS})" if answer.status == 403 else ""  # noqa: PLR2004
    return AgentError(f"Consul answered {answer.status} {said}{advice}")


def read_definition(file: Path, service_id: str) -> dict[str, Any]:
    """
    Return the definition of *service_id* in *file*, as the API takes it.

    The file is one that Consul itself would load: ``{"service": {...}}`` or
    ``{"services": [...]}``; or the service alone, as for the API. Raises AgentError.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        services = content.get("services") or [content.get("service", content)]
        found = [_for_api(service) for service in services]
        named = {s.setdefault("ID", s["Name"]): s for s in found}
        return named[service_id]
    except OSError as e:
        raise AgentError(f"cannot read {file}: {e.strerror}") from e
    except KeyError as e:
        raise AgentError(f"{file} defines no service with the id {service_id!r}") from e
    except (ValueError, TypeError, AttributeError) as e:
        raise AgentError(f"{file} is not a service definition in JSON") from e


def _for_api(service: Mapping[str, Any]) -> dict[str, Any]:
    """Spell the keys as the API does: a file may say check_id or id, the API only CheckID."""
    made = {_camel(key): value for key, value in service.items()}
    if "Checks" in made:
        made["Checks"] = [_check_for_api(check) for check in made["Checks"]]
    if "Check" in made:
        made["Check"] = _check_for_api(made["Check"])
    return made


def _check_for_api(check: Mapping[str, Any]) -> dict[str, Any]:
    made = {_camel(key): value for key, value in check.items()}
    return {("CheckID" if key == "ID" else key): value for key, value in made.items()}


def _camel(key: str) -> str:
    words = key.split("_") if key.islower() else [key]
    return "".join("ID" if word == "id" else word[:1].upper() + word[1:] for word in words)
