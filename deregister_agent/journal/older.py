"""
Whether the journal is an older copy than the decisions made, and what is believed of it then.

Nothing of it is: every instance is taken for serving. What registries had shown counts as
no proof, and no announcement on its way is made. But snapshots and last good registrations
stay, so that what is out can be put back. That holds for each instance until the next
stop-traffic or start-traffic of its own, however often the agent is started before.
"""

import logging
import sqlite3
from pathlib import Path

from deregister_agent.journal import announcements, registrations
from deregister_agent.journal.generation import Generation

log = logging.getLogger(__name__)

TABLES = (
    "CREATE TABLE IF NOT EXISTS generation (number INTEGER NOT NULL)",
    """CREATE TABLE IF NOT EXISTS set_back (
        instance TEXT PRIMARY KEY, said TEXT NOT NULL, decided INTEGER NOT NULL)""",
)
_ALL = ""  # the row for all instances that have none of their own
_THEN = (
    "So nothing that it says of drains is believed, and every instance is taken for serving, "
    "whether it is in or out, until its next stop-traffic or start-traffic. Look at `deregister-"
    "agent status` and `deregister-agent doctor`, and put back what should be in: `deregister-"
    "agent restore NAME`"
)


def take_up(db: sqlite3.Connection, generation: Generation, path: Path, wall: float) -> int | None:
    """
    Compare the journal at *path* with the number beside it, in a transaction of the caller's.

    Return what the file has to be set to once that is on disk, None if it is as it should
    be. Were the file first, a crash between the two would hide that the journal is older.
    """
    for table in TABLES:
        db.execute(table)
    row = db.execute("SELECT number FROM generation").fetchone()
    known = None if row is None else int(row[0])
    beside, why = _compared(known, generation, path)
    if why:
        sentence = f"{why}. {_THEN}"
        log.error("%s", sentence)
        _disbelieve(db, sentence, wall)
    elif beside is not None and known is not None:
        return None
    number = max(known or 0, beside or 0)
    _put_number(db, number)
    return None if beside == number else number


def _compared(known: int | None, generation: Generation, path: Path) -> tuple[int | None, str]:
    """Return the number in the file, if any, and why the journal is not believed, if it is not."""
    try:
        beside = generation.read()
    except (OSError, ValueError) as e:
        return None, (
            f"{generation.path} cannot be read ({e}), so nobody can tell whether the journal "
            f"{path} is an older copy"
        )
    if beside is None or (known is not None and 0 <= beside - known <= 1):
        return beside, ""
    if known is None and beside > 0:
        return beside, (
            f"the journal {path} is new or from an earlier version, and {beside} decisions were "
            f"made before it, by {generation.path}"
        )
    if known is not None and beside > known:
        return beside, (
            f"the journal {path} is an older copy: it ends with decision {known}, and {beside} "
            f"were made, by {generation.path}"
        )
    if known is not None:
        return beside, (
            f"{generation.path} is older than the journal {path}: it speaks of {beside} decisions, "
            f"and the journal of {known}; one of them was set back"
        )
    return beside, ""


def _disbelieve(db: sqlite3.Connection, sentence: str, wall: float) -> None:
    db.execute("DELETE FROM set_back")
    db.execute("INSERT INTO set_back VALUES (?, ?, 0)", (_ALL, sentence))
    registrations.forget_all(db)
    announcements.supersede_all(db, wall)


def _put_number(db: sqlite3.Connection, number: int) -> None:
    db.execute("DELETE FROM generation")
    db.execute("INSERT INTO generation VALUES (?)", (number,))


def count(db: sqlite3.Connection) -> int:
    """Count one more decision, and return its number."""
    db.execute("UPDATE generation SET number = number + 1")
    return int(db.execute("SELECT number FROM generation").fetchone()[0])


def said(db: sqlite3.Connection, instance: str) -> str:
    """Return what a person should know: why nothing is believed of *instance*; empty if it is."""
    return _row(db, instance)[0]


def is_believed(db: sqlite3.Connection, instance: str) -> bool:
    """Tell whether the latest drain of *instance* is one that was decided on since."""
    return _row(db, instance)[1]


def _row(db: sqlite3.Connection, instance: str) -> tuple[str, bool]:
    row = db.execute(
        "SELECT said, decided FROM set_back WHERE instance IN (?, ?)"
        " ORDER BY instance DESC LIMIT 1",
        (_ALL, instance),
    ).fetchone()
    return ("", True) if row is None else (str(row[0]), bool(row[1]))


def answered(db: sqlite3.Connection, instance: str, *, decided: bool) -> None:
    """Note that somebody has seen to *instance*, and whether something was *decided* by that."""
    if not is_believed(db, instance):
        db.execute("INSERT OR REPLACE INTO set_back VALUES (?, '', ?)", (instance, decided))
