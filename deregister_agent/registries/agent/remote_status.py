"""The status of one instance at the agent of another host; see docs/reference/http-api.md."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from deregister_agent.errors import AgentError
from deregister_agent.net.fetcher import Answer, Fetcher
from deregister_agent.status import Status, read

_AnyModel = TypeVar("_AnyModel")

ACCEPTED, OK, NOT_FOUND = 202, 200, 404
PROBLEM = "application/problem+json"


@dataclass(frozen=True, slots=True)
class _Problem:
    """The part of a problem (RFC 9457) that is needed here."""

    detail: str


class FarInstance:
    """One instance in the API of one agent. Every call raises AgentError where that fails."""

    def __init__(self, fetcher: Fetcher, name: str) -> None:
        self._fetcher = fetcher
        self._path = f"/v1/instances/{quote(name, safe='')}"

    def status(self, limit: float, **question: str) -> Status | None:
        """
        Ask how it stands there; None: that agent says that it has no such instance.

        *question* is ``look``, or ``wait`` and ``cursor``, as the HTTP API has them. What
        is returned was said after this call.
        """
        nonce = secrets.token_hex(8)
        params = [*question.items(), ("nonce", nonce)]
        answer = self._fetcher.call("GET", self._path, params=params, timeout=limit)
        if answer.status == NOT_FOUND and _detail(answer).startswith("no instance is called"):
            return None
        status = _status(answer, OK)
        if status.nonce != nonce:
            raise AgentError("this is the answer to another question: is there a cache at url?")
        return status

    def ask(self, action: str, wish: Mapping[str, Any], limit: float) -> Status:
        """Ask for *action*, which is stop-traffic or start-traffic."""
        target = f"{self._path}/{action}"
        return _status(self._fetcher.call("POST", target, payload=wish, timeout=limit), ACCEPTED)


def _status(answer: Answer, expected: int) -> Status:
    if answer.status == expected:
        status = _parsed(answer, Status)
        if not status.registries:
            raise AgentError("what answers there is not this agent: it has no registries")
        return status
    detail = _detail(answer)
    if detail:
        raise AgentError(f"that agent refuses (HTTP {answer.status}): {detail}")
    raise AgentError(f"what answers there is not this agent: HTTP {answer.status}; see url")


def _detail(answer: Answer) -> str:
    """Return the sentence of a problem; empty if *answer* is none."""
    if answer.headers.get("Content-Type", "").partition(";")[0].strip() != PROBLEM:
        return ""
    return _parsed(answer, _Problem).detail


def _parsed(answer: Answer, model: type[_AnyModel]) -> _AnyModel:
    try:
        return read(model, json.loads(answer.body))
    except (ValueError, RecursionError, AgentError) as e:
        raise AgentError(
            f"what answers there is not this agent, or not of this version: {e}"
        ) from e
