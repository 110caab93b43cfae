"""
Read Nginx's configuration: its upstreams, and what else says something of their servers.

The main level, ``http``, ``stream`` and ``upstream`` are entered with all the files that
these include. Server blocks, and blocks that map values, are looked through as well, with
those of their files that can be read: they hold no upstream. Of all other blocks only
what stands in the same file is seen.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from deregister_agent.host.files import read_plain
from deregister_agent.registries.nginx.conf import (
    ConfPaths,
    Directive,
    NginxConf,
    ServerDirective,
    Upstream,
    matches_of,
    stat_of,
)
from deregister_agent.registries.nginx.known_directives import is_noted
from deregister_agent.registries.nginx.tokens import (
    Statement,
    StatementKind,
    UnreadableError,
    line_of,
    statements,
    words,
)

_DEPTH = 40  # includes within includes; Nginx itself stops when it has no descriptor left
_ASIDE_LIMIT = 1_048_576  # bytes of a file beside the upstreams: every look reads through it
_LEVELS = {("main", b"http"): "http", ("main", b"stream"): "stream"}
_MAPS = frozenset({b"map", b"geo", b"split_clients"})
_WITHIN_SITES = frozenset({b"location", b"if", b"limit_except"})
# An address and parameters without quotes, escapes, comments, "down" or "backup".
_PLAIN_SERVER = re.compile(
    rb"[ \t\r\n]*+([^ \t\r\n\\$\"'#]++)"
    rb"(?>(?:[ \t\r\n]++(?!down|backup)[^ \t\r\n\\$\"'#]++)*)[ \t\r\n]*+\Z"
)


class _Place(NamedTuple):
    """Where a statement stands."""

    kind: str  # main, http, stream, upstream, site, map or other
    context: str  # main, http or stream
    site: int = 0  # which server block
    block: Upstream | None = None

    @property
    def aside(self) -> bool:
        """Whether no upstream can stand there."""
        return self.kind in {"site", "map"}


def read(paths: ConfPaths) -> NginxConf:
    """Read the configuration. Raises UnreadableError, or OSError with the path in it."""
    conf = NginxConf(paths)
    _Reader(conf).enter(paths.main, _Place("main", "main"), ())
    return conf


def preamble(main: Path) -> dict[bytes, str]:
    """Return the first word of each simple directive before ``http``; the last of a name counts."""
    content, found = read_plain(main), {}
    for statement in statements(content, main):
        if statement.kind is StatementKind.OPEN and statement.name in {b"http", b"stream"}:
            break
        if statement.kind is StatementKind.SIMPLE and (
            said := words(content, statement.start, statement.end)
        ):
            found[statement.name] = os.fsdecode(said[0].text)
    return found


class _Reader:
    """A walk through the files that fills a NginxConf."""

    def __init__(self, conf: NginxConf) -> None:
        self._conf = conf
        self._sites = 0

    def enter(self, path: Path, place: _Place, above: tuple[Path, ...]) -> None:
        """Read one file, in the place of the ``include`` that names the file."""
        file = _real(path, self._conf.paths)
        if file in above or len(above) > _DEPTH:
            raise UnreadableError(file, 1, "an include that leads back to its own file")
        content = self._text_aside(file) if place.aside else self._text(path, file)
        if place.kind == "map" and b":" not in content:  # no address: see _note()
            return
        stack = [place]
        for statement in statements(content, file):
            place = stack[-1]
            if statement.kind is StatementKind.CLOSE:
                stack.pop()
            elif statement.kind is StatementKind.OPEN:
                self._note(statement, content, file, place)
                stack.append(self._opened(statement, content, place))
            elif place.kind == "upstream" and place.block and statement.name == b"server":
                place.block.servers.append(_server(statement, content, file))
            elif statement.name == b"include" and place.kind != "other":
                self._include(statement, content, place, (*above, file))
            else:
                self._note(statement, content, file, place)

    def _text(self, path: Path, file: Path) -> bytes:
        """Return what the *file* says that *path* leads to, and remember how it was found."""
        self._conf.named[path] = file
        if path == self._conf.paths.optional and not path.exists():
            return b""
        if file not in self._conf.files:
            # First the stat: a file replaced in between then shows as changed, not as read.
            self._conf.stats[file] = stat_of(file)
            self._conf.files[file] = read_plain(file)
        return self._conf.files[file]

    def _text_aside(self, file: Path) -> bytes:
        if file not in self._conf.files and file not in self._conf.aside:
            self._conf.aside[file] = read_plain(file, _ASIDE_LIMIT)
        return self._conf.content(file)

    def _opened(self, statement: Statement, content: bytes, place: _Place) -> _Place:
        """Return the place that a block begins."""
        name = statement.name
        if level := _LEVELS.get((place.kind, name)):
            return _Place(level, level)
        if place.kind in {"http", "stream"}:
            if name == b"upstream":
                return place._replace(
                    kind="upstream", block=self._upstream(statement, content, place)
                )
            if name == b"server":
                self._sites += 1
                return place._replace(kind="site", site=self._sites)
            if name in _MAPS:
                return place._replace(kind="map")
        if place.kind == "site" and name in _WITHIN_SITES:
            return place
        return place._replace(kind="other", block=None)

    def _upstream(self, statement: Statement, content: bytes, place: _Place) -> Upstream:
        named = words(content, statement.start, statement.end)
        name = os.fsdecode(named[0].text) if named else ""
        fresh = Upstream(place.context, name)
        return self._conf.upstreams.setdefault((place.context, name), fresh)

    def _include(
        self, statement: Statement, content: bytes, place: _Place, above: tuple[Path, ...]
    ) -> None:
        """Read the files that an ``include`` names; aside, as far as they can be read."""
        if not place.aside:
            for included in self._included(statement, content, above[-1], place):
                self.enter(included, place, above)
            return
        where = f"{above[-1]}:{line_of(content, statement.start)}"
        try:
            for included in self._included(statement, content, above[-1], place):
                self.enter(included, place, above)
        except OSError as e:
            self._conf.unread.append(f"{e.filename}, which {where} includes ({e.strerror})")
        except UnreadableError as e:
            self._conf.unread.append(f"what {where} includes ({e})")

    def _included(
        self, statement: Statement, content: bytes, file: Path, place: _Place
    ) -> Iterator[Path]:
        """Return the files that an ``include`` names, in Nginx's order."""
        named = words(content, statement.start, statement.end)
        line = line_of(content, statement.start)
        if len(named) != 1:
            raise UnreadableError(file, line, "an include without one name")
        pattern = self._conf.paths.resolved(named[0].text)
        if not any(sign in named[0].text for sign in b"*?["):
            yield Path(os.fsdecode(pattern))
            return
        if b"\\" in pattern or b"[^" in pattern:
            raise UnreadableError(file, line, "an include pattern of a kind not known")
        matches = matches_of(pattern)
        if not place.aside:
            self._conf.globs[pattern] = matches
        for match in matches:
            yield Path(os.fsdecode(match))

    def _note(self, statement: Statement, content: bytes, file: Path, place: _Place) -> None:
        """Keep a directive of an upstream, and what else may be asked for."""
        name, start, end = statement.name, statement.start, statement.end
        if place.kind == "map":
            if b":" not in content[start:end]:  # no address; such blocks may be very long
                return
            name = b"map"
        noted = Directive(place.context, place.site, name, file, start, end)
        if place.block is not None:
            place.block.directives.append(noted)
        elif place.kind == "map" or is_noted(name):
            self._conf.directives.append(noted)


def _real(path: Path, paths: ConfPaths) -> Path:
    """Return the file that *path* leads to. A link below *root* must not lead out of *root*."""
    file, root = Path(os.path.realpath(path)), paths.root
    if path.is_relative_to(root) and not file.is_relative_to(os.path.realpath(root)):
        raise UnreadableError(path, 1, f"a link that leads out of root, to {file},")
    return file


def _server(statement: Statement, content: bytes, file: Path) -> ServerDirective:
    """Return what a ``server`` directive says."""
    start, end = statement.start, statement.end
    plain = _PLAIN_SERVER.match(content, start, end)
    if plain is not None:  # as nearly all are; this takes a tenth of the time
        return ServerDirective(file, start, end, plain[1], down=False, backup=False)
    said = words(content, start, end)
    if not said:
        raise UnreadableError(file, line_of(content, start), "a server without an address")
    parameters = {word.text for word in said[1:]}
    return ServerDirective(
        file,
        start,
        end,
        said[0].text,
        down=b"down" in parameters,
        backup=b"backup" in parameters,
    )
