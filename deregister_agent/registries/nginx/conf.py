"""Nginx's configuration: what it says of upstreams, and how one word of it is changed."""

import glob
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from deregister_agent.registries.nginx.server_address import ServerAddress
from deregister_agent.registries.nginx.tokens import line_of, words


class ServerDirective(NamedTuple):
    """One ``server`` directive of an upstream. Its words lie in content[start:end] of file."""

    file: Path  # symbolic links resolved
    start: int
    end: int
    address: bytes
    down: bool
    backup: bool


class Directive(NamedTuple):
    """One directive that says something of servers. Its words lie in content[start:end] of file."""

    context: str  # main, http or stream
    site: int  # which server block it stands in, or below; 0: in none
    name: bytes
    file: Path
    start: int
    end: int  # of its words; of a Lua block, of its text


@dataclass(frozen=True, slots=True)
class Upstream:
    """One upstream block, wherever its servers are included from."""

    context: str  # http or stream
    name: str
    servers: list[ServerDirective] = field(default_factory=list)
    directives: list[Directive] = field(default_factory=list)  # all others in the block

    @property
    def names(self) -> set[bytes]:
        """The names of its directives, but for ``server``."""
        return {directive.name for directive in self.directives}


@dataclass(frozen=True, slots=True)
class ConfPaths:
    """Where the configuration is: its main file, and where absolute paths in it start."""

    main: Path
    root: Path = Path("/")
    optional: Path | None = None  # a file that need not be there yet

    def resolved(self, name: bytes) -> bytes:
        """Return the path that an ``include`` of *name* means."""
        if name.startswith(b"/"):
            return os.fsencode(self.root) + b"/" + name.lstrip(b"/")
        return os.fsencode(self.main.parent) + b"/" + name


@dataclass(slots=True)
class NginxConf:
    """A configuration, read at one moment: files in the order in which Nginx opens them."""

    paths: ConfPaths
    files: dict[Path, bytes] = field(default_factory=dict)
    stats: dict[Path, tuple[int, int, int]] = field(default_factory=dict)
    globs: dict[bytes, list[bytes]] = field(default_factory=dict)
    named: dict[Path, Path] = field(default_factory=dict)  # where paths led to, links followed
    upstreams: dict[tuple[str, str], Upstream] = field(default_factory=dict)
    directives: list[Directive] = field(default_factory=list)  # those that are noted, in order
    aside: dict[Path, bytes] = field(default_factory=dict)
    """Files that server blocks include. They hold no upstream: what is proved of workers does not
    rest on them, and one that cannot be read (in another container) stops nothing."""
    unread: list[str] = field(default_factory=list)  # of those: which, where included, and why

    def content(self, file: Path) -> bytes:
        """Return the text of a file in which a directive was found."""
        return self.files[file] if file in self.files else self.aside[file]

    def said(self, directive: Directive) -> list[str]:
        """Return the words after a directive's name; those that a Lua block begins with."""
        found = words(self.content(directive.file), directive.start, directive.end)
        return [os.fsdecode(word.text) for word in found]

    def parameters(self, server: ServerDirective) -> set[bytes]:
        """Return what follows the address of a server."""
        return {w.text for w in words(self.files[server.file], server.start, server.end)[1:]}

    def place(self, directive: Directive | ServerDirective) -> str:
        """Return file and line, for a sentence."""
        return f"{directive.file}:{line_of(self.content(directive.file), directive.start)}"

    def digest(self) -> str:
        """Return a hash of all the text that was read."""
        whole = hashlib.sha256()
        for path, content in self.files.items():
            whole.update(b"%b\0%d\0%b" % (os.fsencode(path), len(content), content))
        return whole.hexdigest()

    def current(self) -> bool:
        """Tell whether the files on disk are still those that were read."""
        try:
            return (
                all(stat_of(path) == was for path, was in self.stats.items())
                and all(matches_of(pattern) == was for pattern, was in self.globs.items())
                and all(os.path.realpath(path) == str(was) for path, was in self.named.items())
            )
        except OSError:
            return False

    def changed_at(self) -> float:
        """Return when, by the wall clock, a file, an included folder or a link last changed."""
        folders = {Path(os.fsdecode(pattern)).parent for pattern in self.globs}
        newest = [ctime for _, ctime, _ in self.stats.values()]
        newest += [folder.stat().st_ctime_ns for folder in folders if folder.is_dir()]
        seen: set[Path] = set()
        for path in (*self.named, *folders):
            newest += _turned(path, seen)
        return max(newest) / 1e9

    def find(self, context: str, upstream: str, server: ServerAddress) -> list[ServerDirective]:
        """Return the directives that name this *server* in this *upstream*, in reading order."""
        block = self.upstreams.get((context, upstream))
        return [] if block is None else [s for s in block.servers if server.is_named(s.address)]

    def marked(self, servers: Iterable[ServerDirective], *, down: bool) -> dict[Path, bytes]:
        """Return the new content of each file once *servers* are marked down, or no longer."""
        change = _with_down if down else _without_down
        after: dict[Path, bytes] = {}
        # From the last to the first, so that the offsets of the others stay true.
        for server in sorted(set(servers), key=lambda s: (s.file, s.start), reverse=True):
            if server.down != down:
                content = after.get(server.file, self.files[server.file])
                after[server.file] = change(content, server)
        return after


def _with_down(content: bytes, server: ServerDirective) -> bytes:
    return content[: server.end] + b" down" + content[server.end :]


def _without_down(content: bytes, server: ServerDirective) -> bytes:
    """Take the last ``down`` away, with the white space before it on its line."""
    last = [w for w in words(content, server.start, server.end)[1:] if w.text == b"down"][-1]
    before = content[: last.start].rstrip(b" \t")
    return before + content[last.end :]


def stat_of(path: Path) -> tuple[int, int, int]:
    """Return three numbers of a file that change when it is replaced or written to."""
    seen = path.stat()
    return seen.st_ino, seen.st_ctime_ns, seen.st_size


def _turned(path: Path, seen: set[Path]) -> Iterator[int]:
    """
    Yield when each link on the way to *path* was made, but for those that *seen* has already.

    A link that is turned from one folder to another changes no time of the files in them.
    """
    for part in (path, *path.parents):
        if part in seen:
            return
        seen.add(part)
        with suppress(FileNotFoundError):
            found = part.lstat()
            if stat.S_ISLNK(found.st_mode):
                yield found.st_ctime_ns
                yield from _turned(part.parent / part.readlink(), seen)


def matches_of(pattern: bytes) -> list[bytes]:
    """Return the files that an include pattern means, in Nginx's order."""
    return sorted(glob.glob(pattern))  # noqa: PTH207 - bytes, and absolute


def summary(upstreams: Mapping[tuple[str, str], Upstream]) -> str:
    """Return the names of all upstreams, for an error."""
    return ", ".join(f"{name} ({context})" for context, name in upstreams) or "none"
