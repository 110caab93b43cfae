"""
Read Nginx's configuration, as far as it can hold an upstream.

Only the main level, ``http``, ``stream`` and ``upstream`` are entered, with the files
that these include. Everything else is passed over.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from deregister_agent.registries.nginx.conf import (
    ConfPaths,
    NginxConf,
    ServerDirective,
    Upstream,
    matches_of,
    stat_of,
)
from deregister_agent.registries.nginx.tokens import (
    Statement,
    StatementKind,
    UnreadableError,
    line_of,
    statements,
    words,
)

_DEPTH = 40  # includes within includes; Nginx itself stops when it has no descriptor left
_BLOCKS = {("main", b"http"): "http", ("main", b"stream"): "stream"}
# An address and parameters without quotes, escapes, comments, "down" or "backup".
_PLAIN_SERVER = re.compile(
    rb"[ \t\r\n]*+([^ \t\r\n\\$\"'#]++)"
    rb"(?>(?:[ \t\r\n]++(?!down|backup)[^ \t\r\n\\$\"'#]++)*)[ \t\r\n]*+\Z"
)
_NOTED = frozenset({b"worker_shutdown_timeout", b"keepalive_min_timeout", b"proxy_next_upstream"})


def read(paths: ConfPaths) -> NginxConf:
    """Read the configuration. Raises UnreadableError, or OSError with the path in it."""
    conf = NginxConf(paths)
    _Reader(conf).enter(paths.main, "main", None, ())
    return conf


def preamble(main: Path) -> dict[bytes, str]:
    """Return the first word of each simple directive before ``http``; the last of a name counts."""
    content, found = main.read_bytes(), {}
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

    def enter(
        self, path: Path, context: str, block: Upstream | None, above: tuple[Path, ...]
    ) -> None:
        """Read one file, in the context of the ``include`` that names the file."""
        file = self._conf.named[path] = _real(path, self._conf.paths)
        if file in above or len(above) > _DEPTH:
            raise UnreadableError(file, 1, "an include that leads back to its own file")
        if path == self._conf.paths.optional and not path.exists():
            return
        if file not in self._conf.files:
            # First the stat: a file replaced in between then shows as changed, not as read.
            self._conf.stats[file] = stat_of(file)
            self._conf.files[file] = file.read_bytes()
        content = self._conf.files[file]
        stack = [(context, block)]
        for statement in statements(content, file):
            context, block = stack[-1]
            if statement.kind is StatementKind.CLOSE:
                stack.pop()
            elif statement.kind is StatementKind.OPEN:
                stack.append(self._opened(statement, content, context))
            elif context == "upstream" and block is not None and statement.name == b"server":
                block.servers.append(_server(statement, content, file))
            elif statement.name == b"include" and context != "other":
                for included in self._included(statement, content, file):
                    self.enter(included, context, block, (*above, file))
            else:
                self._note(statement, content, block)

    def _opened(
        self, statement: Statement, content: bytes, context: str
    ) -> tuple[str, Upstream | None]:
        """Return the context, and the upstream, that a block begins."""
        if context in {"http", "stream"} and statement.name == b"upstream":
            named = words(content, statement.start, statement.end)
            name = os.fsdecode(named[0].text) if named else ""
            key = (context, name)
            return "upstream", self._conf.upstreams.setdefault(key, Upstream(context, name))
        return _BLOCKS.get((context, statement.name), "other"), None

    def _included(self, statement: Statement, content: bytes, file: Path) -> Iterator[Path]:
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
        self._conf.globs[pattern] = matches_of(pattern)
        for match in self._conf.globs[pattern]:
            yield Path(os.fsdecode(match))

    def _note(self, statement: Statement, content: bytes, block: Upstream | None) -> None:
        """Keep a directive that site or advice asks for."""
        if block is not None:
            block.directives.add(statement.name)
        if statement.name in _NOTED:
            said = [os.fsdecode(w.text) for w in words(content, statement.start, statement.end)]
            self._conf.settings.append((statement.name, said))


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
