"""What the agent has decided, on disk before it acts: drains, snapshots, events, announcements."""

import json
import logging
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from uuid import uuid4

from deregister_agent.host.clock import Clock
from deregister_agent.journal import announcements, history, older, records, registrations
from deregister_agent.journal.announcements import PendingAnnouncement
from deregister_agent.journal.file import JournalFile
from deregister_agent.journal.generation import Generation
from deregister_agent.journal.history import PastDrain, TimelineEvent
from deregister_agent.journal.registrations import Registration
from deregister_agent.model import Announcement, Drain, Event, Instance, Phase, Snapshot

log = logging.getLogger(__name__)

KEPT_DRAINS = 500  # per instance; older ones are forgotten when a new drain begins


@dataclass(frozen=True, slots=True)
class Decision:
    """What is written down as a whole or not at all."""

    drain: Drain
    instance: Instance
    kind: str  # what the timeline calls it
    detail: Mapping[str, object]
    announcements: tuple[Announcement, ...] = ()
    notifiers: Mapping[str, frozenset[Announcement]] = field(default_factory=dict)
    overtaken: frozenset[Announcement] = frozenset()  # undelivered ones that no longer hold
    ends_drain: bool = False  # its outcome is settled by this decision
    shown: Mapping[str, Registration] | None = None  # by registry; None: as it was before


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
        self._file = JournalFile(path)
        self._generation = Generation(path)
        try:
            self._take_up()
        except BaseException:
            self.close()
            raise

    def _take_up(self) -> None:
        """See whether this is the journal that was written last, and make the two numbers equal."""
        with self._file.transaction() as db:
            number = older.take_up(db, self._generation, self.path, self._clock.wall())
        if number is not None:
            try:
                self._generation.make(number)
            except OSError as e:
                log.error("nothing can be decided until it can be made: %s", e)  # noqa: TRY400 - a sentence says more than a stack

    def close(self) -> None:
        """Close the file and give up its ownership."""
        self._generation.close()
        self._file.close()

    def write(self, decision: Decision) -> int:
        """Write one decision down, with its place in the timeline and its announcements."""
        drain, wall = decision.drain, self._clock.wall()
        with self._file.transaction() as db:
            self._put_drain(db, drain, wall)
            event = db.execute(
                "INSERT INTO events (drain, instance, kind, wall, detail) VALUES (?, ?, ?, ?, ?)",
                (drain.id, drain.instance, decision.kind, wall, json.dumps(decision.detail)),
            ).lastrowid
            assert event is not None
            announcements.supersede(db, drain.instance, decision.overtaken, wall)
            if decision.shown is not None:
                registrations.rewrite(db, drain.instance, decision.shown, wall)
            if drain.phase is Phase.SERVING:
                registrations.keep_as_good(db, drain.instance)
            _announce(db, decision, event, wall)
            older.answered(db, drain.instance, decided=True)
            self._generation.write(older.count(db))  # on disk before the commit
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
        if changed:
            return
        name = drain.instance
        db.execute(
            "INSERT INTO drains VALUES (?, ?, (SELECT coalesce(max(number), 0) + 1 FROM drains"
            " WHERE instance = ?), ?, ?, ?, ?, ?)",
            (drain.id, name, name, wall, ended, boot_id, deadline_wall, record),
        )
        history.forget_old(db, name, KEPT_DRAINS)

    def current(self, instance: str) -> Drain:
        """Return the latest drain of *instance*, its times carried over to this boot."""
        with self._file.reading() as db:
            row = db.execute(
                "SELECT record, boot_id, deadline_wall FROM drains WHERE instance = ?"
                " ORDER BY number DESC LIMIT 1",
                (instance,),
            ).fetchone()
            believed = older.is_believed(db, instance)
        if row is None or not believed:
            return Drain.never(instance)
        drain = records.drain(row[0])
        if row[1] == self._clock.boot_id():
            return drain
        # a date that was set back over the reboot must not make the drain longer than asked for
        now, left = self._clock.now(), min(row[2] - self._clock.wall(), drain.limit)
        return replace(drain, since=now, deadline=now + left)

    def set_back(self, instance: str) -> str:
        """Return why nothing is believed that was written of *instance*; empty if it is."""
        with self._file.reading() as db:
            return older.said(db, instance)

    def found_in_place(self, instance: str) -> None:
        """Note that somebody has seen to it that *instance* is where it should be."""
        with self._file.transaction() as db:
            older.answered(db, instance, decided=False)

    # --- snapshots ---

    def keep_snapshot(self, instance: str, registry: str, snapshot: Snapshot) -> None:
        """Keep what restoring will need; a later snapshot takes the place of an earlier one."""
        text = json.dumps(snapshot)
        with self._file.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)",
                (instance, registry, self._clock.wall(), text),
            )

    def snapshot(self, instance: str, registry: str) -> Snapshot | None:
        """Return the snapshot kept for *registry*, if any."""
        with self._file.reading() as db:
            row = db.execute(
                "SELECT snapshot FROM snapshots WHERE instance = ? AND registry = ?",
                (instance, registry),
            ).fetchone()
        return None if row is None else json.loads(row[0])

    # --- what registries have shown ---

    def registration(self, instance: str, registry: str) -> Registration | None:
        """Return what *registry* last showed of *instance*, if anything."""
        with self._file.reading() as db:
            return registrations.find(db, instance, registry)

    def keep_registration(self, instance: str, registry: str, shown: Registration) -> None:
        """Write down what *registry* shows; without a snapshot, the last one stays."""
        with self._file.transaction() as db:
            now = replace(shown, wall=self._clock.wall())
            registrations.put(db, instance, registry, now)
            if shown.snapshot is not None:
                registrations.drop_snapshot(db, instance, registry)

    def forget_registrations(self, instance: str) -> None:
        """Let nothing count any more of what was seen of *instance*: its process has gone."""
        with self._file.transaction() as db:
            registrations.forget(db, instance)

    # --- announcements on their way ---

    def pending_announcements(self) -> list[PendingAnnouncement]:
        """Return the announcements that have not been taken yet, oldest first."""
        with self._file.reading() as db:
            return announcements.pending(db)

    def still_holds(self, announcement: PendingAnnouncement) -> bool:
        """Tell whether *announcement* still waits to be delivered and nothing has overtaken it."""
        with self._file.reading() as db:
            return announcements.still_holds(db, announcement)

    def delivered(self, announcement: PendingAnnouncement) -> None:
        """Note that the notifier took *announcement*: it is never sent again."""
        with self._file.transaction() as db:
            announcements.delivered(db, announcement, self._clock.wall())

    def not_delivered(self, announcement: PendingAnnouncement, error: str) -> None:
        """Note why the notifier did not take *announcement*."""
        with self._file.transaction() as db:
            announcements.not_delivered(db, announcement, error)

    # --- the past ---

    def drains(self, instance: str, limit: int) -> list[PastDrain]:
        """Return the drains of *instance*, newest first."""
        with self._file.reading() as db:
            return history.drains(db, instance, limit)

    def drain(self, instance: str, drain: str) -> tuple[PastDrain, list[TimelineEvent]] | None:
        """Return one drain of *instance* with its timeline; None if there is none by that id."""
        with self._file.reading() as db:
            return history.drain(db, instance, drain)

    def events_after(self, event: int, limit: int) -> list[TimelineEvent]:
        """Return the events that came after the one with that id, oldest first."""
        with self._file.reading() as db:
            return history.events_after(db, event, limit)

    def last_event(self) -> int:
        """Return the id of the newest event, 0 if there is none."""
        with self._file.reading() as db:
            return history.last_event(db)


def _announce(db: sqlite3.Connection, decision: Decision, event: int, wall: float) -> None:
    """Address the announcements of a decision to those who want to be told."""
    for kind in decision.announcements:
        told = [name for name, wanted in decision.notifiers.items() if kind in wanted]
        announcement = Event(
            id=f"{decision.drain.id}.{event}.{kind}",
            kind=kind,
            instance=decision.instance,
            drain=decision.drain.id,
            wall=wall,
            detail=decision.detail,
            process=decision.drain.process,
        )
        announcements.put(db, announcement, event, told)
