"""The status of one instance at the agent of another host; see docs/reference/http-api.md."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import quote

from deregister_agent.errors import AgentError, excerpt
from deregister_agent.model import DrainKind, Instance, Listing, OnDeadline, Outcome, Phase
from deregister_agent.net.fetcher import Answer, Fetcher
from deregister_agent.status import Status, read

_AnyModel = TypeVar("_AnyModel")

ACCEPTED, OK, NOT_FOUND = 202, 200, 404
PROBLEM = "application/problem+json"
OUR_TYPES = "urn:deregister-agent:"


OUT = frozenset({Phase.SETTLING, Phase.DRAINING, Phase.DRAINED, Phase.GONE})
"""The phases in which the registries there may be believed that they send no work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FarStatus(Status):
    """The status of an instance at an agent that may be newer than this one."""

    newer: str = ""
    """What this agent does not know of what that one said; the instance then counts as listed."""


@dataclass(frozen=True, slots=True)
class _Named:
    """The part of a status that a list of instances is needed for."""

    instance: Instance


@dataclass(frozen=True, slots=True)
class _Instances:
    instances: tuple[_Named, ...]


@dataclass(frozen=True, slots=True)
class _Problem:
    """The part of a problem (RFC 9457) that is needed here."""

    detail: str
    type: str = ""


class RefusedThereError(AgentError):
    """That agent will not take the instance out, however often it is asked."""


class FarInstance:
    """One instance in the API of one agent. Every call raises AgentError where that fails."""

    def __init__(self, fetcher: Fetcher, name: str) -> None:
        self._fetcher = fetcher
        self._path = f"/v1/instances/{quote(name, safe='')}"

    def status(self, limit: float, **question: str) -> FarStatus | None:
        """
        Ask how it stands there; None: that agent says that it has no such instance.

        *question* is ``look``, or ``wait`` and ``cursor``, as the HTTP API has them. What
        is returned was said after this call.
        """
        nonce = secrets.token_hex(8)
        params = [*question.items(), ("nonce", nonce)]
        answer = self._fetcher.call("GET", self._path, params=params, timeout=limit)
        if answer.status == NOT_FOUND and _is_unknown(_problem(answer)):
            return None
        status = _status(answer, OK)
        if status.nonce != nonce:
            raise AgentError("this is the answer to another question: is there a cache at url?")
        return status

    def instances(self, limit: float) -> list[Instance]:
        """Return all the instances that are there, in the order of that agent."""
        answer = self._fetcher.call("GET", "/v1/instances", timeout=limit)
        if answer.status != OK:
            raise _refusal(answer)
        return [one.instance for one in _parsed(answer, _Instances).instances]

    def ask(self, action: str, wish: Mapping[str, Any], limit: float) -> FarStatus:
        """Ask for *action*, which is stop-traffic or start-traffic."""
        target = f"{self._path}/{action}"
        return _status(self._fetcher.call("POST", target, payload=wish, timeout=limit), ACCEPTED)


def listing_of(status: FarStatus) -> Listing:
    """
    Tell what the gateway shows of the instance. Raises AgentError where that is not known.

    While that agent acts, or has given up, it counts as listed; while it serves, as long as
    any registry there lists it, or has not told. If each of them says that it does not even
    have it, it is looked for in the wrong place there, and so from here.
    """
    if status.newer or status.phase not in (OUT | {Phase.SERVING}):
        return Listing.LISTED
    if status.phase is Phase.SERVING:
        if len(unlisted(status)) < len(status.registries):
            return Listing.LISTED
        absent = all(each.listing is Listing.ABSENT for each in status.registries)
        return Listing.ABSENT if absent else Listing.OUT
    for each in status.registries:
        if each.listed is None:
            raise AgentError(each.error or f"{each.name} there has not told")
    return Listing.LISTED if any(each.listed for each in status.registries) else Listing.OUT


def unlisted(status: FarStatus) -> list[str]:
    """Return the registries there that say that they do not list the instance."""
    return [each.name for each in status.registries if each.listed is False]


def odd(status: FarStatus) -> str:
    """Say what a person should see to over there; empty where all is as it should be."""
    if status.newer:
        return (
            f"newer agent there: it says {status.newer}, which this agent does not know, so the "
            "instance counts as listed: upgrade this agent"
        )
    names = unlisted(status)
    if status.phase is not Phase.SERVING or not names:
        return ""
    return (
        f"traffic was not stopped there, and yet {', '.join(names)} does not list it: see what "
        "has been done there by hand, or run start-traffic, which asks that agent to put it back"
    )


def not_out(status: FarStatus) -> AgentError:
    """Return why that agent has not taken the instance out, as its drain has ended."""
    drain = status.drain
    if drain is not None and drain.outcome is Outcome.REFUSED:
        return RefusedThereError(f"that agent has undone its drain: {drain.refusal}")
    outcome = f" ({drain.outcome})" if drain else ""
    return AgentError(f"it is {status.phase} there{outcome}: {what_blocks(status)}")


def what_blocks(status: FarStatus) -> str:
    """Say what that agent is waiting for."""
    return status.what_blocks or f"it is {status.phase}"


def _status(answer: Answer, expected: int) -> FarStatus:
    if answer.status != expected:
        raise _refusal(answer)
    status = _parsed(answer, FarStatus)
    if not status.registries:
        raise AgentError("what answers there is not this agent: it has no registries")
    return status


def _refusal(answer: Answer) -> AgentError:
    problem = _problem(answer)
    if problem is not None:
        # Only what asking again does not change has a type of its own there.
        error = RefusedThereError if problem.type.startswith(OUR_TYPES) else AgentError
        return error(f"that agent refuses (HTTP {answer.status}): {problem.detail}")
    return AgentError(f"what answers there is not this agent: HTTP {answer.status}; see url")


def _is_unknown(problem: _Problem | None) -> bool:
    return problem is not None and problem.detail.startswith("no instance is called")


def _problem(answer: Answer) -> _Problem | None:
    """Return the problem that is told; None if *answer* is none."""
    if answer.headers.get("Content-Type", "").partition(";")[0].strip() != PROBLEM:
        return None
    return _parsed(answer, _Problem)


def _parsed(answer: Answer, model: type[_AnyModel]) -> _AnyModel:
    try:
        return read(model, _known(json.loads(answer.body)))
    except (ValueError, RecursionError, AgentError) as e:
        raise AgentError(
            f"what answers there is not this agent, or not of this version: {e}"
        ) from e


def _known(said: Any) -> Any:
    """Return *said* without the words of a newer agent; ``newer`` then says which they were."""
    if not isinstance(said, dict):
        return said
    known = {key: value for key, value in said.items() if key != "newer"}
    newer = [_take(known, "phase", Phase, Phase.EXPIRED)]
    if isinstance(drain := known.get("drain"), dict):
        known["drain"] = drain = dict(drain)
        newer.append(_take(drain, "outcome", Outcome, None))
        newer.append(_take(drain, "on_deadline", OnDeadline, OnDeadline.HOLD))
        newer.append(_take(drain, "kind", DrainKind, DrainKind.DRAIN))
    if said_newer := ", ".join(filter(None, newer)):
        known["newer"] = said_newer
    return known


def _take(of: dict[str, Any], key: str, words: type[StrEnum], instead: StrEnum | None) -> str:
    """Put *instead* in the place of a word that is none of *words*, and return what it was."""
    said = of.get(key)
    if not isinstance(said, str) or said in list(words):
        return ""
    of[key] = None if instead is None else str(instead)
    return f"{key} {excerpt(said)!r}"
