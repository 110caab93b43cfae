"""
The status of an instance and the record of a drain, as JSON shows them.

The engine fills these models, the API sends them and derives its OpenAPI document from
them; the command line and the agents of other hosts read them. Standard library only:
scripts call ``deregister-agent status`` again and again, and pydantic would double its cost.

A reader passes over keys that it does not know. A field that is added has a default,
which says what its absence means: an agent of before.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import NoneType
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

from deregister_agent.errors import AgentError
from deregister_agent.model import DrainKind, Instance, Listing, OnDeadline, Outcome, Phase


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """A keyword of JSON Schema that the type of a field does not tell."""

    keyword: str
    value: object

    def __get_pydantic_json_schema__(
        self, core_schema: object, handler: Callable[[object], dict[str, object]]
    ) -> dict[str, object]:
        """Return the schema of the type with the keyword; pydantic calls this."""
        return {**handler(core_schema), self.keyword: self.value}


Count = Annotated[int, JsonSchema("minimum", 0)]
Time = Annotated[str, JsonSchema("format", "date-time")]
"""A moment of the wall clock, as RFC 3339 has it."""


class JsonModel:
    """What the models share: how pydantic describes them."""

    __slots__ = ()
    __pydantic_config__: ClassVar = {
        "use_attribute_docstrings": True,
        "json_schema_serialization_defaults_required": True,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryStatus(JsonModel):
    """The last word of one registry."""

    name: str
    listed: bool | None
    """Whether the registry would send work; null: it has not told."""
    listing: Listing | None = None
    """What it shows of the instance; null: it has not told, or the agent is of before."""
    out_by: str = ""
    """By what somebody else has put it out there."""
    acknowledged: bool = False
    """Whether the registry has taken the action of this phase."""
    stragglers: tuple[str, ...]
    """What may still send work along old routes."""
    others: Count | None
    """How many other instances of the service the registry lists."""
    asked: Time | None = None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeStatus(JsonModel):
    """The last reading of one probe."""

    name: str
    in_flight: Mapping[str, Count] | None
    """Work in hand by kind; null: the probe does not know."""
    started: Count | None = None
    """The counter of all work ever started, where the app has one."""
    asked: Time | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStatus(JsonModel):
    """The process that is drained."""

    pids: tuple[int, ...] = ()
    exited: bool = False
    note: str = ""
    """Why the agent cannot tell more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainStatus(JsonModel):
    """The drain that is, or was last, under way."""

    id: str
    outcome: Outcome | None
    reason: str
    asked_by: str
    forced: bool
    on_deadline: OnDeadline
    kind: DrainKind = DrainKind.DRAIN
    """Whether it is a drain, or a restore of what a registry had lost of it in service."""
    pids: tuple[int, ...] = ()
    """The process that is being drained, or was."""
    refusal: str = ""
    """Why it was refused after it had begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(JsonModel):
    """All that an agent knows of one instance."""

    instance: Instance
    phase: Phase
    since: Time | None = None
    deadline: Time | None = None
    remaining: float | None = None
    """Seconds to the deadline."""
    drain: DrainStatus | None
    in_flight: Mapping[str, Count]
    """Work in hand by kind, added up over the probes that know."""
    blocking: tuple[str, ...]
    """What stands between here and drained, or serving."""
    notes: tuple[str, ...] = ()
    """Warnings for a person."""
    registries: tuple[RegistryStatus, ...]
    probes: tuple[ProbeStatus, ...]
    process: ProcessStatus = ProcessStatus()
    ready: bool | None = None
    error: str | None = None
    """What keeps the agent from acting for this instance."""
    cursor: str
    """Another text whenever the phase or a registry's word is another."""
    nonce: str = ""
    """The nonce of the request, if the request had one."""

    @property
    def outcome(self) -> Outcome | None:
        """How the drain has ended; None while it has not, and where there is none."""
        return self.drain.outcome if self.drain else None

    @property
    def what_blocks(self) -> str:
        """The sentences of ``blocking`` in one."""
        return "; ".join(self.blocking)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusList(JsonModel):
    """The status of every instance of an agent."""

    instances: tuple[Status, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainRecord(JsonModel):
    """One drain in the history of an instance."""

    id: str
    instance: str
    phase: Phase
    outcome: Outcome | None
    started: Time
    ended: Time | None
    reason: str
    asked_by: str
    forced: bool
    kind: DrainKind = DrainKind.DRAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainList(JsonModel):
    """The history of an instance, newest drain first."""

    drains: tuple[DrainRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord(JsonModel):
    """Something that happened to a drain."""

    id: int
    kind: str
    instance: str
    drain: str
    at: Time
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainWithEvents(DrainRecord):
    """One drain and its timeline."""

    events: tuple[EventRecord, ...]


class FindingKind(StrEnum):
    """What a finding of doctor is about."""

    REGISTRY = "registry"
    PROBE = "probe"
    READY = "ready"
    PROCESS = "process"
    CONNECTION = "connection"
    NOTIFIER = "notifier"
    AGENT = "agent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(JsonModel):
    """One thing that doctor has seen."""

    kind: FindingKind
    name: str
    ok: bool | None
    """false: a drain could not prove itself, or would not be told of; null: only said."""
    said: str
    remedy: str = ""
    """What to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorReport(JsonModel):
    """What doctor has found out about one instance; nothing was changed for it."""

    instance: Instance
    phase: Phase
    would_prove: bool
    """Whether a drain would be able to prove itself: no finding is false."""
    findings: tuple[Finding, ...]


def plain(model: Any) -> dict[str, Any]:
    """Return the fields of a model, as ``json.dumps(model, default=plain)`` wants them."""
    found = {field.name: getattr(model, field.name) for field in fields(model)}
    if found.get("nonce") == "":  # the request had none
        del found["nonce"]
    return found


AnyModel = TypeVar("AnyModel")


def read(model: type[AnyModel], found: object) -> AnyModel:
    """Return *found*, which is parsed JSON, as a *model*. Raises AgentError, key first."""
    value: AnyModel = _read(model, found, "")
    return value


def _read(kind: Any, found: Any, key: str) -> Any:
    if is_dataclass(kind):
        return _read_object(kind, found, key)
    parts = get_args(kind)
    if NoneType in parts:
        return None if found is None else _read(parts[0], found, key)
    match get_origin(kind):
        case origin if origin is tuple and type(found) is list:
            return tuple(_read(parts[0], each, f"{key}.{at}") for at, each in enumerate(found))
        case origin if origin is Mapping and type(found) is dict:
            return {name: _read(parts[1], each, f"{key}.{name}") for name, each in found.items()}
    if kind is Any or type(found) is kind or (kind is float and type(found) is int):
        return found
    if isinstance(kind, type) and issubclass(kind, StrEnum) and found in list(kind):
        return kind(found)
    raise AgentError(f"{key[1:] or 'the whole'}: not what it should be: {found!r:.100}")


@cache
def _kinds(model: Any) -> dict[str, Any]:
    return get_type_hints(model)


def _read_object(model: Any, found: Any, key: str) -> Any:
    if type(found) is not dict:
        raise AgentError(f"{key[1:] or 'the whole'}: not an object")
    kinds, values = _kinds(model), {}
    for field in fields(model):
        if field.name in found:
            values[field.name] = _read(kinds[field.name], found[field.name], f"{key}.{field.name}")
        elif field.default is MISSING:
            raise AgentError(f"{key[1:]}.{field.name}: missing".removeprefix("."))
    return model(**values)
