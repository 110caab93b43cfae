"""
One list in a YAML or JSON text, and how to change one entry of it and no other byte.

Pure. The callers prove each result by parsing it: what is returned here is the
likely text, in the order of preference, and no promise.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

_LINE = re.compile(r"[ ]*-[ ]+[^\r\n]+(\r?\n)?")
_REMARK = re.compile(r"[ \t]*(#[^\r\n]*)?\r?\n")  # a line without content


class NotExact(ValueError):  # noqa: N818 - the reason, completed by the caller
    """The list is written in a way that cannot be changed exactly: a sentence part."""


class EntryPlace(NamedTuple):
    """Where an entry stands, and how it is written there."""

    position: int
    text: str  # its line; in brackets: its entry, or, if alone, all that is between them
    separator: str = ""  # in brackets: what stands between two entries, where that is known
    gap: int = 0  # outside: how many lines without content are between it and the entry before


class Span(NamedTuple):
    """A stretch of the text."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class WrittenList:
    """A list as it is written: in brackets, or as lines that begin with a dash."""

    text: str
    span: Span
    entries: tuple[Span, ...]
    bracketed: bool
    column: int
    colon: int = 0  # where the key that has it ends, its colon included

    def place(self, position: int) -> EntryPlace:
        """Return all that is needed to put an entry back as it stands."""
        if not self.bracketed:
            line = self._line(position)
            above = self.text[self._below(position, 0) : line.start]
            return EntryPlace(position, self._source(line), gap=above.count("\n"))
        if len(self.entries) == 1:
            return EntryPlace(position, self.text[self.span.start + 1 : self.span.end - 1])
        return EntryPlace(position, self._source(self.entries[position]), self._separator())

    def without(self, position: int) -> str:
        """Return the text without an entry."""
        text, entries = self.text, self.entries
        alone = len(entries) == 1
        if not self.bracketed:
            line = self._line(position)
            before = text[: self.colon] + " []" + text[self.colon : line.start]
            return (before if alone else text[: line.start]) + text[line.end :]
        if alone:
            return text[: self.span.start] + "[]" + text[self.span.end :]
        if position:
            return text[: entries[position - 1].end] + text[entries[position].end :]
        return text[: entries[0].start] + text[entries[1].start :]

    def including(self, entry: str, place: EntryPlace) -> Iterator[str]:
        """Yield the text with *entry*: written as it was before, then in the plainest way."""
        was_line, plain = _LINE.fullmatch(place.text), json.dumps(entry)
        if not self.entries:
            yield from self._filled([place.text] if was_line else [], place.gap)
            for inside in (place.text, plain):
                yield self.text[: self.span.start] + f"[{inside}]" + self.text[self.span.end :]
        elif self.bracketed:
            for written in (place.text.strip(), plain):
                yield self._between(written, place.position, place.separator)
        else:
            at = self._below(place.position, place.gap)
            for line in (place.text if was_line else "", f"{' ' * self.column}- {plain}\n"):
                yield _with_line(self.text, at, line)

    def appended(self, group: Mapping[str, object]) -> str:
        """Return the text with a mapping as its last entry."""
        if not self.bracketed:
            keys = [f"{key}: {json.dumps(value)}\n" for key, value in group.items()]
            indent = " " * self.column
            return _with_line(self.text, len(self.text), f"{indent}- " + f"{indent}  ".join(keys))
        if not self.entries:
            return (
                f"{self.text[: self.span.start]}[{json.dumps(group)}]{self.text[self.span.end :]}"
            )
        _, newline, indent = self._separator().rpartition("\n")
        written = json.dumps(group, indent=indent if newline else None)
        return self._between(written.replace("\n", "\n" + indent), len(self.entries), "")

    def _source(self, span: Span) -> str:
        return self.text[span.start : span.end]

    def _filled(self, lines: list[str], gap: int) -> Iterator[str]:
        """Yield the text with a line again where without() has left brackets."""
        text, colon = self.text, self.colon
        if text[colon : self.span.end] == " []":
            text = text[:colon] + text[self.span.end :]
            for line in lines:
                yield _with_line(text, _past_remarks(text, _line_end(text, colon), gap), line)

    def _between(self, written: str, position: int, separator: str) -> str:
        """Return the text with one more entry in its brackets."""
        separator = self._separator(separator)
        if position < len(self.entries):
            at, more = self.entries[position].start, written + separator
        else:
            at, more = self.entries[-1].end, separator + written
        return self.text[:at] + more + self.text[at:]

    def _separator(self, otherwise: str = "") -> str:
        """Return what stands, or would stand, between two entries in brackets."""
        first = self.entries[0]
        if len(self.entries) > 1:
            written = self.text[first.end : self.entries[1].start]
            return ", " if "#" in written else written
        lead = self.text[self.span.start + 1 : first.start]
        return otherwise or ("," + lead if "\n" in lead and "#" not in lead else ", ")

    def _line(self, position: int) -> Span:
        """Return the whole line of an entry. Raises NotExact if others stand on that line."""
        entry = self.entries[position]
        line = Span(self.text.rfind("\n", 0, entry.start) + 1, _line_end(self.text, entry.end))
        before, after = self.text[line.start : entry.start], self.text[entry.end : line.end]
        if "\n" in self._source(entry) or before.strip(" ") != "-":
            raise NotExact("an entry does not have one line of its own")
        if not _REMARK.fullmatch(after.rstrip("\r\n") + "\n"):
            raise NotExact("an entry shares its line with something else")
        return line

    def _below(self, position: int, gap: int) -> int:
        """Return where a line begins that is *gap* remarks below the entry before it."""
        after = self._line(position - 1).end if position else _line_end(self.text, self.colon)
        return _past_remarks(self.text, after, gap)


def _line_end(text: str, at: int) -> int:
    """Return where the line below *at* begins."""
    return text.find("\n", at) + 1 or len(text)


def _past_remarks(text: str, at: int, count: int) -> int:
    """Return where at most *count* lines without content, from *at* on, end."""
    for _ in range(count):
        remark = _REMARK.match(text, at)
        at = remark.end() if remark else at
    return at


def _with_line(text: str, at: int, line: str) -> str:
    """Return *text* with a line at the beginning of a line."""
    before, after = text[:at], text[at:]
    first = "" if before.endswith("\n") or not before else "\n"
    last = "\n" if after and not line.endswith("\n") else ""
    return before + first + line + last + after
