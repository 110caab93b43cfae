"""What the agent has decided, on disk before it acts: drains, snapshots, events, announcements."""

import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from deregister_agent import records
from deregister_agent.clock import Clock
from deregister_agent.errors import JournalError
from deregister_agent.model import Announcement, Drain, Event, Instance, Snapshot

SCHEMA_VERSION = 1
KEPT_DRAINS = 500  # per instance; older ones are forgotten when a new drain begins

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


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision, written as a whole or not at all."""

    drain: Drain
    instance: Instance
    kind: str  # what the timeline calls it
    detail: Mapping[str, object]
    announcements: tuple[Announcement, ...] = ()
    notifiers: Mapping[str, frozenset[Announcement]] = field(default_factory=dict)
    overtaken: frozenset[Announcement] = frozenset()  # undelivered ones that no longer hold
    ends_drain: bool = False  # its outcome is settled by this decision
    snapshots_of: frozenset[str] | None = None  # who still needs theirs; None: every registry


@dataclass(frozen=True, slots=True)
class Letter:
    """An announcement on its way to one notifier."""

    notifier: str
    event: Event
    attempts: int
    error: str | None


def new_drain_id() -> str:
    """Return an id for a new drain."""
    return uuid4().hex


class Journal:
    """
    Durable record of what the agent has decided, owned by one process.

    A method that writes returns only once the record is on disk, so the rule for
    callers is short: write down what you are about to do, then do it. Every
    method raises JournalError when the disk does not do its part.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self._clock = clock
        self._mutex = threading.Lock()
        self._owner = _own(path)
        try:
            self._db = self._open()
        except BaseException:
            os.close(self._owner)
            raise

    def _open(self) -> sqlite3.Connection:
        with _explained(self.path, "open"):
            db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            with _explained(self.path, "open"):
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
                _check(db, self.path)
        except BaseException:
            db.close()
            raise
        return db

    def close(self) -> None:
        """Close the file and give up its ownership."""
        with self._mutex:
            self._db.close()
            os.close(self._owner)

    def write(self, entry: Entry) -> int:
        """Write one decision down, with its place in the timeline and its announcements."""
        drain, wall = entry.drain, self._clock.wall()
        with self._transaction() as db:
            self._put_drain(db, drain, wall)
            event = db.execute(
                "INSERT INTO events (drain, instance, kind, wall, detail) VALUES (?, ?, ?, ?, ?)",
                (drain.id, drain.instance, entry.kind, wall, json.dumps(entry.detail)),
            ).lastrowid
            assert event is not None
            db.executemany(
                "UPDATE outbox SET superseded = ? WHERE instance = ? AND kind = ?"
                " AND delivered IS NULL AND superseded IS NULL",
                [(wall, drain.instance, kind) for kind in entry.overtaken],
            )
            if entry.snapshots_of is not None:
                _forget_snapshots(db, drain.instance, entry.snapshots_of)
            _post(db, entry, event, wall)
        return event

    def _put_drain(self, db: sqlite3.Connection, drain: Drain, wall: float) -> None:
        deadline_wall = wall + drain.deadline - self._clock.now()
        ended = wall if drain.outcome is not None else None
        record = json.dumps(asdict(drain))
        boot_id = self._clock.boot_id()
        changed = db.execute(
            "UPDATE drains SET boot_id = ?, deadline_wall = ?, record = ?,"
            " ended = CASE WHEN ? IS NULL THEN NULL ELSE coalesce(ended, ?) END WHERE id = ?",
            (boot_id, deadline_wall, record, ended, ended, drain.id),
        ).rowcount
        if not changed:
            db.execute(
                "INSERT INTO drains VALUES (?, ?, (SELECT coalesce(max(number), 0) + 1 FROM drains"
                " WHERE instance = ?), ?, ?, ?, ?, ?)",
                (
                    drain.id,
                    drain.instance,
                    drain.instance,
                    wall,
                    ended,
                    boot_id,
                    deadline_wall,
                    record,
                ),
            )
            _forget_old(db, drain.instance)

    def current(self, instance: str) -> Drain:
        """Return the latest drain of *instance*, its times carried over to this boot."""
        with self._reading() as db:
            row = db.execute(
                "SELECT record, boot_id, deadline_wall FROM drains WHERE instance = ?"
                " ORDER BY number DESC LIMIT 1",
                (instance,),
            ).fetchone()
        if row is None:
            return Drain.never(instance)
        drain = records.drain(row[0])
        if row[1] == self._clock.boot_id():
            return drain
        # a date that was set back over the reboot must not make the drain longer than asked for
        now, left = self._clock.now(), min(row[2] - self._clock.wall(), drain.limit)
        return replace(drain, since=now, deadline=now + left)

    def keep_snapshot(self, instance: str, registry: str, snapshot: Snapshot) -> None:
        """Keep what restoring will need; a later snapshot takes the place of an earlier one."""
        text = json.dumps(snapshot)
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)",
                (instance, registry, self._clock.wall(), text),
            )

    def snapshot(self, instance: str, registry: str) -> Snapshot | None:
        """Return the snapshot kept for *registry*, if any."""
        with self._reading() as db:
            row = db.execute(
                "SELECT snapshot FROM snapshots WHERE instance = ? AND registry = ?",
                (instance, registry),
            ).fetchone()
        return None if row is None else json.loads(row[0])

    def letters(self) -> list[Letter]:
        """Return the announcements that have not been taken yet, oldest first."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT notifier, event, attempts, error FROM outbox"
                " WHERE delivered IS NULL AND superseded IS NULL ORDER BY position"
            ).fetchall()
        return [Letter(row[0], records.event(row[1]), row[2], row[3]) for row in rows]

    def still_holds(self, letter: Letter) -> bool:
        """Tell whether *letter* still waits to be delivered and nothing has overtaken it."""
        with self._reading() as db:
            row = db.execute(
                "SELECT 1 FROM outbox WHERE id = ? AND notifier = ?"
                " AND delivered IS NULL AND superseded IS NULL",
                (letter.event.id, letter.notifier),
            ).fetchone()
        return row is not None

    def delivered(self, letter: Letter) -> None:
        """Note that the notifier took *letter*: it is never sent again."""
        with self._transaction() as db:
            db.execute(
                "UPDATE outbox SET delivered = ?, attempts = attempts + 1, error = NULL"
                " WHERE id = ? AND notifier = ?",
                (self._clock.wall(), letter.event.id, letter.notifier),
            )

    def not_delivered(self, letter: Letter, error: str) -> None:
        """Note why the notifier did not take *letter*."""
        with self._transaction() as db:
            db.execute(
                "UPDATE outbox SET attempts = attempts + 1, error = ?"
                " WHERE id = ? AND notifier = ?",
                (error, letter.event.id, letter.notifier),
            )

    def drains(self, instance: str, limit: int) -> list[dict[str, Any]]:
        """Return the drains of *instance*, newest first, as the HTTP API shows them."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT record, started, ended FROM drains WHERE instance = ?"
                " ORDER BY number DESC LIMIT ?",
                (instance, limit),
            ).fetchall()
        return [records.shown(*row) for row in rows]

    def drain(self, instance: str, drain: str) -> dict[str, Any] | None:
        """Return one drain of *instance* with its timeline; None if there is none by that id."""
        with self._reading() as db:
            row = db.execute(
                "SELECT record, started, ended FROM drains WHERE instance = ? AND id = ?",
                (instance, drain),
            ).fetchone()
            events = db.execute(
                "SELECT id, kind, instance, drain, wall, detail FROM events"
                " WHERE drain = ? AND instance = ? ORDER BY id",
                (drain, instance),
            ).fetchall()
        if row is None:
            return None
        return {**records.shown(*row), "events": [records.line(event) for event in events]}

    def events_after(self, event: int, limit: int) -> list[dict[str, Any]]:
        """Return the events that came after the one with that id, oldest first."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT id, kind, instance, drain, wall, detail FROM events"
                " WHERE id > ? ORDER BY id LIMIT ?",
                (event, limit),
            ).fetchall()
        return [records.line(row) for row in rows]

    def last_event(self) -> int:
        """Return the id of the newest event, 0 if there is none."""
        with self._reading() as db:
            return int(db.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
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
    def _reading(self) -> Iterator[sqlite3.Connection]:
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
    with _explained(path, "open"):
        owner = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        holder = os.pread(owner, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(owner)
        raise JournalError(
            f"the journal {path} is in use by another agent, process {holder}; "
            "stop that one first, or give this one a journal of its own"
        ) from e
    os.ftruncate(owner, 0)
    os.pwrite(owner, f"{os.getpid()}\n".encode(), 0)
    return owner


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


def _post(db: sqlite3.Connection, entry: Entry, event: int, wall: float) -> None:
    for announcement in entry.announcements:
        letter = Event(
            id=f"{entry.drain.id}.{event}.{announcement}",
            kind=announcement,
            instance=entry.instance,
            drain=entry.drain.id,
            wall=wall,
            detail=entry.detail,
            process=entry.drain.process,
        )
        text = json.dumps(asdict(letter))
        db.executemany(
            "INSERT INTO outbox (id, notifier, instance, kind, position, event)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            [
                (letter.id, notifier, entry.instance.name, announcement, event, text)
                for notifier, wanted in entry.notifiers.items()
                if announcement in wanted
            ],
        )


def _forget_snapshots(db: sqlite3.Connection, instance: str, but_of: frozenset[str]) -> None:
    marks = ", ".join("?" * len(but_of))
    db.execute(
        f"DELETE FROM snapshots WHERE instance = ? AND registry NOT IN ({marks})",  # noqa: S608 - marks only
        (instance, *but_of),
    )


def _forget_old(db: sqlite3.Connection, instance: str) -> None:
    old = (
        "SELECT id FROM drains WHERE instance = ? AND number <="
        " (SELECT max(number) FROM drains WHERE instance = ?) - ?"
    )
    these = (instance, instance, KEPT_DRAINS)
    db.execute(f"DELETE FROM events WHERE drain IN ({old})", these)  # noqa: S608 - constant text
    db.execute(
        "DELETE FROM outbox WHERE instance = ? AND position < (SELECT coalesce(min(id), 0)"
        " FROM events WHERE instance = ?)",
        (instance, instance),
    )
    db.execute(f"DELETE FROM drains WHERE id IN ({old})", these)  # noqa: S608 - constant text
