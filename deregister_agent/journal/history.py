"""What the journal's tables tell of drains and their timelines, as the HTTP API shows them."""

import sqlite3
from typing import Any

from deregister_agent.journal import records

_LINE = "id, kind, instance, drain, wall, detail"


def drains(db: sqlite3.Connection, instance: str, limit: int) -> list[dict[str, Any]]:
    """Return the drains of *instance*, newest first."""
    rows = db.execute(
        "SELECT record, started, ended FROM drains WHERE instance = ? ORDER BY number DESC LIMIT ?",
        (instance, limit),
    ).fetchall()
    return [records.shown(*row) for row in rows]


def drain(db: sqlite3.Connection, instance: str, drain_id: str) -> dict[str, Any] | None:
    """Return one drain of *instance* with its timeline; None if there is none by that id."""
    row = db.execute(
        "SELECT record, started, ended FROM drains WHERE instance = ? AND id = ?",
        (instance, drain_id),
    ).fetchone()
    if row is None:
        return None
    events = db.execute(
        f"SELECT {_LINE} FROM events WHERE drain = ? AND instance = ? ORDER BY id",  # noqa: S608 - constant text
        (drain_id, instance),
    ).fetchall()
    return {**records.shown(*row), "events": [records.line(event) for event in events]}


def events_after(db: sqlite3.Connection, event: int, limit: int) -> list[dict[str, Any]]:
    """Return the events that came after the one with that id, oldest first."""
    rows = db.execute(
        f"SELECT {_LINE} FROM events WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608 - constant text
        (event, limit),
    ).fetchall()
    return [records.line(row) for row in rows]


def last_event(db: sqlite3.Connection) -> int:
    """Return the id of the newest event, 0 if there is none."""
    return int(db.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()[0])


def forget_old(db: sqlite3.Connection, instance: str, kept: int) -> None:
    """Forget all but the newest *kept* drains of *instance*, and what belongs to them."""
    old = (
        "SELECT id FROM drains WHERE instance = ? AND number <="
        " (SELECT max(number) FROM drains WHERE instance = ?) - ?"
    )
    these = (instance, instance, kept)
    db.execute(f"DELETE FROM events WHERE drain IN ({old})", these)  # noqa: S608 - constant text
    db.execute(
        "DELETE FROM outbox WHERE instance = ? AND position < (SELECT coalesce(min(id), 0)"
        " FROM events WHERE instance = ?)",
        (instance, instance),
    )
    db.execute(f"DELETE FROM drains WHERE id IN ({old})", these)  # noqa: S608 - constant text
