"""
Nginx's configuration language, on bytes and with offsets, as the program itself reads it.

The source is ngx_conf_read_token() in nginx/src/core/ngx_conf_file.c: four kinds of
white space, comments, quotes only at the start of a word, a backslash that protects
the next byte, and ``${`` that opens no block. Lua blocks follow the rules of
lua-nginx-module. What does not fit is refused, never guessed at.
"""

import re
from collections.abc import Iterator
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

from deregister_agent.errors import AgentError

# Possessive throughout: every byte is looked at once, whatever the input. Groups are repeated
# as (?>(?:...)*) and not as (?:...)*+, which Python before 3.11.5 gets wrong (cpython 106052).
_SKIP = rb"(?>(?:[ \t\r\n]++|\#[^\n]*+)*)"
_WORD = rb"""(?>
    "(?>(?:[^"\\]|\\[\s\S])*)"(?=[ \t\r\n;{)]|\Z)
  | '(?>(?:[^'\\]|\\[\s\S])*)'(?=[ \t\r\n;{)]|\Z)
  | (?!["'\#}])(?>(?:[^ \t\r\n;{\\$]|\\[\s\S]|\$\{*+)+)
)"""
_STATEMENT = re.compile(
    _SKIP
    + rb"(?:(?P<close>\})|(?P<name>"
    + _WORD
    + rb")(?P<words>(?>(?:"
    + _SKIP
    + _WORD
    + rb")*))"
    + _SKIP
    + rb"(?P<end>[;{])|(?P<last>\Z))",
    re.VERBOSE,
)
_NEXT_WORD = re.compile(_SKIP + rb"(" + _WORD + rb")", re.VERBOSE)
_ESCAPE = re.compile(rb"\\([\"'\\trn])")
_MEANS = {b"t": b"\t", b"r": b"\r", b"n": b"\n"}
_LUA = re.compile(
    rb"""
    --\[(?P<c>=*)\[[\s\S]*?\](?P=c)\]   # a long comment
  | --[^\n]*                            # a comment
  | \[(?P<s>=*)\[[\s\S]*?\](?P=s)\]     # a long string
  | "(?:[^"\\]|\\[\s\S])*" | '(?:[^'\\]|\\[\s\S])*'
  | (?P<brace>[{}]) | (?P<open>["']|\[=*\[)
    """,
    re.VERBOSE,
)


class UnreadableError(AgentError):
    """A file that cannot be read with certainty, and is left alone."""

    def __init__(self, file: Path, line: int, why: str) -> None:
        super().__init__(f"{why} in {file}:{line}")
        self.file, self.line = file, line


class StatementKind(Enum):
    """What a statement does to the nesting."""

    SIMPLE = auto()  # name words ;
    LUA = auto()  # name words { text }
    OPEN = auto()  # name words {
    CLOSE = auto()  # }


class Statement(NamedTuple):
    """
    One directive, the start of a block or its end. Words lie in content[start:end].

    Of a Lua block that is its words and its text, with the brace between them.
    """

    kind: StatementKind
    name: bytes
    start: int
    end: int


class ConfWord(NamedTuple):
    """One word of a directive: where it stands, quotes included, and what it says."""

    start: int
    end: int
    text: bytes


def line_of(content: bytes, offset: int) -> int:
    """Return the line, from 1, that *offset* is in."""
    return content.count(b"\n", 0, offset) + 1


def statements(content: bytes, file: Path) -> Iterator[Statement]:
    """Yield every statement of *file*, whose text is *content*. Raises UnreadableError."""
    place = depth = 0
    while True:
        match = _STATEMENT.match(content, place)
        if match is None:
            raise _refusal(content, place, file)
        place = match.end()
        name, end = match["name"], match["end"]
        if name is None:
            if match["last"] is not None:
                break
            depth -= 1
            if depth < 0:
                raise UnreadableError(file, line_of(content, place), 'unexpected "}"')
            yield Statement(StatementKind.CLOSE, b"", place, place)
            continue
        if end == b";":
            yield Statement(StatementKind.SIMPLE, _plain(name), *match.span("words"))
        elif name.endswith(b"_by_lua_block"):
            place = _after_lua(content, place, file)
            yield Statement(StatementKind.LUA, name, match.start("words"), place - 1)
        else:
            depth += 1
            yield Statement(StatementKind.OPEN, _plain(name), *match.span("words"))
    if depth:
        raise UnreadableError(
            file, line_of(content, place), 'unexpected end of file, expecting "}"'
        )


def words(content: bytes, start: int, end: int) -> list[ConfWord]:
    """Return the words between two offsets that a Statement has given."""
    found = []
    while start < end:
        match = _NEXT_WORD.match(content, start, end)
        if match is None:  # only a comment can be left
            break
        found.append(ConfWord(*match.span(1), _plain(match[1])))
        start = match.end()
    return found


def _plain(word: bytes) -> bytes:
    """Return what *word* says: without its quotes, its escapes resolved as Nginx does."""
    if word[:1] in {b'"', b"'"}:
        word = word[1:-1]
    if b"\\" not in word:
        return word
    return _ESCAPE.sub(lambda match: _MEANS.get(match[1], match[1]), word)


def _after_lua(content: bytes, place: int, file: Path) -> int:
    """Return the offset after the brace that ends a Lua block begun before *place*."""
    depth = 1
    for match in _LUA.finditer(content, place):
        if match["open"]:
            raise UnreadableError(file, line_of(content, match.start()), "a Lua string without end")
        if match["brace"]:
            depth += 1 if match["brace"] == b"{" else -1
        if not depth:
            return match.end()
    raise UnreadableError(file, line_of(content, place), "a Lua block without end")


def _refusal(content: bytes, place: int, file: Path) -> UnreadableError:
    """Say, roughly as Nginx would, what is wrong with the statement after *place*."""
    first = _NEXT_WORD.match(content, place)
    if first is None:
        return UnreadableError(file, line_of(content, place), "a directive that cannot be read")
    name = _plain(first[1]).decode(errors="replace")
    line = line_of(content, first.start(1))
    return UnreadableError(file, line, f'the directive "{name}" has no readable end')
