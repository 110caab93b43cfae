"""A journal that an earlier version left in mid-drain is taken up, and each drain ended rightly."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from deregister_agent.drain import is_safe_to_kill
from deregister_agent.model import UNFINISHED, Instance, Outcome, Phase, Policy, StopRequest
from tests.fakes import Directory, FakeNotifier, FakeRegistry
from tests.loops import LIMIT, Running, eventually, made_of

SQL = Path(__file__).with_name("journal_format_1.sql").read_text()
POLICY = Policy(deadline=LIMIT, quiet=0.1, settle=0.2, min_others=0)
TOLD = {
    "withdrawing": ["drained", "taken-back", "serving"],
    "settling": ["drained", "taken-back", "serving"],
    "draining": ["drained", "taken-back", "serving"],
    "drained": ["drained", "taken-back", "serving"],
    "expired": ["expired", "serving"],
    "forced": ["expired", "forced", "taken-back", "serving"],
    "gone": ["taken-back", "serving"],
    "restoring": ["serving"],
}
"""What the platform hears of each instance from the new agent, until it serves again."""


class GoneOnClock:
    """The clock of the host that wrote the journal, three seconds after the agent was killed."""

    def __init__(self, boot: str) -> None:
        self._boot, self._began = boot, time.monotonic()

    def now(self) -> float:
        return 2282.2 + time.monotonic() - self._began

    def wall(self) -> float:
        return 1796044520.4 + time.monotonic() - self._began

    def boot_id(self) -> str:
        return self._boot


class OldJournal:
    """What the old agent had written down of one instance."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        with closing(sqlite3.connect(folder / "journal.db")) as db:
            db.executescript(SQL)
            [(self.id, record)] = self._rows(db, "SELECT id, record FROM drains")
            self.record = json.loads(record)
            self.kinds = [kind for (kind,) in self._rows(db, "SELECT kind FROM events")]
            open_rows = "SELECT id FROM outbox WHERE delivered IS NULL AND superseded IS NULL"
            self.pending = [event for (event,) in self._rows(db, open_rows)]

    def _rows(self, db: sqlite3.Connection, query: str) -> list[tuple[str, ...]]:
        where = "AND" if "WHERE" in query else "WHERE"
        return db.execute(f"{query} {where} instance = ? ORDER BY rowid", (self.name,)).fetchall()


class TakenUp:
    """The new agent on the old journal, with one instance, and the world as the old one left it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.old = OldJournal(folder, name)
        self.directory, self.platform = Directory(), FakeNotifier("platform")
        if name == "withdrawing":
            self.directory.put(name, {"ID": name, "weight": 5})
        instance = Instance(name, "shop", "10.0.0.7", 8080)
        registry = FakeRegistry(self.directory, name, "catalog")
        clock = GoneOnClock(self.old.record["process"]["boot_id"])
        more = [self.platform]
        self.running: Running = made_of(folder, instance, [registry], POLICY, more, clock=clock)
        self.running.probe.mark = self.old.record["process"]["mark"]
        assert self.running.agent.journal.set_back(name) == ""
        assert (folder / "journal.db.generation").is_file()

    def restored(self) -> None:
        """Wait until the instance serves again, as it was before, and everybody was told."""
        self.running.until(Phase.SERVING)
        name = self.old.name
        assert self.directory.listed == {name: {"ID": name, "weight": 5}}
        eventually(lambda: self.platform.kinds() == TOLD[name], f"{TOLD[name]} was told")
        assert list(self.platform.told)[: len(self.old.pending)] == self.old.pending
        assert self.running.phases()[: len(self.old.kinds)] == self.old.kinds


@contextmanager
def taken_up(folder: Path, name: str, *, busy: bool = False) -> Iterator[TakenUp]:
    """Start the new agent, its app *busy* or not."""
    made = TakenUp(folder, name)
    if busy:
        made.running.probe.begin()
    made.running.agent.start()
    try:
        yield made
    finally:
        made.running.agent.stop()


@pytest.mark.parametrize("phase", sorted(UNFINISHED))
def test_an_unfinished_drain_is_finished(phase: Phase, tmp_path: Path) -> None:
    """The same drain with the same deadline, drained only once the app is idle, then restored."""
    with taken_up(tmp_path, phase, busy=True) as made:
        running, old = made.running, made.old
        running.until(Phase.DRAINING)
        eventually(lambda: running.loop.status().in_flight.get("requests"), "the work was seen")
        assert (running.loop.drain.phase, made.directory.listed) == (Phase.DRAINING, {})
        running.probe.end()
        drain = running.until(Phase.DRAINED)
        assert (drain.id, drain.outcome) == (old.id, Outcome.DRAINED)
        assert (drain.deadline, drain.limit) == (old.record["deadline"], old.record["limit"])
        eventually(lambda: made.platform.kinds() == ["drained"], "drained was told")
        running.loop.start_traffic("", "")
        made.restored()


def test_a_drained_still_is(tmp_path: Path) -> None:
    """The announcement that waited is made, by its old id; stop-traffic finds the same drain."""
    with taken_up(tmp_path, "drained") as made:
        loop = made.running.loop
        eventually(lambda: list(made.platform.told) == made.old.pending, "drained was told")
        loop.stop_traffic(StopRequest())
        assert (loop.drain.id, loop.drain.phase) == (made.old.id, Phase.DRAINED)
        assert is_safe_to_kill(loop.drain.phase, loop.drain.outcome)
        loop.start_traffic("", "")
        made.restored()


@pytest.mark.parametrize("name", ["expired", "forced"])
def test_an_expired_stays_expired(name: str, tmp_path: Path) -> None:
    """However idle the app has become since: what was said is said, and it is not drained."""
    with taken_up(tmp_path, name) as made:
        loop = made.running.loop
        eventually(lambda: list(made.platform.told) == made.old.pending, "expired was told")
        assert (loop.drain.phase, loop.drain.outcome) == (Phase.EXPIRED, Outcome.EXPIRED)
        assert not is_safe_to_kill(loop.drain.phase, loop.drain.outcome)
        loop.start_traffic("", "")
        made.restored()


def test_what_is_gone_is_not_guarded(tmp_path: Path) -> None:
    """The next version is left alone until somebody asks for it to be restored."""
    with taken_up(tmp_path, "gone") as made:
        loop = made.running.loop
        eventually(lambda: loop.status().registries[0].listed is False, "it has looked")
        assert (loop.drain.phase, made.platform.kinds()) == (Phase.GONE, [])
        loop.start_traffic("", "")
        made.restored()


def test_a_restore_is_carried_through(tmp_path: Path) -> None:
    """By itself, from the snapshot that the old agent kept."""
    with taken_up(tmp_path, "restoring") as made:
        made.restored()
