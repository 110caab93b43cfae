"""What the agent has decided, on disk."""

import errno
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deregister_agent.errors import JournalError
from deregister_agent.journal.file import SCHEMA_VERSION
from deregister_agent.journal.journal import KEPT_DRAINS, Decision, Journal
from deregister_agent.journal.registrations import Registration
from deregister_agent.model import Announcement, Drain, Outcome, Phase, Process, Snapshot
from tests.unit.loop_bench import OLD, WEB, HandClock

ALL = {"platform": frozenset(Announcement)}


A_PROCESS = Process("boot-1", ((7, 70),), (9,))


def a_drain(number: int = 1, phase: Phase = Phase.WITHDRAWING) -> Drain:
    return Drain(f"d{number}", WEB.name, phase, since=90.0, deadline=220.0, process=OLD)


def a_decision(drain: Drain, *announcements: Announcement) -> Decision:
    return Decision(drain, WEB, drain.phase, {"from": "serving"}, announcements, ALL)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path, clock: HandClock) -> Iterator[Journal]:
    """Open a new journal."""
    made = Journal(path, clock)
    yield made
    made.close()


def reopened(journal: Journal, clock: HandClock) -> Journal:
    """Close the journal and open the file again."""
    journal.close()
    return Journal(journal.path, clock)


def test_an_instance_that_was_never_drained_is_serving(journal: Journal) -> None:
    """An empty journal is no error."""
    assert journal.current(WEB.name) == Drain.never(WEB.name)
    assert (journal.pending_announcements(), journal.last_event()) == ([], 0)


def test_what_was_written_is_there_after_a_restart(path: Path, clock: HandClock) -> None:
    """Drain, snapshot and announcement come back as they were."""
    journal = Journal(path, clock)
    drain = replace(a_drain(phase=Phase.DRAINED), outcome=Outcome.DRAINED, reason="deploy 7")
    journal.keep_snapshot(WEB.name, "consul", {"ID": "web-1", "Tags": ["a"]})
    journal.write(a_decision(drain, Announcement.DRAINED))
    [pending] = journal.pending_announcements()
    journal = reopened(journal, clock)
    assert journal.current(WEB.name) == drain
    assert journal.snapshot(WEB.name, "consul") == {"ID": "web-1", "Tags": ["a"]}
    assert journal.pending_announcements() == [pending]
    journal.close()


def test_after_a_reboot_the_deadline_is_carried_over(path: Path, clock: HandClock) -> None:
    """The clock begins anew with each boot: what is left of the deadline goes by the date."""
    journal = Journal(path, clock)
    journal.write(a_decision(a_drain()))  # 120 s are left
    clock.boot, clock.time = "next boot", 5.0
    clock.date += 100.0 + 30.0 - 5.0  # half a minute has passed
    journal = reopened(journal, clock)
    drain = journal.current(WEB.name)
    assert drain.since == 5.0
    assert drain.deadline == pytest.approx(95.0)
    journal.close()


def test_a_date_set_back_over_a_reboot_makes_no_drain_longer(path: Path, clock: HandClock) -> None:
    """What is left of a deadline is never more than what was asked for."""
    journal = Journal(path, clock)
    journal.write(a_decision(replace(a_drain(), limit=130.0)))
    clock.boot, clock.time = "next boot", 5.0
    clock.date -= 86_400.0
    journal = reopened(journal, clock)
    assert journal.current(WEB.name).deadline == pytest.approx(135.0)
    journal.close()


OWNER = """
import sys, time
from pathlib import Path
from deregister_agent.host.clock import SystemClock
from deregister_agent.journal.journal import Journal
journal = Journal(Path(sys.argv[1]), SystemClock())
print("owned", flush=True)
time.sleep(600)
"""


def test_a_second_owner_is_refused_and_told_who_the_first_is(path: Path, journal: Journal) -> None:
    """Two agents on one journal would act against each other."""
    del journal
    second = subprocess.run(
        [sys.executable, "-c", OWNER, str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert second.returncode != 0
    assert f"in use by another agent, process {os.getpid()}" in second.stderr


def test_it_can_be_owned_again_after_it_was_closed(path: Path, clock: HandClock) -> None:
    """Whoever closes it lets go of the lock."""
    Journal(path, clock).close()
    Journal(path, clock).close()


def test_it_can_be_owned_again_after_its_owner_was_killed(path: Path, clock: HandClock) -> None:
    """The lock goes with the process that had it."""
    command = [sys.executable, "-c", OWNER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline() == "owned\n"
            with pytest.raises(JournalError, match=f"process {owner.pid}"):
                Journal(path, clock)
        finally:
            owner.kill()
    Journal(path, clock).close()


def test_a_file_that_is_no_journal_is_refused(path: Path, clock: HandClock) -> None:
    """And left as it is; the message names it."""
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(JournalError, match=f"cannot open the journal {path}"):
        Journal(path, clock)
    assert path.read_bytes() == b"not a database" * 1000
    path.unlink()
    Journal(path, clock).close()  # the refused one has let go of the lock


def test_a_damaged_journal_is_refused(path: Path, clock: HandClock) -> None:
    """What was known of instances that are out cannot be trusted any more."""
    journal = Journal(path, clock)
    for number in range(50):
        journal.write(a_decision(a_drain(number)))
    journal.close()
    pages = bytearray(path.read_bytes())
    pages[4096 * 2 : 4096 * 6] = b"\xa5" * 4096 * 4
    path.write_bytes(pages)
    with pytest.raises(JournalError, match=r"damaged|malformed"):
        Journal(path, clock)


def test_a_journal_of_a_later_version_is_refused(path: Path, clock: HandClock) -> None:
    """The message says which formats meet."""
    Journal(path, clock).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(JournalError, match=f"format {SCHEMA_VERSION + 1} and .* {SCHEMA_VERSION};"):
        Journal(path, clock)


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path, clock: HandClock) -> None:
    """A sentence, not a stack."""
    with pytest.raises(JournalError, match=r"is not there: make it, or set agent\.journal"):
        Journal(tmp_path / "missing" / "journal.db", clock)


def test_with_a_full_disk_nothing_half_is_written(journal: Journal) -> None:
    """A decision is written as a whole or not at all, and the journal works again after that."""
    journal.write(a_decision(a_drain()))
    pages = journal._file._db.execute("PRAGMA page_count").fetchone()[0]
    journal._file._db.execute(f"PRAGMA max_page_count = {pages}")
    large = replace(a_drain(2), reason="x" * 100_000)
    with pytest.raises(JournalError, match=r"cannot write the journal .* full"):
        journal.write(a_decision(large, Announcement.DRAINED))
    assert (journal.current(WEB.name).id, journal.pending_announcements()) == ("d1", [])
    journal._file._db.execute("PRAGMA max_page_count = 1000000")
    journal.write(a_decision(large))
    assert journal.current(WEB.name) == large


def test_a_real_limit_on_the_file_is_a_journal_error(path: Path) -> None:
    """The system refuses to let the file grow: the agent says so, and lives."""
    code = """
import resource, signal, sys
from pathlib import Path
from deregister_agent.host.clock import SystemClock
from deregister_agent.errors import JournalError
from deregister_agent.journal.journal import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Path(sys.argv[1]), SystemClock())
resource.setrlimit(resource.RLIMIT_FSIZE, (131072, 131072))
try:
    for number in range(2000):
        journal.keep_snapshot("web-1", str(number), {"x": "y" * 1000})
except JournalError as e:
    print("refused:", e)
print("kept:", journal.snapshot("web-1", "0") is not None)
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 131072
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    refused, kept = done.stdout.splitlines()
    assert refused.startswith(f"refused: cannot write the journal {path}: ")
    assert kept == "kept: True"


def test_a_drain_keeps_when_it_ended_first(journal: Journal, clock: HandClock) -> None:
    """Its outcome is settled once; what follows does not move its end."""
    drain = replace(a_drain(phase=Phase.DRAINED), outcome=Outcome.DRAINED)
    journal.write(a_decision(drain))
    [first] = journal.drains(WEB.name, 10)
    clock.time += 60.0
    journal.write(a_decision(replace(drain, phase=Phase.GONE)))
    [second] = journal.drains(WEB.name, 10)
    assert (second.ended, second.drain.phase) == (first.ended, Phase.GONE)


def test_history_is_newest_first_and_has_its_timeline(journal: Journal) -> None:
    """Each drain by its own id, each with its own events."""
    journal.write(a_decision(a_drain(1)))
    journal.write(a_decision(a_drain(2)))
    journal.write(a_decision(a_drain(2, Phase.SETTLING)))
    assert [one.drain.id for one in journal.drains(WEB.name, 10)] == ["d2", "d1"]
    assert [one.drain.id for one in journal.drains(WEB.name, 1)] == ["d2"]
    shown = journal.drain(WEB.name, "d2")
    assert shown is not None
    assert shown[0].drain == a_drain(2, Phase.SETTLING)
    assert [event.kind for event in shown[1]] == ["withdrawing", "settling"]
    assert (journal.drain(WEB.name, "d9"), journal.drain("other", "d2")) == (None, None)
    assert [event.id for event in journal.events_after(1, 10)] == [2, 3]


def test_old_drains_are_forgotten(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal does not grow for ever; another instance's history is left alone."""
    monkeypatch.setattr("deregister_agent.journal.journal.KEPT_DRAINS", 3)
    other = replace(WEB, name="other")
    journal.write(replace(a_decision(replace(a_drain(99), instance="other")), instance=other))
    for number in range(6):
        journal.write(a_decision(a_drain(number)))
    assert [one.drain.id for one in journal.drains(WEB.name, 10)] == ["d5", "d4", "d3"]
    assert [one.drain.id for one in journal.drains("other", 10)] == ["d99"]
    assert {event.drain for event in journal.events_after(0, 100)} == {"d99", "d3", "d4", "d5"}
    assert KEPT_DRAINS > 3


def test_an_announcement_is_pending_until_delivered_or_overtaken(journal: Journal) -> None:
    """And each has an id of its own decision."""
    journal.write(a_decision(a_drain(phase=Phase.DRAINED), Announcement.DRAINED))
    journal.write(a_decision(a_drain(), Announcement.TAKEN_BACK))
    journal.write(a_decision(a_drain(phase=Phase.DRAINED), Announcement.DRAINED))
    first, second, third = journal.pending_announcements()
    assert len({first.event.id, second.event.id, third.event.id}) == 3
    journal.not_delivered(first, "connection refused")
    again = journal.pending_announcements()[0]
    assert (again.attempts, again.error) == (1, "connection refused")
    journal.delivered(first)
    assert (journal.still_holds(first), journal.still_holds(third)) == (False, True)
    over = replace(a_decision(a_drain()), overtaken=frozenset({Announcement.DRAINED}))
    journal.write(over)
    assert journal.pending_announcements() == [second]


def test_snapshots_last_until_the_instance_serves_again(journal: Journal) -> None:
    """A later one takes the place of an earlier one; then it is the last good registration."""
    journal.keep_snapshot(WEB.name, "consul", {"weight": 1})
    journal.keep_snapshot(WEB.name, "consul", {"weight": 2})
    journal.keep_snapshot("other", "consul", {"weight": 3})
    journal.keep_snapshot(WEB.name, "etcd", {"weight": 4})
    journal.write(a_decision(a_drain(phase=Phase.DRAINED)))
    assert journal.snapshot(WEB.name, "consul") == {"weight": 2}
    serving = a_decision(a_drain(phase=Phase.SERVING))
    journal.write(replace(serving, shown={"consul": Registration("here", "", A_PROCESS)}))
    assert journal.snapshot(WEB.name, "consul") is journal.snapshot(WEB.name, "etcd") is None
    kept = journal.registration(WEB.name, "consul")
    assert kept is not None
    assert (kept.identity, kept.process, kept.snapshot) == ("here", A_PROCESS, {"weight": 2})
    assert journal.registration(WEB.name, "etcd") is None
    assert journal.snapshot("other", "consul") == {"weight": 3}


def test_what_others_had_out_is_no_good_registration(journal: Journal) -> None:
    """The snapshot of a drain that began with another's mark is not what is put back later."""
    good: Snapshot = {"down": [False]}
    journal.keep_registration(WEB.name, "nginx", Registration("here", "", A_PROCESS, good))
    journal.keep_snapshot(WEB.name, "nginx", {"down": [True]})
    serving = a_decision(a_drain(phase=Phase.SERVING))
    journal.write(replace(serving, shown={"nginx": Registration("here", "down", A_PROCESS)}))
    kept = journal.registration(WEB.name, "nginx")
    assert kept is not None
    assert (kept.out_by, kept.snapshot) == ("down", good)


def test_what_was_seen_counts_until_it_is_forgotten(journal: Journal) -> None:
    """The last good registration outlives its worth as proof, under the same options only."""
    good: Snapshot = {"weight": 1}
    journal.keep_registration(WEB.name, "consul", Registration("here", "", A_PROCESS, good))
    journal.keep_registration(WEB.name, "consul", Registration("here", "down", A_PROCESS))
    kept = journal.registration(WEB.name, "consul")
    assert kept is not None
    assert (kept.out_by, kept.snapshot) == ("down", good)
    journal.forget_registrations(WEB.name)
    forgotten = journal.registration(WEB.name, "consul")
    assert forgotten is not None
    assert (forgotten.identity, forgotten.snapshot) == ("", good)
    journal.keep_registration(WEB.name, "consul", Registration("here", "", None))
    journal.keep_registration(WEB.name, "consul", Registration("elsewhere", "", None))
    moved = journal.registration(WEB.name, "consul")
    assert moved is not None
    assert (moved.identity, moved.snapshot) == ("elsewhere", None)


def test_only_its_owner_can_read_it(journal: Journal) -> None:
    """Snapshots hold what registries hold: the files are not for every user of the host."""
    journal.write(a_decision(a_drain()))
    modes = {each.name: each.stat().st_mode & 0o777 for each in journal.path.parent.iterdir()}
    names = [f"journal.db{end}" for end in ("", "-shm", "-wal", ".generation", ".lock")]
    assert modes == dict.fromkeys(names, 0o600)


def test_a_full_disk_at_the_start_is_a_sentence(
    path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when there is not even room for the number of the process; the lock is let go."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(JournalError, match=r"cannot lock the journal .* No space left"):
            Journal(path, clock)
    Journal(path, clock).close()


@pytest.mark.parametrize(
    "text", ["not JSON", "[]", "{}", '{"phase": "dancing"}', '{"phase": "serving", "new": 1}']
)
def test_a_record_of_another_version_is_a_sentence(journal: Journal, text: str) -> None:
    """What this program cannot read is named, with what to do; it is no crash."""
    journal.write(a_decision(a_drain(), Announcement.DRAINED))
    journal._file._db.execute("UPDATE drains SET record = ?", (text,))
    journal._file._db.execute("UPDATE outbox SET event = ?", (text,))
    with pytest.raises(JournalError, match="holds a drain that this program cannot read"):
        journal.current(WEB.name)
    with pytest.raises(JournalError, match="holds an announcement that this program cannot read"):
        journal.pending_announcements()
