"""
One member of a list or object in a JSON text: find it, take it out, put it back.

Pure. Nothing else in the text changes, not its layout, and not the way its numbers are
written: others compare documents, and read them with other libraries. The pointer to the
list or object is one of RFC 6901.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deregister_agent.errors import AgentError
from deregister_agent.registries.etcd.layouts import Address, addresses, mentions

_JSON = json.JSONDecoder()
_SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Member:
    """An element of a list, or a name and value of an object: where it is and what it says."""

    start: int
    end: int
    value: Any
    name: str | None  # None in a list

    @property
    def addresses(self) -> frozenset[Address]:
        """The addresses in it: of an object's member its name counts as well."""
        return frozenset([*addresses(self.value), *addresses(self.name)])


@dataclass(frozen=True, slots=True)
class Removed:
    """What it takes to put a member back: plain JSON, by asdict()."""

    text: str
    after: str  # the text of the member before it; empty for the first
    index: int
    lead: str  # what stood between it and the one before, or the bracket
    trail: str  # and behind it


@dataclass(frozen=True, slots=True)
class Members:
    """The members of one list or object in a text."""

    text: str
    start: int  # behind the opening bracket
    end: int  # of the closing one
    all: Sequence[Member]

    @classmethod
    def read(cls, content: bytes, pointer: str) -> "Members":
        """Find what *pointer* leads to. Raises AgentError."""
        try:
            text = content.decode()
            _JSON.decode(text)
        except (ValueError, RecursionError) as e:
            raise AgentError(f"the document is not JSON: {e}") from e
        found = _scan(text, _past_space(text, 0), pointer)
        for token in pointer.split("/")[1:]:
            wanted = token.replace("~1", "/").replace("~0", "~")
            names = {str(n) if m.name is None else m.name: m for n, m in enumerate(found.all)}
            member = names.get(wanted)  # of a name that stands twice the last, as readers do
            if member is None:
                raise AgentError(f"the document has nothing at {pointer!r}: correct pointer")
            found = _scan(text, _value_start(text, member), pointer)
        return found

    def find(self, address: Address) -> int | None:
        """
        Return the index of the member with that address; None if there is none.

        Raises AgentError if several have it, or one has its host in a form that is not known.
        """
        found = [n for n, member in enumerate(self.all) if address in member.addresses]
        if len(found) > 1:
            texts = ", ".join(self._text(self.all[n]) for n in found)
            raise AgentError(f"{len(found)} members are {address}: {texts}")
        for member in self.all:
            if mentions(self._text(member), address, member.addresses):
                raise AgentError(
                    f"{self._text(member)} mentions {address.host} in a form that is not known: "
                    "pointer may lead to the wrong place"
                )
        return found[0] if found else None

    def others(self, address: Address) -> int:
        """Count the members with another address."""
        seen = {member.addresses for member in self.all if address not in member.addresses}
        return len(seen - {frozenset()})

    def taken(self, index: int) -> Removed:
        """Return what it takes to put a member back."""
        before, member = self.all[index - 1] if index else None, self.all[index]
        after = self.all[index + 1] if index + 1 < len(self.all) else None
        return Removed(
            text=self._text(member),
            after=self._text(before) if before else "",
            index=index,
            lead=self.text[before.end if before else self.start : member.start],
            trail=self.text[member.end : after.start if after else self.end],
        )

    def without(self, index: int) -> bytes:
        """Return the text without a member."""
        member = self.all[index]
        if index + 1 < len(self.all):
            start, end = member.start, self.all[index + 1].start
        elif index:
            start, end = self.all[index - 1].end, member.end
        else:
            start, end = self.start, self.end
        return (self.text[:start] + self.text[end:]).encode()

    def including(self, removed: Removed) -> bytes:
        """Return the text with a member back: behind the one before it, if that is there."""
        texts = [self._text(member) for member in self.all]
        behind = texts.index(removed.after) + 1 if removed.after in texts else removed.index
        index = min(behind, len(texts))
        if not texts:
            lead, trail = ("" if "," in gap else gap for gap in (removed.lead, removed.trail))
            return self._with(self.start, self.end, lead + removed.text + trail)
        if index < len(texts):
            gap = _gap(removed.trail, removed.lead)
            return self._with(self.all[index].start, self.all[index].start, removed.text + gap)
        end = self.all[-1].end
        return self._with(end, end, _gap(removed.lead, removed.trail) + removed.text)

    def _with(self, start: int, end: int, text: str) -> bytes:
        return (self.text[:start] + text + self.text[end:]).encode()

    def _text(self, member: Member) -> str:
        return self.text[member.start : member.end]


def plain(removed: Removed) -> dict[str, object]:
    """Return it as plain JSON, from which Removed(**...) makes it again."""
    return asdict(removed)


def _gap(*written: str) -> str:
    """Return what to put between two members: as it was, if it was between two."""
    return next((gap for gap in written if "," in gap), ", ")


def _scan(text: str, at: int, pointer: str) -> Members:
    """Find the members of the list or object that begins at *at*, in a text that is JSON."""
    if text[at] not in "[{":
        raise AgentError(f"what is at {pointer!r} is no list or object: correct pointer")
    named = text[at] == "{"
    members: list[Member] = []
    start = at + 1
    at = _past_space(text, start)
    while text[at] not in "]}":
        begin, name = at, None
        if named:
            name, at = _JSON.raw_decode(text, at)
            at = _past_space(text, _past_space(text, at) + 1)
        value, at = _JSON.raw_decode(text, at)
        members.append(Member(begin, at, value, name))
        at = _past_space(text, at)
        if text[at] == ",":
            at = _past_space(text, at + 1)
    return Members(text, start, at, members)


def _value_start(text: str, member: Member) -> int:
    if member.name is None:
        return member.start
    _, at = _JSON.raw_decode(text, member.start)
    return _past_space(text, _past_space(text, at) + 1)


def _past_space(text: str, at: int) -> int:
    while text[at] in _SPACE:
        at += 1
    return at
