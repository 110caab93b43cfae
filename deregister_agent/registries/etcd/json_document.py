"""
One member of a list or object in a JSON document: find it, take it out, put it back.

Pure. The document is parsed, changed and written again. Blanks may change; every other member
stays, in its order, and each number keeps its digits, of which Python would round some away.
The pointer to the list or object is one of RFC 6901.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from jsonpointer import JsonPointerException, resolve_pointer

from deregister_agent.errors import AgentError
from deregister_agent.registries.etcd.layouts import (
    LookAlike,
    WrittenAddress,
    addresses,
    mentions,
)


@dataclass(frozen=True, slots=True)
class _Number:
    """A number as it is written: 1.50, 1e400, or one of thirty digits."""

    digits: str

    def __str__(self) -> str:
        return self.digits


class DocumentMember(NamedTuple):
    """An element of a list, or a name and value of an object."""

    name: str | None  # None in a list
    value: Any

    @property
    def addresses(self) -> frozenset[WrittenAddress]:
        """The addresses in it: of an object's member its name counts as well."""
        return frozenset([*addresses(self.value), *addresses(self.name)])

    def __str__(self) -> str:
        """Return the member as it stands in a document."""
        value = _text(self.value)
        return value if self.name is None else f"{_text(self.name)}: {value}"


@dataclass(frozen=True, slots=True)
class RemovedMember:
    """What it takes to put a member back: plain JSON, by asdict()."""

    text: str
    after: str  # the text of the member before it; empty for the first
    index: int


@dataclass(frozen=True, slots=True)
class DocumentMembers:
    """The members of the list or object that a pointer leads to in a document."""

    document: Any
    inside: list[Any] | dict[str, Any]  # the list or object itself
    all: Sequence[DocumentMember]
    pointer: str = ""

    @classmethod
    def read(cls, content: bytes, pointer: str) -> "DocumentMembers":
        """Parse a document and go where *pointer* leads. Raises AgentError."""
        try:
            document = _parsed(content.decode())
            inside = resolve_pointer(document, pointer)
        except JsonPointerException as e:
            raise AgentError(f"the document has nothing at {pointer!r}: correct pointer") from e
        except (ValueError, RecursionError) as e:
            raise AgentError(f"the document is not JSON: {e}") from e
        if not isinstance(inside, list | dict):
            raise AgentError(f"what is at {pointer!r} is no list or object: correct pointer")
        return cls(document, inside, _members(inside), pointer)

    def find(self, address: WrittenAddress) -> int | None:
        """
        Return the index of the member with that address; None if there is none.

        Raises AgentError if several have it, or one has its host in a form that is not known,
        or is itself a list of instances, of which ours is one.
        """
        found = [n for n, member in enumerate(self.all) if address in member.addresses]
        if len(found) > 1:
            texts = ", ".join(str(self.all[n]) for n in found)
            raise AgentError(f"{len(found)} members are {address}: {texts}")
        for member in self.all:
            if mentions(str(member), address, member.addresses):
                self._refuse(
                    member, f"mentions {address.host} in a form that is not known", address
                )
        for n in found:
            self._refuse_all(self.all[n], n, address)
        return found[0] if found else None

    def _refuse_all(self, member: DocumentMember, index: int, address: WrittenAddress) -> None:
        """Raise LookAlike if a member has other instances in it: all of them would go."""
        name = index if member.name is None else member.name
        inside = places(member.value, address, _below(self.pointer, name))
        # Endpoints of one host are those of one instance, for each protocol.
        ports = any(place.casefold().endswith("/endpoints") for place in inside)
        others = {
            str(each)
            for each in member.addresses
            if each.host != address.host or (each.port != address.port and not ports)
        }
        if others and inside:
            self._refuse(member, f"also has {', '.join(sorted(others))} in it", address)

    def _refuse(self, member: DocumentMember, why: str, address: WrittenAddress) -> NoReturn:
        """Raise LookAlike, with the place in the document that is likely meant, if there is one."""
        there = [place for place in places(self.document, address) if place != self.pointer]
        line = f" (pointer = {json.dumps(there[0])})" if there else ""
        raise LookAlike(
            f"{member} {why}: correct pointer, which may lead to the wrong place, or address{line}"
        )

    def others(self, address: WrittenAddress) -> int:
        """Count the members with another address."""
        seen = {member.addresses for member in self.all if address not in member.addresses}
        return len(seen - {frozenset()})

    def taken(self, index: int) -> RemovedMember:
        """Return what it takes to put a member back."""
        before = str(self.all[index - 1]) if index else ""
        return RemovedMember(str(self.all[index]), before, index)

    def without(self, index: int) -> bytes:
        """Return the document without a member."""
        return self._with([*self.all[:index], *self.all[index + 1 :]])

    def including(self, removed: RemovedMember) -> bytes:
        """
        Return the document with a member back: behind the one before it, if that is there.

        Raises AgentError if it does not fit in any more.
        """
        (member,) = self._reread(removed.text)
        if member.name is not None and member.name in {each.name for each in self.all}:
            raise AgentError(f"somebody else has put something at {member.name!r}")
        texts = [str(each) for each in self.all]
        before = ", ".join(map(str, self._reread(removed.after)))
        index = texts.index(before) + 1 if before in texts else removed.index
        return self._with([*self.all[:index], member, *self.all[index:]])

    def _with(self, members: Sequence[DocumentMember]) -> bytes:
        if isinstance(self.inside, dict):
            self.inside.clear()
            self.inside.update((str(member.name), member.value) for member in members)
        else:
            self.inside[:] = [member.value for member in members]
        return _text(self.document).encode()

    def _reread(self, text: str) -> list[DocumentMember]:
        """Read what a member was kept as; an empty text is none."""
        begin, end = "{}" if isinstance(self.inside, dict) else "[]"
        try:
            return _members(_parsed(f"{begin}{text}{end}"))
        except ValueError as e:
            raise AgentError(f"{text} does not fit in between {begin} and {end}") from e


def places(value: Any, ours: WrittenAddress, at: str = "") -> list[str]:
    """Return the pointers to the lists and objects that have the address as a member."""
    items: Sequence[tuple[Any, Any]] = []
    if isinstance(value, list):
        items = list(enumerate(value))
    elif isinstance(value, dict):
        items = list(value.items())
    inner = [place for name, each in items for place in places(each, ours, _below(at, name))]
    if inner:
        return inner
    in_list = isinstance(value, list)
    for name, each in items:
        named = not in_list and ours in addresses(name)
        if named or ((in_list or isinstance(each, dict)) and ours in addresses(each)):
            return [at]
    return []


def _below(at: str, name: object) -> str:
    return f"{at}/{str(name).replace('~', '~0').replace('/', '~1')}"


def _parsed(text: str) -> Any:
    return json.loads(
        text,
        object_pairs_hook=_each_name_once,
        parse_int=_Number,
        parse_float=_Number,
        parse_constant=_Number,
    )


def _each_name_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; of a name that stands twice, readers may take the first or the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise AgentError(f"the document has the name {twice!r} twice in one object")
    return found


def _members(inside: list[Any] | dict[str, Any]) -> list[DocumentMember]:
    if isinstance(inside, dict):
        return [DocumentMember(*item) for item in inside.items()]
    return [DocumentMember(None, value) for value in inside]


def _text(value: object) -> str:
    """Return a value as JSON. Only half a surrogate pair has to be escaped, to be UTF-8."""
    match value:
        case dict():
            return "{" + ", ".join(f"{_text(k)}: {_text(v)}" for k, v in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_text, value)) + "]"
        case _Number():
            return value.digits
    return json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace").decode()
