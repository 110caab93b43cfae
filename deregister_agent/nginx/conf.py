"""
Find one server of one upstream in Nginx's configuration, and change that one word.

Only what can hold an upstream is entered: the main level, ``http``, ``stream`` and
``upstream``, with the files that these include. Everything else is passed over.
"""

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from deregister_agent.nginx.address import Address
from deregister_agent.nginx.tokens import (
    Kind,
    Statement,
    Unreadable,
    line_of,
    statements,
    words,
)

_DEPTH = 40  # includes within includes; Nginx itself stops when it has no descriptor left
_BLOCKS = {("main", b"http"): "http", ("main", b"stream"): "stream"}
# An address and parameters without quotes, escapes, comments, "down" or "backup".
_PLAIN_SERVER = re.compile(
    rb"[ \t\r\n]*+([^ \t\r\n\\$\"'#]++)"
    rb"(?:[ \t\r\n]++(?!down|backup)[^ \t\r\n\\$\"'#]++)*+[ \t\r\n]*+\Z"
)
_NOTED = frozenset(
    {
        b"error_log",
        b"pid",
        b"worker_shutdown_timeout",
        b"keepalive_min_timeout",
        b"proxy_next_upstream",
    }
)


class Server(NamedTuple):
    """One ``server`` directive of an upstream. Its words lie in content[start:end] of file."""

    file: Path  # symbolic links resolved
    start: int
    end: int
    address: bytes
    down: bool
    backup: bool


@dataclass(frozen=True, slots=True)
class Upstream:
    """One upstream block, wherever its servers are included from."""

    context: str  # http or stream
    name: str
    servers: list[Server] = field(default_factory=list)
    directives: set[bytes] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the configuration is: its main file, and where absolute paths in it start."""

    main: Path
    root: Path = Path("/")
    optional: Path | None = None  # a file that need not be there yet
    volatile: Path | None = None  # a file whose changes do not count

    def resolved(self, name: bytes) -> bytes:
        """Return the path that an ``include`` of *name* means."""
        if name.startswith(b"/"):
            return os.fsencode(self.root) + b"/" + name.lstrip(b"/")
        return os.fsencode(self.main.parent) + b"/" + name


@dataclass(slots=True)
class Conf:
    """What was read, at one moment: files in the order in which Nginx opens them."""

    layout: Layout
    files: dict[Path, bytes] = field(default_factory=dict)
    stats: dict[Path, tuple[int, int, int]] = field(default_factory=dict)
    globs: dict[bytes, list[bytes]] = field(default_factory=dict)
    upstreams: dict[tuple[str, str], Upstream] = field(default_factory=dict)
    settings: list[tuple[str, bytes, list[str]]] = field(default_factory=list)

    def setting(self, name: bytes) -> list[str] | None:
        """Return the words of the main level's last directive of this *name*."""
        found = [value for context, key, value in self.settings if (context, key) == ("main", name)]
        return found[-1] if found else None

    def digest(self) -> str:
        """Return what stands for all of the text read."""
        whole = hashlib.sha256()
        volatile = self.layout.volatile
        for path, content in self.files.items():
            if path == volatile:
                continue
            whole.update(b"%b\0%d\0%b" % (os.fsencode(path), len(content), content))
        return whole.hexdigest()

    def current(self) -> bool:
        """Tell whether the files on disk are still those that were read."""
        try:
            return all(
                _stat(path) == was
                for path, was in self.stats.items()
                if path != self.layout.volatile
            ) and all(_matches(pattern) == was for pattern, was in self.globs.items())
        except OSError:
            return False

    def changed_at(self) -> float:
        """Return when, by the wall clock, the newest file or included folder last changed."""
        folders = {Path(os.fsdecode(pattern)).parent for pattern in self.globs}
        newest = max(ctime for _, ctime, _ in self.stats.values())
        for folder in folders:
            if folder.is_dir():
                newest = max(newest, folder.stat().st_mtime_ns)
        return newest / 1e9

    def find(self, context: str, upstream: str, server: Address) -> list[Server]:
        """Return the directives that name this *server* in this *upstream*, in reading order."""
        block = self.upstreams.get((context, upstream))
        return [] if block is None else [s for s in block.servers if server.is_named(s.address)]

    def marked(self, servers: Iterable[Server], *, down: bool) -> dict[Path, bytes]:
        """Return the new content of each file once *servers* are marked down, or no longer."""
        change = _with_down if down else _without_down
        after: dict[Path, bytes] = {}
        # From the last to the first, so that the offsets of the others stay true.
        for server in sorted(set(servers), key=lambda s: (s.file, s.start), reverse=True):
            if server.down != down:
                content = after.get(server.file, self.files[server.file])
                after[server.file] = change(content, server)
        return after


def read(layout: Layout) -> Conf:
    """Read the configuration. Raises Unreadable, or OSError with the path in it."""
    conf = Conf(layout)
    _Reader(conf).enter(layout.main, "main", None, ())
    return conf


def preamble(main: Path) -> dict[bytes, str]:
    """Return the first word of each simple directive that stands before ``http``, last one wins."""
    content, found = main.read_bytes(), {}
    for statement in statements(content, main):
        if statement.kind is Kind.OPEN and statement.name in {b"http", b"stream"}:
            break
        if statement.kind is Kind.SIMPLE and (
            said := words(content, statement.start, statement.end)
        ):
            found[statement.name] = os.fsdecode(said[0].text)
    return found


def _with_down(content: bytes, server: Server) -> bytes:
    return content[: server.end] + b" down" + content[server.end :]


def _without_down(content: bytes, server: Server) -> bytes:
    """Take the last ``down`` away, with the white space before it on its line."""
    last = [w for w in words(content, server.start, server.end)[1:] if w.text == b"down"][-1]
    before = content[: last.start].rstrip(b" \t")
    return before + content[last.end :]


def _stat(path: Path) -> tuple[int, int, int]:
    seen = path.stat()
    return seen.st_ino, seen.st_ctime_ns, seen.st_size


def _matches(pattern: bytes) -> list[bytes]:
    return sorted(glob.glob(pattern))  # noqa: PTH207 - bytes, and absolute


class _Reader:
    """Walks through the files and fills a Conf."""

    def __init__(self, conf: Conf) -> None:
        self._conf = conf

    def enter(
        self, path: Path, context: str, block: Upstream | None, above: tuple[Path, ...]
    ) -> None:
        """Read one file, in the context of the ``include`` that names it."""
        file = Path(os.path.realpath(path))
        if file in above or len(above) > _DEPTH:
            raise Unreadable(file, 1, "an include that leads back to its own file")
        if path == self._conf.layout.optional and not path.exists():
            return
        if file not in self._conf.files:
            # First the stat: a file replaced in between then shows as changed, not as read.
            self._conf.stats[file] = _stat(file)
            self._conf.files[file] = file.read_bytes()
        content = self._conf.files[file]
        stack = [(context, block)]
        for statement in statements(content, file):
            context, block = stack[-1]
            if statement.kind is Kind.CLOSE:
                stack.pop()
            elif statement.kind is Kind.OPEN:
                stack.append(self._opened(statement, content, context))
            elif context == "upstream" and block is not None and statement.name == b"server":
                block.servers.append(_server(statement, content, file))
            elif statement.name == b"include" and context != "other":
                for included in self._included(statement, content, file):
                    self.enter(included, context, block, (*above, file))
            else:
                self._note(statement, content, context, block)

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
        if len(named) != 1:
            raise Unreadable(file, line_of(content, statement.start), "an include without one name")
        pattern = self._conf.layout.resolved(named[0].text)
        if not any(sign in named[0].text for sign in b"*?["):
            yield Path(os.fsdecode(pattern))
            return
        if b"\\" in pattern or b"[^" in pattern:
            raise Unreadable(
                file, line_of(content, statement.start), "an include pattern of a kind not known"
            )
        self._conf.globs[pattern] = _matches(pattern)
        for match in self._conf.globs[pattern]:
            yield Path(os.fsdecode(match))

    def _note(
        self, statement: Statement, content: bytes, context: str, block: Upstream | None
    ) -> None:
        """Remember a directive that is of use elsewhere."""
        if block is not None:
            block.directives.add(statement.name)
        if statement.name in _NOTED:
            said = [os.fsdecode(w.text) for w in words(content, statement.start, statement.end)]
            self._conf.settings.append((context, statement.name, said))


def _server(statement: Statement, content: bytes, file: Path) -> Server:
    """Return what a ``server`` directive says."""
    start, end = statement.start, statement.end
    plain = _PLAIN_SERVER.match(content, start, end)
    if plain is not None:  # nearly all are, and this takes a tenth of the time
        return Server(file, start, end, plain[1], down=False, backup=False)
    said = words(content, start, end)
    if not said:
        raise Unreadable(file, line_of(content, start), "a server without an address")
    parameters = {word.text for word in said[1:]}
    return Server(
        file,
        start,
        end,
        said[0].text,
        down=b"down" in parameters,
        backup=b"backup" in parameters,
    )


def summary(upstreams: Mapping[tuple[str, str], Upstream]) -> str:
    """Name the upstreams that there are, for an error."""
    return ", ".join(f"{name} ({context})" for context, name in upstreams) or "none"
