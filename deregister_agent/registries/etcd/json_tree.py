"""A JSON document as a tree: read to the digit, written again, and the places in it. Pure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deregister_agent.errors import AgentError
from deregister_agent.host.mentions import names_address
from deregister_agent.registries.etcd.layouts import WrittenAddress, addresses


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it is written: 1.50, 1e400, or one of thirty digits."""

    digits: str

    def __str__(self) -> str:
        return self.digits


def places(value: Any, ours: WrittenAddress, at: str = "") -> list[str]:
    """Return the pointers to the lists and objects that have the address as a member."""
    items: Sequence[tuple[Any, Any]] = []
    if isinstance(value, list):
        items = list(enumerate(value))
    elif isinstance(value, dict):
        items = list(value.items())
    inner = [place for name, each in items for place in places(each, ours, below(at, name))]
    if inner:
        return inner
    in_list = isinstance(value, list)
    for name, each in items:
        named = not in_list and ours in addresses(name)
        if named or ((in_list or isinstance(each, dict)) and ours in addresses(each)):
            return [at]
    return []


def without(value: Any, inside: Any) -> Any:
    """Return a document without the list or object of members in it."""
    if value is inside:
        return None
    if isinstance(value, dict):
        return {name: without(each, inside) for name, each in value.items()}
    return [without(each, inside) for each in value] if isinstance(value, list) else value


def parts_with(value: Any, ours: WrittenAddress, at: str = "") -> list[tuple[str, Any]]:
    """Return the smallest parts of a document that host and port both stand in, with pointers."""
    if not names_address(as_text(value), ours.host, ours.port or 0):
        return []
    items: list[tuple[Any, Any]] = []
    if isinstance(value, list):
        items = list(enumerate(value))
    elif isinstance(value, dict):
        items = list(value.items())
    inner = [each for name, one in items for each in parts_with(one, ours, below(at, name))]
    return inner or [(at, value)]


def name_of(at: str) -> str:
    """Return what not_ours calls a place: its pointer, or that of its list, whose order changes."""
    folder, _, last = at.rpartition("/")
    return f"{folder}/" if last.isdecimal() else at or "/"


def below(at: str, name: object) -> str:
    """Return the pointer to what has a name, or an index, in what *at* leads to."""
    return f"{at}/{str(name).replace('~', '~0').replace('/', '~1')}"


def read_exactly(text: str) -> Any:
    """Parse JSON; each number keeps its digits. Raises ValueError, RecursionError, AgentError."""
    return json.loads(
        text,
        object_pairs_hook=_each_name_once,
        parse_int=Number,
        parse_float=Number,
        parse_constant=Number,
    )


def _each_name_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; of a name that stands twice, readers may take the first or the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise AgentError(f"the document has the name {twice!r} twice in one object")
    return found


def as_text(value: object) -> str:
    """Return a value as JSON. Only half a surrogate pair has to be escaped, to be UTF-8."""
    match value:
        case dict():
            return "{" + ", ".join(f"{as_text(k)}: {as_text(v)}" for k, v in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(as_text, value)) + "]"
        case Number():
            return value.digits
    return json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace").decode()
