"""
The journal's table of what each registry has shown of an instance since it serves.

An absence is believed only where this table says that the instance was seen there. A row
outlives its worth: once the process that was seen has gone, its ``identity`` is empty.
"""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from deregister_agent.journal import records
from deregister_agent.model import Process, Snapshot

TABLE = """
CREATE TABLE IF NOT EXISTS registrations (
    instance TEXT NOT NULL, registry TEXT NOT NULL, identity TEXT NOT NULL, out_by TEXT NOT NULL,
    process TEXT, snapshot TEXT, seen REAL NOT NULL, PRIMARY KEY (instance, registry));
"""
BEFORE = "before"  # the identity of what a version without this table had taken out
_TAKEN_OVER = """
INSERT INTO registrations SELECT s.instance, s.registry, ?, '', NULL, s.snapshot, s.taken
    FROM snapshots s
"""


@dataclass(frozen=True, slots=True)
class Registration:
    """What a registry last showed of an instance."""

    identity: str  # where and as what it was looked for; empty: nothing that counts any more
    out_by: str = ""  # by what somebody else had put it out
    process: Process | None = None  # who the app was
    snapshot: Snapshot | None = None  # the last good registration
    wall: float = 0.0  # when it was written down


def create(db: sqlite3.Connection) -> None:
    """Make the table where it is not there, from the snapshots of a version without it."""
    there = "SELECT 1 FROM sqlite_master WHERE name = 'registrations'"
    if db.execute(there).fetchone() is None:
        db.execute("BEGIN IMMEDIATE")
        db.execute(TABLE)
        db.execute(_TAKEN_OVER, (BEFORE,))
        db.execute("COMMIT")


def find(db: sqlite3.Connection, instance: str, registry: str) -> Registration | None:
    """Return what is kept of *instance* in *registry*, if anything."""
    row = db.execute(
        "SELECT identity, out_by, process, snapshot, seen FROM registrations"
        " WHERE instance = ? AND registry = ?",
        (instance, registry),
    ).fetchone()
    if row is None:
        return None
    process = records.process(row[2]) if row[2] else None
    return Registration(row[0], row[1], process, json.loads(row[3]) if row[3] else None, row[4])


def put(db: sqlite3.Connection, instance: str, registry: str, one: Registration) -> None:
    """Write down what a registry shows; a snapshot of None leaves the one that was kept."""
    process = json.dumps(asdict(one.process)) if one.process is not None else None
    snapshot = json.dumps(one.snapshot) if one.snapshot is not None else None
    db.execute(
        "INSERT INTO registrations VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET identity = excluded.identity, out_by = excluded.out_by,"
        " process = excluded.process, seen = excluded.seen,"
        " snapshot = CASE WHEN excluded.snapshot IS NOT NULL THEN excluded.snapshot"
        " WHEN identity IN ('', ?, excluded.identity) THEN snapshot ELSE NULL END",
        (instance, registry, one.identity, one.out_by, process, snapshot, one.wall, BEFORE),
    )


def forget(db: sqlite3.Connection, instance: str) -> None:
    """Let nothing count any more of what was seen of *instance*."""
    db.execute("UPDATE registrations SET identity = '' WHERE instance = ?", (instance,))


def forget_all(db: sqlite3.Connection) -> None:
    """Let nothing count any more of what was seen of any instance."""
    db.execute("UPDATE registrations SET identity = ''")


def drop_snapshot(db: sqlite3.Connection, instance: str, registry: str) -> None:
    """Drop a snapshot from before a journal was set back: a newer good registration is kept."""
    db.execute(
        "DELETE FROM snapshots WHERE instance = ? AND registry = ?",
        (instance, registry),
    )


def keep_as_good(db: sqlite3.Connection, instance: str) -> None:
    """Make what restoring was done from the last good registration; the snapshots have served."""
    db.execute(
        "UPDATE registrations SET snapshot = coalesce((SELECT s.snapshot FROM snapshots s"
        " WHERE s.instance = registrations.instance AND s.registry = registrations.registry),"
        " snapshot) WHERE instance = ? AND out_by = ''",
        (instance,),
    )
    db.execute("DELETE FROM snapshots WHERE instance = ?", (instance,))


def rewrite(
    db: sqlite3.Connection, instance: str, shown: Mapping[str, Registration], wall: float
) -> None:
    """
    Let what was seen of *instance* be what is *shown* now, by registry, and nothing else.

    What is kept of one whose identity is empty stays as it is, and counts no more.
    """
    forget(db, instance)
    for registry, one in shown.items():
        if not one.identity and find(db, instance, registry) is not None:
            continue
        put(db, instance, registry, Registration(one.identity, one.out_by, one.process, None, wall))
