"""The backends by their kind: modules of ours, and those that other packages bring."""

import hashlib
import importlib
import json
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Literal, NamedTuple

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from deregister_agent.config.options import BackendOptions
from deregister_agent.config.suggestion import did_you_mean
from deregister_agent.errors import AgentError
from deregister_agent.model import Instance

BackendPort = Literal["registries", "probes", "notifiers"]
"""The contract of ``ports`` that a backend fulfils: its folder and its entry-point group."""

_PARTS = ("Options", "build")


class Backend(NamedTuple):
    """A backend as the configuration names it; ``module.build(options, instance)`` makes it."""

    module: ModuleType
    options: BackendOptions


def kinds(port: BackendPort) -> list[str]:
    """Return all installed kinds, ours and those of other packages, sorted. Imports none."""
    return sorted({*built_in(port), *_brought(port)})


@cache
def built_in(port: BackendPort) -> tuple[str, ...]:
    """Return the kinds that come with this package, sorted. Imports none."""
    folder = importlib.import_module(f"deregister_agent.{port}")
    found = {module.name for module in pkgutil.iter_modules(folder.__path__)}
    return tuple(sorted(found - folder.SHARED))


def find(port: BackendPort, kind: str) -> ModuleType:
    """
    Import the backend of this *kind*, and nothing else.

    Ours comes first: another package cannot take its place. Raises AgentError for an
    unknown kind, and where the backend, or a module that it needs, cannot be imported.
    """
    if kind in built_in(port):
        module = _imported(kind, EntryPoint(kind, f"deregister_agent.{port}.{kind}", ""))
    elif kind in (brought := _brought(port)):
        module = _imported(kind, brought[kind])
    else:
        known = kinds(port)
        names = ", ".join(known) or "nothing"
        raise AgentError(f"{kind!r} is none of {names}{did_you_mean(kind, known)}")
    absent = [part for part in _PARTS if not hasattr(module, part)]
    if absent:
        raise AgentError(f"{kind!r} is no backend: {module.__name__} has no {' or '.join(absent)}")
    return module


def _imported(kind: str, point: EntryPoint) -> ModuleType:
    try:
        module: ModuleType = point.load()
    except ImportError as e:
        who = f"module {e.name!r}" if e.name else "a module"
        raise AgentError(f"{kind!r} cannot be loaded: it needs {who}: {e}") from e
    except AttributeError as e:
        raise AgentError(f"{kind!r} cannot be loaded from {point.value}: {e}") from e
    return module


def _brought(port: BackendPort) -> dict[str, EntryPoint]:
    """Return the backends of other packages; of two with one name, the first installed."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"deregister_agent.{port}"):
        found.setdefault(point.name, point)
    return found


def identity(options: BackendOptions, instance: Instance) -> str:
    """
    Return a fingerprint of where and as what a registry with these *options* looks.

    Over the keys that its ``identity_keys`` name, as they are written: a default of a
    later version, a rotated secret or another timeout leaves what was seen as true as it was.
    """
    keys = getattr(options, "identity_keys", None)
    chosen = options.model_fields_set if keys is None else options.model_fields_set & keys
    written = options.model_dump(mode="json", include=set(chosen))
    looked_for = [options.kind, asdict(instance), written]
    text = json.dumps(looked_for, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def knowing_others(
    options: BackendOptions, registries: Sequence[BackendOptions], instance: Instance
) -> BackendOptions:
    """Return *options* that leave out what the other *registries* of the instance withdraw."""
    own = _withdrawn(options, instance)
    if own is None:
        return options
    others = [_withdrawn(one, instance) for one in registries if one.kind == options.kind]
    names = [one[1] for one in others if one is not None and one[0] == own[0] and one != own]
    not_ours = dict.fromkeys([*getattr(options, "not_ours", ()), *names])
    return options.model_copy(update={"not_ours": tuple(not_ours)})


def _withdrawn(options: BackendOptions, instance: Instance) -> tuple[str, str] | None:
    """Return where what *options* take out stands, and its name: a third party's may not say."""
    says = getattr(options, "withdraws", None)
    return None if says is None else says(instance)


@dataclass(frozen=True)
class ByKind:
    """Marks a field of the configuration as a table whose ``kind`` says which keys it takes."""

    port: BackendPort

    def options(self, table: object) -> type[BackendOptions] | None:
        """Return the model of *table*, or None if its kind leads to none."""
        kind = table.get("kind") if isinstance(table, Mapping) else None
        if not isinstance(kind, str):
            return None
        try:
            model: type[BackendOptions] = find(self.port, kind).Options
        except AgentError:
            return None
        return model

    def chosen(self, table: Any) -> Backend:
        """Validate *table* by its backend. Raises ValidationError."""
        if not isinstance(table, dict):
            raise _mistaken(PydanticCustomError("model_type", "not a table"), (), table)
        kind = table.get("kind")
        if kind is None:
            raise _mistaken("missing", ("kind",), table)
        if not isinstance(kind, str):
            raise _mistaken("string_type", ("kind",), kind)
        try:
            module = find(self.port, kind)
        except AgentError as e:
            cause = PydanticCustomError("kind", "{why}", {"why": str(e)})
            raise _mistaken(cause, ("kind",), kind) from e
        return Backend(module, module.Options.read_table(table))

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let pydantic validate the field by ``chosen``, and put the key path before mistakes."""
        del handler
        return core_schema.no_info_plain_validator_function(self.chosen)

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe every built-in backend, told apart by ``kind``."""
        return {"oneOf": [self._described(kind, handler) for kind in built_in(self.port)]}

    def _described(self, kind: str, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        try:
            module = find(self.port, kind)
        except AgentError as e:  # it needs an extra that is not installed
            keys = {"kind": {"const": kind}}
            return {
                "type": "object",
                "description": str(e),
                "properties": keys,
                "required": ["kind"],
            }
        described = handler(module.Options.__pydantic_core_schema__)
        table = handler.resolve_ref_schema(described)
        table["properties"]["kind"] |= {"const": kind}
        return described


def _mistaken(cause: str | PydanticCustomError, key: tuple[str, ...], got: Any) -> ValidationError:
    detail: InitErrorDetails = {"type": cause, "loc": key, "input": got}
    return ValidationError.from_exception_data("backend", [detail])
