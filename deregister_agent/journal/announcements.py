"""The journal's table of announcements that are on their way to notifiers."""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from deregister_agent.journal import records
from deregister_agent.model import Announcement, Event


@dataclass(frozen=True, slots=True)
class PendingAnnouncement:
    """An announcement on its way to one notifier."""

    notifier: str
    event: Event
    attempts: int
    error: str | None


def put(db: sqlite3.Connection, event: Event, position: int, notifiers: Iterable[str]) -> None:
    """Put *event* into the outbox, once for each of the *notifiers*; *position* is its order."""
    text = json.dumps(asdict(event))
    db.executemany(
        "INSERT INTO outbox (id, notifier, instance, kind, position, event)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [(event.id, one, event.instance.name, event.kind, position, text) for one in notifiers],
    )


def supersede(
    db: sqlite3.Connection, instance: str, kinds: Iterable[Announcement], wall: float
) -> None:
    """Keep what no longer holds from being delivered."""
    db.executemany(
        "UPDATE outbox SET superseded = ? WHERE instance = ? AND kind = ?"
        " AND delivered IS NULL AND superseded IS NULL",
        [(wall, instance, kind) for kind in kinds],
    )


def supersede_all(db: sqlite3.Connection, wall: float) -> None:
    """Keep everything from being delivered that has not been."""
    db.execute(
        "UPDATE outbox SET superseded = ? WHERE delivered IS NULL AND superseded IS NULL", (wall,)
    )


def pending(db: sqlite3.Connection) -> list[PendingAnnouncement]:
    """Return what has been neither taken nor overtaken yet, oldest first."""
    rows = db.execute(
        "SELECT notifier, event, attempts, error FROM outbox"
        " WHERE delivered IS NULL AND superseded IS NULL ORDER BY position, rowid"
    ).fetchall()
    return [PendingAnnouncement(row[0], records.event(row[1]), row[2], row[3]) for row in rows]


def still_holds(db: sqlite3.Connection, announcement: PendingAnnouncement) -> bool:
    """Tell whether *announcement* still waits to be delivered and nothing has overtaken it."""
    row = db.execute(
        "SELECT 1 FROM outbox WHERE id = ? AND notifier = ?"
        " AND delivered IS NULL AND superseded IS NULL",
        (announcement.event.id, announcement.notifier),
    ).fetchone()
    return row is not None


def delivered(db: sqlite3.Connection, announcement: PendingAnnouncement, wall: float) -> None:
    """Note that the notifier took *announcement*."""
    db.execute(
        "UPDATE outbox SET delivered = ?, attempts = attempts + 1, error = NULL"
        " WHERE id = ? AND notifier = ?",
        (wall, announcement.event.id, announcement.notifier),
    )


def not_delivered(db: sqlite3.Connection, announcement: PendingAnnouncement, error: str) -> None:
    """Note why the notifier did not take *announcement*."""
    db.execute(
        "UPDATE outbox SET attempts = attempts + 1, error = ? WHERE id = ? AND notifier = ?",
        (error, announcement.event.id, announcement.notifier),
    )
