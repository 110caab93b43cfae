"""One instance as the agent of another host shows it; see docs/reference/http-api.md."""

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Self, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deregister_agent.errors import AgentError
from deregister_agent.host import addresses
from deregister_agent.model import Phase
from deregister_agent.net.fetcher import Answer, Fetcher

ACCEPTED, OK, NOT_FOUND = 202, 200, 404
PROBLEM = "application/problem+json"


class _Part(BaseModel):
    """A part of what that agent says; fields that are not needed here are passed over."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class Place(_Part):
    """Where the instance listens, as that agent knows it."""

    address: str
    port: int

    @classmethod
    def parsed(cls, text: str) -> Self:
        """Return the place that ``10.0.0.7:8080`` or ``[fd00::7]:8080`` names. ValueError."""
        address, _, port = text.rpartition(":")
        if not address or not port.isascii() or not port.isdecimal():
            raise ValueError("must be address:port, as in 10.0.0.7:8080 or [fd00::7]:8080")
        return cls(address=address.removeprefix("[").removesuffix("]"), port=int(port))

    def is_same(self, other: "Place") -> bool:
        """Tell whether *other* is this place, however its address is spelled."""
        here, there = addresses.host(self.address), addresses.host(other.address)
        return (here, self.port) == (there, other.port)

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"


class Listing(_Part):
    """The last word of one registry there."""

    name: str
    listed: bool | None
    stragglers: tuple[str, ...]
    others: int | None
    error: str | None


class FarDrain(_Part):
    """The drain that is, or was, under way there."""

    outcome: str | None
    reason: str
    asked_by: str


class Status(_Part):
    """The status of one instance there."""

    instance: Place
    phase: Phase
    drain: FarDrain | None
    blocking: tuple[str, ...]
    cursor: str  # another one as soon as the phase, or what a registry says, is
    nonce: str = ""
    registries: Annotated[tuple[Listing, ...], Field(min_length=1)]

    @property
    def what_blocks(self) -> str:
        """What that agent is waiting for, in its own words."""
        return "; ".join(self.blocking) or f"it is {self.phase}"


class _Problem(_Part):
    detail: str


_AnyPart = TypeVar("_AnyPart", bound=_Part)


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
        return _parsed(answer, Status)
    detail = _detail(answer)
    if detail:
        raise AgentError(f"that agent refuses (HTTP {answer.status}): {detail}")
    raise AgentError(f"what answers there is not this agent: HTTP {answer.status}; see url")


def _detail(answer: Answer) -> str:
    """Return the sentence of a problem; empty if *answer* is none."""
    if answer.headers.get("Content-Type", "").partition(";")[0].strip() != PROBLEM:
        return ""
    return _parsed(answer, _Problem).detail


def _parsed(answer: Answer, model: type[_AnyPart]) -> _AnyPart:
    try:
        return model.model_validate_json(answer.body)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"])) or "the whole"
        raise AgentError(
            f"what answers there is not this agent, or not of this version: {key}: {first['msg']}"
        ) from e
