"""The mistakes of a configuration in words: each with its key, as a sentence."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from deregister_agent.config.backends import ByKind
from deregister_agent.config.suggestion import did_you_mean

_Key = tuple[str | int, ...]

_TYPES = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "path_type": "a path",
}
_TAG = "by"  # the key that tells the tables of a union apart, in this program
_GOT: dict[type, str] = {dict: "a table", list: "a list", str: "a string"}


def sentences(error: ValidationError, model: type[BaseModel], data: object) -> list[str]:
    """
    Return the mistakes that *model* found in *data*, each as ``key.path[0].key: what is wrong``.

    A value that is a string is shown only where one of a few words was expected:
    elsewhere it may be a secret that stands in the wrong place.
    """
    found = []
    for detail in error.errors(include_url=False):
        key = _in_data(detail["loc"], data)
        if detail["type"].startswith("union_tag") and isinstance(detail["input"], dict):
            key = (*key, _TAG)
        sentence = _sentence(detail, partial(_known_keys, model, key, data), key)
        if sentence:
            found.append(f"{path(key)}: {sentence}" if key else sentence)
    return list(dict.fromkeys(found))


def path(key: Iterable[str | int]) -> str:
    """Write a key path as in ``instance[0].registry[1].token``."""
    written = ""
    for part in key:
        written += f"[{part}]" if isinstance(part, int) else f".{part}"
    return written.removeprefix(".")


def _sentence(  # noqa: C901, PLR0911 - a table of what pydantic finds
    detail: ErrorDetails, known: Callable[[], Mapping[str, str]], key: _Key
) -> str:
    cause, got, ctx = detail["type"], detail["input"], detail.get("ctx", {})
    match cause:
        case "union_tag_not_found" if not isinstance(got, dict):
            return f"must be a table, not {_shown(got)}"
        case "missing" | "union_tag_not_found":
            return "missing"
        case "extra_forbidden":
            return _unknown_key(str(key[-1]), known())
        case "greater_than_equal" | "greater_than" | "less_than_equal" | "less_than":
            (name, limit), *_ = ctx.items()
            return f"must be {_SIGNS[name]} {_number(limit)}, not {_number(got)}"
        case "literal_error" | "enum" | "union_tag_invalid":
            return _one_of(ctx, got)
        case "too_short" if len(got) >= ctx["min_length"]:
            return ""  # its items are wrong, and each of them has a sentence already
        case "too_short":
            return f"at least {_COUNTS.get(ctx['min_length'], ctx['min_length'])} needed"
        case "string_too_short" if ctx["min_length"] == 1:
            return "must not be empty"
        case "string_pattern_mismatch":
            return f"must match {ctx['pattern']}"
        case "value_error":
            return str(ctx.get("error", detail["msg"]))
        case _ if cause in _TYPES:
            return f"must be {_TYPES[cause]}, not {_shown(got)}"
        case _:
            return detail["msg"]


def _unknown_key(name: str, known: Mapping[str, str]) -> str:
    instead = known.get(name)
    return f"no longer taken; {instead}" if instead else f"no such key{did_you_mean(name, known)}"


_COUNTS = {1: "one is", 2: "two are"}
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def _one_of(ctx: Mapping[str, Any], got: object) -> str:
    expected = str(ctx.get("expected") or ctx.get("expected_tags"))
    got = ctx.get("tag", got)
    if not isinstance(got, str):
        return f"must be one of {expected}, not {_shown(got)}"
    hint = did_you_mean(got, re.findall("'([^']*)'", expected))
    return f"must be one of {expected}, not {got!r}{hint}"


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return _GOT.get(type(value), str(value))


def _in_data(loc: _Key, data: object) -> _Key:
    """Return *loc* without pydantic's own part: which member of a union was tried."""
    key: list[str | int] = []
    for at, part in enumerate(loc):
        last = at == len(loc) - 1
        inside = _step(data, part)
        if not isinstance(data, dict | list):
            break
        if last or isinstance(inside, dict | list):
            key.append(part)
            data = inside
        elif inside is not None and not _is_tag(part, data):
            key.append(part)
            break
    return tuple(key)


def _is_tag(part: str | int, table: object) -> bool:
    """Tell whether *part* names one of a union's tables, and is no key."""
    return isinstance(table, dict) and table.get(_TAG) == part


def _step(data: object, part: str | int) -> Any:
    if isinstance(data, dict):
        return data.get(part)
    if isinstance(data, list) and isinstance(part, int) and part < len(data):
        return data[part]
    return None


def _known_keys(model: type[BaseModel], key: _Key, data: object) -> dict[str, str]:
    """Return the keys that the table around *key* may have, and what is instead of former ones."""
    kinds: list[Any] = [model]
    here: Any = data
    for part in key[:-1]:
        if isinstance(part, str):
            fields = [field for table in _tables(kinds, here) for field in _fields(table, part)]
            kinds = [kind for field in fields for kind in (field.annotation, *field.metadata)]
        here = _step(here, part)
    found: dict[str, str] = {}
    for table in _tables(kinds, here):
        found |= getattr(table, "taken_out", {})
        found |= {field.alias or name: "" for name, field in table.model_fields.items()}
    return found


def _fields(table: type[BaseModel], key: str) -> list[FieldInfo]:
    return [field for name, field in table.model_fields.items() if (field.alias or name) == key]


def _tables(kinds: Iterable[Any], data: object) -> Iterator[type[BaseModel]]:
    """Yield the models that *data* may be meant for, within annotations of any depth."""
    for kind in kinds:
        if isinstance(kind, ByKind):
            yield from filter(None, [kind.options(data)])
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            if _fits(kind, data):
                yield kind
        else:
            yield from _tables(get_args(kind), data)


def _fits(table: type[BaseModel], data: object) -> bool:
    """Tell whether nothing in *data* makes it another table of the same union."""
    return isinstance(data, dict) and all(
        data[name] in get_args(field.annotation)
        for name, field in table.model_fields.items()
        if get_origin(field.annotation) is Literal and isinstance(data.get(name), str)
    )
