"""
One member of a list or object in a JSON document: find it, take it out, put it back.

Pure. The document is parsed, changed and written again. Blanks may change; every other member
stays, in its order, and each number keeps its digits, of which Python would round some away.
The pointer to the list or object is one of RFC 6901.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

from jsonpointer import JsonPointerException, resolve_pointer

from deregister_agent.errors import AgentError, excerpt
from deregister_agent.registries.etcd.json_tree import (
    as_text,
    below,
    name_of,
    parts_with,
    places,
    read_exactly,
    without,
)
from deregister_agent.registries.etcd.layouts import (
    LookAlike,
    WrittenAddress,
    addresses,
    speaks_of,
)
from deregister_agent.registries.etcd.not_ours import NotOurs

EXCERPT = 200
"""Characters of a member, or of another part of a document, that an error shows."""
MOST = 5
"""Parts of a document that are named as other registrations."""


class DocumentMember(NamedTuple):
    """An element of a list, or a name and value of an object."""

    name: str | None  # None in a list
    value: Any

    @property
    def addresses(self) -> frozenset[WrittenAddress]:
        """The addresses in it: of an object's member its name counts as well."""
        return frozenset([*addresses(self.value), *addresses(self.name)])

    @property
    def label(self) -> str:
        """What not_ours calls the member: its name, its text, or its addresses."""
        if self.name is not None:
            return self.name
        if isinstance(self.value, str):
            return self.value
        return ",".join(sorted(map(str, self.addresses))) or str(self)

    def __str__(self) -> str:
        """Return the member as it stands in a document."""
        value = as_text(self.value)
        return value if self.name is None else f"{as_text(self.name)}: {value}"


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
    not_ours: NotOurs = field(default_factory=NotOurs)

    @classmethod
    def read(
        cls, content: bytes, pointer: str, not_ours: NotOurs | None = None
    ) -> "DocumentMembers":
        """Parse a document and go where *pointer* leads. Raises AgentError."""
        try:
            document = read_exactly(content.decode())
            inside = resolve_pointer(document, pointer)
        except JsonPointerException as e:
            raise AgentError(f"the document has nothing at {pointer!r}: correct pointer") from e
        except (ValueError, RecursionError) as e:
            raise AgentError(f"the document is not JSON: {e}") from e
        if not isinstance(inside, list | dict):
            raise AgentError(f"what is at {pointer!r} is no list or object: correct pointer")
        return cls(document, inside, _members(inside), pointer, not_ours or NotOurs())

    def find(self, address: WrittenAddress) -> int | None:
        """
        Return the index of the member with that address; None if there is none.

        Raises AgentError if several have it, or the one is itself a list of instances, of which
        ours is one; if none has it, but something mentions it in a form that is not known.
        """
        found = [n for n, member in enumerate(self.all) if self._is_ours(member, address)]
        if len(found) > 1:
            texts = ", ".join(str(self.all[n]) for n in found)
            raise AgentError(
                f"{len(found)} members are {address}: {texts}; delete those that are left over, "
                "or name in not_ours those that send no work"
            )
        for n in found:
            self._refuse_all(self.all[n], n, address)
        if not found:
            for name, text in self._unrecognised(address):
                self._refuse(
                    text,
                    f"mentions {address.host} in a form that is not known, or beside the members",
                    address,
                    f"; if it sends no work, {self.not_ours.line(name)}",
                )
        return found[0] if found else None

    def others_like(self, address: WrittenAddress, key: str) -> list[str]:
        """Name what mentions the address and is not the member with it, each with a line."""
        found = self._unrecognised(address)
        told = [
            f"{excerpt(text, EXCERPT)} in {key} has {address} in it, and stays there when the "
            f"instance is withdrawn: if it sends no work, write {self.not_ours.line(name)}; if it "
            "does, delete it, or withdraw it by an etcd registry of its own with another pointer "
            "and write the former here"
            for name, text in found[:MOST]
        ]
        if len(found) > MOST:
            told[-1] += f"; and {len(found) - MOST} more parts do"
        return told

    def _unrecognised(self, address: WrittenAddress) -> list[tuple[str, str]]:
        """Return what may be the instance and is not recognised: what not_ours calls it, it."""
        members = [(each.label, str(each)) for each in self.all if self._may_be(each, address)]
        rest = without(self.document, self.inside)
        places = [(name_of(at), as_text(each)) for at, each in parts_with(rest, address)]
        return [*members, *(each for each in places if not self.not_ours.covers(each[0]))]

    def _is_ours(self, member: DocumentMember, address: WrittenAddress) -> bool:
        return address in member.addresses and not self.not_ours.covers(member.label)

    def _may_be(self, member: DocumentMember, address: WrittenAddress) -> bool:
        """Whether a member may be the instance, and is not recognised as it."""
        if address in member.addresses or self.not_ours.covers(member.label):
            return False
        return speaks_of(str(member), address, member.addresses)

    def _refuse_all(self, member: DocumentMember, index: int, address: WrittenAddress) -> None:
        """Raise LookAlike if a member has other instances in it: all of them would go."""
        name = index if member.name is None else member.name
        inside = places(member.value, address, below(self.pointer, name))
        # Endpoints of one host are those of one instance, for each protocol.
        ports = any(place.casefold().endswith("/endpoints") for place in inside)
        others = {
            str(each)
            for each in member.addresses
            if each.host != address.host or (each.port != address.port and not ports)
        }
        if others and inside:
            self._refuse(str(member), f"also has {', '.join(sorted(others))} in it", address)

    def _refuse(self, text: str, why: str, address: WrittenAddress, unless: str = "") -> NoReturn:
        """Raise LookAlike, with the place in the document that is likely meant, if there is one."""
        there = [place for place in places(self.document, address) if place != self.pointer]
        line = f" (pointer = {json.dumps(there[0])})" if there else ""
        raise LookAlike(
            f"{excerpt(text, EXCERPT)} {why}: correct pointer, which may lead to the wrong place, "
            f"or address{line}{unless}"
        )

    def others(self, address: WrittenAddress) -> int:
        """Count the members with another address; what may be ours is none, as nobody knows."""
        seen = {
            member.addresses - {address} for member in self.all if not self._may_be(member, address)
        }
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
        return as_text(self.document).encode()

    def _reread(self, text: str) -> list[DocumentMember]:
        """Read what a member was kept as; an empty text is none."""
        begin, end = "{}" if isinstance(self.inside, dict) else "[]"
        try:
            return _members(read_exactly(f"{begin}{text}{end}"))
        except ValueError as e:
            raise AgentError(f"{text} does not fit in between {begin} and {end}") from e


def _members(inside: list[Any] | dict[str, Any]) -> list[DocumentMember]:
    if isinstance(inside, dict):
        return [DocumentMember(*item) for item in inside.items()]
    return [DocumentMember(None, value) for value in inside]
