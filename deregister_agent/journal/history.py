"""What the journal can tell of the past: drains and their timelines."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deregister_agent.journal import records
from deregister_agent.model import Drain

_DRAIN = "record, started, ended"
_EVENT = "id, kind, instance, drain, wall, detail"


@dataclass(frozen=True, slots=True)
class PastDrain:
    """A drain as it was last written down, with when it began and ended by the wall clock."""

    drain: Drain
    started: float
    ended: float | None


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """A decision in the timeline of a drain."""

    id: int
    kind: str
    instance: str
    drain: str
    wall: float  # seconds since 1970
    detail: Mapping[str, Any]


def drains(db: sqlite3.Connection, instance: str, limit: int) -> list[PastDrain]:
    """Return the drains of *instance*, newest first."""
    rows = db.execute(
        f"SELECT {_DRAIN} FROM drains WHERE instance = ? ORDER BY number DESC LIMIT ?",  # noqa: S608 - constant text
        (instance, limit),
    ).fetchall()
    return [_drain(row) for row in rows]


def drain(
    db: sqlite3.Connection, instance: str, drain_id: str
) -> tuple[PastDrain, list[TimelineEvent]] | None:
    """Return one drain of *instance* with its timeline; None if there is none by that id."""
    row = db.execute(
        f"SELECT {_DRAIN} FROM drains WHERE instance = ? AND id = ?",  # noqa: S608 - constant text
        (instance, drain_id),
    ).fetchone()
    if row is None:
        return None
    rows = db.execute(
        f"SELECT {_EVENT} FROM events WHERE drain = ? AND instance = ? ORDER BY id",  # noqa: S608 - constant text
        (drain_id, instance),
    ).fetchall()
    return _drain(row), [_event(each) for each in rows]


def events_after(db: sqlite3.Connection, event: int, limit: int) -> list[TimelineEvent]:
    """Return the events that came after the one with that id, oldest first."""
    rows = db.execute(
        f"SELECT {_EVENT} FROM events WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608 - constant text
        (event, limit),
    ).fetchall()
    return [_event(row) for row in rows]


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


def _drain(row: tuple[str, float, float | None]) -> PastDrain:
    return PastDrain(records.drain(row[0]), row[1], row[2])


def _event(row: tuple[int, str, str, str, float, str]) -> TimelineEvent:
    return TimelineEvent(*row[:5], json.loads(row[5]))
