"""
The looks at one target file, of all in this process who ask for it.

An agent may have hundreds of instances in one file, and each change of it is made for one of
them. So what has been read is parsed once for all of them, and only those are woken whom a
change concerns. Nobody is told of a time before it asked: each look reads the file, and what
it finds is taken for what was read before only if it is that to the last byte.
"""

import errno
import os
import secrets
import threading
import time
import weakref
from collections import deque
from collections.abc import Hashable
from pathlib import Path

from deregister_agent.host import threads
from deregister_agent.host.addresses import host_and_port
from deregister_agent.host.files import read_plain
from deregister_agent.registries.file.target_file import FormatError, Syntax, TargetFile

LOOK_TIMEOUT = 3.0  # seconds that the watch waits for the look of somebody else
REMEMBERED = 4096  # changes; whoever has missed more is told that all may have changed
_POLL = 0.05
_UNSETTLED = 0.1  # seconds in which a file may be written to twice and bear the same times


class SharedFile:
    """
    One file. Any thread may use it.

    Looks come one after the other, so the contents they saw are in the order in which the
    file had them, and each is compared with the one before. Hence no change is missed by
    whoever watches from the number of a look on: if what a later look shows of its target
    is something else, then one of the looks between has shown that change and is numbered.
    """

    def __init__(self, path: Path, syntax: Syntax) -> None:
        self._path, self._syntax = path, syntax
        self._looking = threading.Lock()  # over a reading and all that follows from it
        self._content: bytes | int | None = None  # what was read, or the error's number
        self._file: TargetFile | None = None  # what that means; None if it means nothing
        self._state = threading.Lock()  # over all below; never held over a reading
        self._life = secrets.token_hex(4)  # numbers are worth nothing in another one
        self._number = 0
        self._changes: deque[tuple[int, frozenset[Hashable] | None]] = deque(maxlen=REMEMBERED)
        self._waiting: dict[threading.Event, Hashable] = {}
        self._polled = False

    def look(self, limit: float) -> TargetFile:
        """
        Read the file, now.

        Raises OSError, UnicodeDecodeError or FormatError; TimeoutError, an OSError, if
        others have been looking for *limit* seconds.
        """
        if not self._looking.acquire(timeout=limit):
            why = f"an earlier look at it has not ended for {limit:g} s"
            raise TimeoutError(errno.ETIMEDOUT, why, str(self._path))
        try:
            return self._look()
        finally:
            self._looking.release()

    def watch(self, target: str, cursor: str | None, timeout: float) -> str:
        """Block until a look at *target* may show something else than at *cursor*."""
        ours, changed = _meant(target), threading.Event()
        with self._state:
            if cursor is None or self._has_changed(ours, cursor):
                return self._cursor
            self._waiting[changed] = ours
        try:
            self._poll()
            changed.wait(timeout)
        finally:
            with self._state:
                del self._waiting[changed]
                now = self._cursor
        return now

    def _look(self) -> TargetFile:
        content: bytes | int = errno.EIO
        file = None
        try:
            content = read_plain(self._path)
            if content == self._content and self._file is not None:
                file = self._file
            else:
                file = TargetFile(content.decode(), self._syntax)
        except OSError as e:
            content = e.errno or errno.EIO
            raise
        finally:
            self._saw(content, file)
        return file

    def _saw(self, content: bytes | int, file: TargetFile | None) -> None:
        """Give a new content a number, and wake those whose target changed: all, if in doubt."""
        before, self._file = self._file, file
        last, self._content = self._content, content
        first, same = last is None, content == last and (before is None) is (file is None)
        if first or same:
            return
        concerned = None
        if before is not None and file is not None:
            concerned = frozenset(map(_meant, before.targets ^ file.targets))
        with self._state:
            self._number += 1
            self._changes.append((self._number, concerned))
            for waits, ours in self._waiting.items():
                if concerned is None or ours in concerned:
                    waits.set()

    @property
    def _cursor(self) -> str:
        return f"{self._life} {self._number}"

    def _has_changed(self, ours: Hashable, cursor: str) -> bool:
        life, _, seen = cursor.partition(" ")
        missed = self._number - int(seen) if life == self._life else REMEMBERED + 1
        if missed > len(self._changes):
            return True
        later = (self._changes[-back][1] for back in range(1, missed + 1))
        return any(concerned is None or ours in concerned for concerned in later)

    def _poll(self) -> None:
        """Let a thread look for changes for as long as anybody waits for them."""
        with self._state:
            if not self._polled:
                threads.start(self._follow, name="file watch")
                self._polled = True

    def _follow(self) -> None:
        seen: object = None
        try:
            while self._is_waited_for():
                now = self._version()
                if now != seen and self._has_looked():
                    seen = now
                time.sleep(_POLL)
        except BaseException:
            with self._state:
                self._polled = False
            raise

    def _has_looked(self) -> bool:
        try:
            self.look(LOOK_TIMEOUT)
        except TimeoutError:
            return False
        except (OSError, ValueError, FormatError):
            pass  # seen as well; lists() says what it is
        return True

    def _is_waited_for(self) -> bool:
        with self._state:
            self._polled = bool(self._waiting)
            return self._polled

    def _version(self) -> object:
        """Return a value that changes whenever the file is replaced or written to."""
        try:
            seen = os.stat(self._path)  # noqa: PTH116 - twenty times a second
        except OSError as e:
            return e.errno
        if abs(time.time() - seen.st_mtime) < _UNSETTLED:
            return object()
        return seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_size


_files: "weakref.WeakValueDictionary[Path, SharedFile]" = weakref.WeakValueDictionary()
_making = threading.Lock()


def shared_file(path: Path, syntax: Syntax) -> SharedFile:
    """Return the SharedFile of *path*, the same for all who hold one at a time."""
    with _making:
        found = _files.get(path)
        if found is None:
            found = _files[path] = SharedFile(path, syntax)
        return found


def _meant(target: str) -> Hashable:
    """Return one value for all spellings of *target*."""
    return host_and_port(target) or target
