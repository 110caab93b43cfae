"""
A file that exists while "safe to kill" holds: for Kubernetes pre-stop hooks and init scripts.

That the deadline passed is never told by the same file: who waits for a file to appear must
not take giving up for being ready.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from pydantic import model_validator

from deregister_agent.config.options import NotifierOptions
from deregister_agent.errors import NotifyError
from deregister_agent.host.files import remove_durably, replace_durably
from deregister_agent.model import Announcement, Event, Instance, Process
from deregister_agent.notifiers.event_json import encoded
from deregister_agent.ports import Notifier

_NEEDED = frozenset({Announcement.TAKEN_BACK, Announcement.SERVING})


class Options(NotifierOptions):
    """The keys of a ``ready_file`` notifier."""

    announces: tuple[Announcement, ...] = (
        Announcement.DRAINED,
        Announcement.FORCED,
        Announcement.EXPIRED,
        Announcement.TAKEN_BACK,
        Announcement.SERVING,
    )
    """Which announcements it is told; "taken-back" and "serving" remove the file and must stay."""
    path: Path
    """The file that says "safe to kill"; its folder must exist."""
    expired_path: Path | None = None
    """The file that says that the deadline passed; none is written when left out."""

    @model_validator(mode="after")
    def _tells_apart(self) -> Self:
        if self.path == self.expired_path:
            raise ValueError("path and expired_path must differ: drained and expired do")
        if not _NEEDED.issubset(self.announces):
            raise ValueError(
                'announces must have "taken-back" and "serving": without them the file '
                "would still be there when it no longer holds"
            )
        return self


class ReadyFile(Notifier):
    """Keeps at most one of two files, by the last announcement."""

    def __init__(self, options: Options) -> None:
        self.name = options.label
        self.announces = frozenset(options.announces)
        self._ready, self._expired = options.path, options.expired_path

    def announce(self, event: Event) -> None:
        """Write or remove the files, durably. First what no longer holds, then what does."""
        match event.kind:
            case Announcement.DRAINED | Announcement.FORCED:
                self._replace(self._expired, self._ready, event)
            case Announcement.EXPIRED:
                self._replace(self._ready, self._expired, event)
            case Announcement.TAKEN_BACK | Announcement.SERVING:
                self._replace(self._ready, None, event)
                self._replace(self._expired, None, event)

    def examine(self, running: Process | None) -> str:
        """Look whether the files could be made; makes none."""
        del running
        paths = [path for path in (self._ready, self._expired) if path is not None]
        for path in paths:
            if why := _unwritable(path):
                raise NotifyError(self.name, f"write {path}", why)
        return f"{' and '.join(str(path) for path in paths)} could be written; nothing was"

    def _replace(self, old: Path | None, new: Path | None, event: Event) -> None:
        if old is not None:
            with self._doing(f"remove {old}"):
                remove_durably(old)
        if new is not None:
            with self._doing(f"write {new}"):
                replace_durably(new, encoded(event) + b"\n")

    @contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise NotifyError(self.name, what, e) from e


def _unwritable(path: Path) -> str:
    """Return why *path* could not be made or replaced; empty where nothing speaks against it."""
    folder = path.parent
    if not folder.is_dir():
        return f"the folder {folder} is not there: make it, or change path"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"this user may not write to the folder {folder}"
    return "a folder stands in its place" if path.is_dir() else ""


def build(options: Options, instance: Instance) -> ReadyFile:
    """Return the notifier; each instance has one, with a path of its own."""
    del instance
    return ReadyFile(options)
