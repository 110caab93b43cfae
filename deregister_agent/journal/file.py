"""The journal's file: owned by one process, synced at each commit, of a known format."""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deregister_agent.errors import JournalError
from deregister_agent.journal import registrations

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE drains (
    id TEXT PRIMARY KEY, instance TEXT NOT NULL, number INTEGER NOT NULL,
    started REAL NOT NULL, ended REAL,
    boot_id TEXT NOT NULL, deadline_wall REAL NOT NULL, record TEXT NOT NULL);
CREATE INDEX drains_by_instance ON drains (instance, number);
CREATE TABLE snapshots (
    instance TEXT NOT NULL, registry TEXT NOT NULL, taken REAL NOT NULL, snapshot TEXT NOT NULL,
    PRIMARY KEY (instance, registry));
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, drain TEXT NOT NULL, instance TEXT NOT NULL,
    kind TEXT NOT NULL, wall REAL NOT NULL, detail TEXT NOT NULL);
CREATE INDEX events_by_drain ON events (drain);
CREATE TABLE outbox (
    id TEXT NOT NULL, notifier TEXT NOT NULL, instance TEXT NOT NULL, kind TEXT NOT NULL,
    position INTEGER NOT NULL, event TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, error TEXT,
    delivered REAL, superseded REAL, PRIMARY KEY (id, notifier));
CREATE INDEX outbox_open ON outbox (position) WHERE delivered IS NULL AND superseded IS NULL;
"""


class JournalFile:
    """
    A SQLite file that this process alone has, until close().

    What was written in a transaction is on disk when its block ends, as a whole or
    not at all. Everything here raises JournalError when the disk does not do its part.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mutex = threading.Lock()
        self._owner = _own(path)
        try:
            self._db = self._open()
        except BaseException:
            os.close(self._owner)
            raise

    def _open(self) -> sqlite3.Connection:
        with _explained(self.path, "open"):
            # Made for its owner alone, as SQLite would not: snapshots are what registries hold.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            with _explained(self.path, "open"):
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
                _check(db, self.path)
                registrations.create(db)
        except BaseException:
            db.close()
            raise
        return db

    def close(self) -> None:
        """Close the file and give up its ownership."""
        with self._mutex:
            self._db.close()
            os.close(self._owner)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Give the tables to one writer; keep all that it writes, or nothing if it raises."""
        with self._mutex, _explained(self.path, "write"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give the tables to one reader."""
        with self._mutex, _explained(self.path, "read"):
            yield self._db


@contextmanager
def _explained(path: Path, doing: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as e:
        raise JournalError(f"cannot {doing} the journal {path}: {e}") from e


def _own(path: Path) -> int:
    """Take the journal for this process, or say who has it."""
    lock = path.with_name(path.name + ".lock")
    try:
        owner = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError as e:
        raise JournalError(
            f"the journal's directory {path.parent} is not there: make it, or set agent.journal"
        ) from e
    except OSError as e:
        raise JournalError(f"cannot open the journal {path}: {e}") from e
    try:
        with _explained(path, "lock"):
            _lock(owner, path)
    except BaseException:
        os.close(owner)
        raise
    return owner


def _lock(owner: int, path: Path) -> None:
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        holder = os.pread(owner, 32, 0).decode("ascii", "replace").strip() or "unknown"
        raise JournalError(
            f"the journal {path} is in use by another agent, process {holder}; "
            "stop that one first, or give this one a journal of its own"
        ) from e
    os.ftruncate(owner, 0)
    os.pwrite(owner, f"{os.getpid()}\n".encode(), 0)


def _check(db: sqlite3.Connection, path: Path) -> None:
    """Make the schema in an empty file; refuse a file that is damaged or from a later version."""
    verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise JournalError(
            f"the journal {path} is damaged ({verdict}); move it aside and look at the registries: "
            "what it knew of instances that are out is lost"
        )
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    elif version != SCHEMA_VERSION:
        raise JournalError(
            f"the journal {path} has format {version} and this program knows {SCHEMA_VERSION}; "
            "run the version that wrote it, or start with a new journal"
        )
