"""A journal that is set back to an older copy: noticed, said, and not believed."""

import errno
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deregister_agent.errors import JournalError
from deregister_agent.journal.generation import Generation
from deregister_agent.journal.journal import Journal
from deregister_agent.journal.registrations import Registration
from deregister_agent.model import Announcement, Drain, Outcome, Phase
from tests.unit.journal_host import Host
from tests.unit.loop_bench import WEB
from tests.unit.test_journal import A_PROCESS, a_decision, a_drain

NEVER, NOBODY = Drain.never(WEB.name), Drain.never("other")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Make a host with a new journal."""
    made = Host(tmp_path)
    yield made
    made.stop()


def test_the_number_is_that_of_the_decisions(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """One more for each, and nothing is said of it at a start."""
    assert host.number() == 0
    host.write(a_drain(1), a_drain(2))
    journal = host.again()
    host.write(a_drain(2, Phase.SETTLING))
    assert (host.number(), journal.set_back(WEB.name)) == (3, "")
    assert caplog.messages == []


def test_an_older_copy_is_not_believed(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, and shown until somebody has seen to the instance."""
    host.write(a_drain(1, Phase.DRAINING))
    copied = host.copy()
    host.write(a_drain(1, Phase.DRAINED), a_drain(1, Phase.RESTORING), a_drain(1, Phase.SERVING))
    with caplog.at_level(logging.ERROR):
        journal = host.set_back(copied)
    [said] = caplog.messages
    assert f"the journal {host.path} is an older copy: it ends with decision 1, and 4 were" in said
    for _ in range(2):
        assert [journal.current(name) for name in (WEB.name, "other")] == [NEVER, NOBODY]
        assert journal.set_back(WEB.name) == journal.set_back("other") == said
        journal = host.again()
    assert (len(caplog.messages), host.number()) == (1, 4)
    host.write(a_drain(2))
    journal = host.again()
    assert (journal.current(WEB.name), journal.set_back(WEB.name)) == (a_drain(2), "")
    assert journal.set_back("other") == said


def test_start_traffic_that_finds_nothing_lost_ends_what_is_said(host: Host) -> None:
    """But the old drain is no more believed for that."""
    host.write(a_drain(1))
    copied = host.copy()
    host.write(a_drain(1, Phase.RESTORING), a_drain(1, Phase.SERVING))
    host.set_back(copied).found_in_place(WEB.name)
    journal = host.again()
    assert (journal.set_back(WEB.name), journal.current(WEB.name)) == ("", NEVER)


def test_what_was_seen_is_no_proof_and_what_was_kept_stays(host: Host) -> None:
    """Snapshot and last good registration can be put back; no word goes out."""
    shown = Registration("here", "", A_PROCESS, {"weight": 4})
    host.journal.keep_registration(WEB.name, "consul", shown)
    host.journal.keep_snapshot(WEB.name, "consul", {"weight": 5})
    drained = replace(a_drain(1, Phase.DRAINED), outcome=Outcome.DRAINED)
    host.journal.write(a_decision(drained, Announcement.DRAINED))
    copied = host.copy()
    host.write(a_drain(1, Phase.RESTORING), a_drain(1, Phase.SERVING))
    journal = host.set_back(copied)
    kept = journal.registration(WEB.name, "consul")
    assert kept is not None
    assert (kept.identity, kept.snapshot) == ("", {"weight": 4})
    assert journal.snapshot(WEB.name, "consul") == {"weight": 5}
    assert journal.pending_announcements() == []
    journal.keep_registration(WEB.name, "consul", Registration("here", "", None, {"weight": 6}))
    assert journal.snapshot(WEB.name, "consul") is None  # a newer one has been seen


@pytest.mark.parametrize("decisions", [1, 2])
def test_a_new_journal_in_the_place_of_one_is_older(host: Host, decisions: int) -> None:
    """Also after a single decision: nothing is known of what is out."""
    host.write(*[a_drain(number) for number in range(decisions)])
    said = host.set_back(None).set_back(WEB.name)
    assert "is new or from an earlier version" in said
    assert f"{decisions} decisions were made before it" in said
    host.write(a_drain(5))
    assert (host.again().current(WEB.name), host.number()) == (a_drain(5), decisions + 1)


def test_a_new_journal_where_nothing_was_decided_is_new(host: Host) -> None:
    """And nothing is said."""
    assert host.set_back(None).set_back(WEB.name) == ""


def test_a_copy_older_by_one_decision_goes_unnoticed(host: Host) -> None:
    """A crash between file and journal leaves the same behind."""
    host.write(a_drain(1))
    copied = host.copy()
    host.write(a_drain(1, Phase.SETTLING))
    journal = host.set_back(copied)
    assert (journal.current(WEB.name), journal.set_back(WEB.name)) == (a_drain(1), "")
    host.write(a_drain(1, Phase.SETTLING))
    assert (host.number(), host.again().set_back(WEB.name)) == (2, "")


def test_without_a_file_one_is_made(host: Host) -> None:
    """A journal of an earlier version is taken up as it is."""
    host.write(a_drain(1), a_drain(2))
    host.file.unlink()
    journal = host.again()
    assert (journal.current(WEB.name), journal.set_back(WEB.name)) == (a_drain(2), "")
    assert (host.number(), host.file.stat().st_mode & 0o777) == (2, 0o600)


def _garbage(file: Path) -> None:
    file.write_bytes(b"\0" * 8192)


def _a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:10])


@pytest.mark.parametrize("spoil", [_garbage, _half, _a_folder])
def test_a_file_that_cannot_be_read_is_said(host: Host, spoil: Callable[[Path], None]) -> None:
    """The agent starts, and believes nothing; once the file can be made, all goes on."""
    host.write(a_drain(1))
    host.stop()
    spoil(host.file)
    journal = host.again()
    assert f"{host.file} cannot be read" in journal.set_back(WEB.name)
    assert journal.current(WEB.name) == NEVER
    if host.file.is_dir():
        with pytest.raises(JournalError, match=f"cannot write .* '{host.file}'"):
            host.write(a_drain(2))
        assert journal.current(WEB.name) == NEVER
        host.file.rmdir()
    host.write(a_drain(2))
    assert (host.again().current(WEB.name), host.number()) == (a_drain(2), 2)


def test_a_file_that_was_set_back_alone_is_said(host: Host) -> None:
    """Of the two it is not known which is older: nothing is believed, and both go on."""
    kept = host.file.read_bytes()
    host.write(a_drain(1), a_drain(2))
    host.stop()
    host.file.write_bytes(kept)
    assert "one of them was set back" in host.again().set_back(WEB.name)
    assert host.number() == 2


def test_a_torn_write_leaves_the_number_of_before(host: Host) -> None:
    """The power fails in the middle of the number: the decision was not made."""
    host.write(a_drain(1))
    copied = host.copy()
    host.write(a_drain(2))
    host.stop()
    written = bytearray(host.file.read_bytes())
    at = written.index(b"%020d" % 2)
    written[at + 19 : at + 40] = b"3" * 21
    host.file.write_bytes(written)
    assert (host.number(), host.set_back(copied).set_back(WEB.name)) == (1, "")
    host.write(a_drain(3))
    assert (host.number(), host.again().current(WEB.name)) == (2, a_drain(3))


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_what_cannot_be_counted_is_not_decided(
    host: Host, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number comes first: without it nothing is written, and later all goes on."""
    host.write(a_drain(1))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(JournalError, match=r"cannot write the journal .* No space left"):
            host.write(a_drain(2))
    assert (host.journal.current(WEB.name), host.journal.last_event()) == (a_drain(1), 1)
    host.write(a_drain(3))
    assert (host.again().current(WEB.name), host.number()) == (a_drain(3), 2)


def test_the_file_is_synced_before_the_journal(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment of the sync the decision is not in the journal yet."""
    seen: list[tuple[int | None, int]] = []
    sync = os.fdatasync

    def look(descriptor: int) -> None:
        sync(descriptor)
        shutil.copyfile(host.path, host.path.with_name("then.db"))
        shutil.copyfile(f"{host.path}-wal", host.path.with_name("then.db-wal"))
        then = Journal(host.path.with_name("then.db"), host.clock)
        seen.append((host.number(), then.last_event()))
        then.close()

    monkeypatch.setattr(os, "fdatasync", look)
    host.write(a_drain(1))
    assert seen == [(1, 0)]


def test_a_crash_while_it_is_said_does_not_make_it_forget(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is told first: the next start finds it there, or finds the same again."""
    host.write(a_drain(1))
    host.stop()
    _garbage(host.file)

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Generation, "make", dies)
        with pytest.raises(KeyboardInterrupt):
            Journal(host.path, host.clock)
    journal = host.again()
    assert (journal.current(WEB.name), host.number()) == (NEVER, 1)
    assert "cannot be read" in journal.set_back(WEB.name)


LIMITED = """
import resource, signal, sys
from pathlib import Path
from deregister_agent.errors import JournalError
from deregister_agent.host.clock import SystemClock
from deregister_agent.journal.journal import Journal
from deregister_agent.model import Phase
from tests.unit.loop_bench import WEB
from tests.unit.test_journal import a_decision, a_drain
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Path(sys.argv[1]), SystemClock())
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    journal.write(a_decision(a_drain(1)))
except JournalError as e:
    print("refused:", e)
print(journal.current(WEB.name).phase, journal.last_event())
"""


def test_a_real_limit_on_the_file_is_a_journal_error(host: Host) -> None:
    """The system refuses the write of the number: nothing is decided, and the agent lives."""
    host.stop()
    command = [sys.executable, "-c", LIMITED, str(host.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    refused, left = done.stdout.splitlines()
    assert refused.startswith(f"refused: cannot write the journal {host.path}: ")
    assert refused.endswith(f"File too large: '{host.file}'")
    assert left == "serving 0"
