"""The phases that a journal has, read from a copy: it is neither taken nor touched itself."""

import shutil
import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from deregister_agent.errors import JournalError
from deregister_agent.journal import records
from deregister_agent.journal.file import SCHEMA_VERSION
from deregister_agent.model import Phase


def last_phases(path: Path) -> Mapping[str, Phase]:
    """
    Return the phase of each instance in the journal at *path*; none if there is no journal.

    Even to read it in its place, SQLite would make files beside it. Raises JournalError.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="deregister-agent-") as folder:
            copy = Path(folder) / "journal.db"
            if not path.exists():
                return {}
            shutil.copyfile(path, copy)
            log = path.with_name(f"{path.name}-wal")
            if log.exists():  # what the last agent had no time to bring into the file
                shutil.copyfile(log, copy.with_name(f"{copy.name}-wal"))
            with closing(sqlite3.connect(copy)) as db:
                return _phases(db, path)
    except (OSError, sqlite3.Error, ValueError) as e:
        raise JournalError(f"cannot read the journal {path}: {e}") from e


def _phases(db: sqlite3.Connection, path: Path) -> Mapping[str, Phase]:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise JournalError(f"the journal {path} has format {version}, of a later version")
    rows = db.execute("SELECT record FROM drains ORDER BY number") if version else ()
    drains = [records.drain(row[0]) for row in rows]
    return {drain.instance: drain.phase for drain in drains}
