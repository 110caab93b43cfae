"""A loop on a journal that was set back: what it says is seen, and it withdraws once at most."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from deregister_agent.drain import is_safe_to_kill
from deregister_agent.errors import CannotRestore, NeverSeen
from deregister_agent.journal.journal import Decision, Journal
from deregister_agent.model import Outcome, Phase, Policy
from tests.unit.loop_bench import WEB, Bench, Check, ListRegistry

POLICY = Policy(quiet=1.0, settle=0.5, min_others=0)


class Died(BaseException):
    """The agent dies here."""


class Host:
    """An agent, and a copy of its journal that can be put in the place of it."""

    def __init__(self, folder: Path, ready: list[Check] | None = None) -> None:
        self._copy = folder / "copy.db"
        self.bench = Bench(folder, POLICY, [ListRegistry("one")], ready or [])
        [self.registry] = self.bench.registries
        self.bench.go_on(1.0)

    def copy(self) -> None:
        """Copy the journal as it is on disk."""
        with (
            closing(sqlite3.connect(self.bench.journal.path)) as now,
            closing(sqlite3.connect(self._copy)) as kept,
        ):
            now.backup(kept)

    def set_back(self) -> None:
        """Put the copy in the place of the journal while the agent is stopped."""
        bench = self.bench
        bench.journal.close()
        shutil.copyfile(self._copy, bench.journal.path)
        bench.journal = Journal(bench.journal.path, bench.clock)
        bench.new_life()
        self.registry.did.clear()

    @property
    def is_drained(self) -> bool:
        """Whether the agent stands by "drained" now."""
        drain = self.bench.loop.drain
        return is_safe_to_kill(drain.phase, drain.outcome) and self.bench.loop.stands_by("drained")

    def notes(self) -> str:
        """Return what a person is told."""
        return " ".join(self.bench.loop.status().notes)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Make a host whose instance is in service."""
    made = Host(tmp_path)
    yield made
    made.bench.journal.close()


def drained(host: Host) -> None:
    """Drain the instance."""
    host.bench.stop()
    host.bench.until(Phase.DRAINED)


def served(host: Host) -> None:
    """Put it back."""
    host.bench.start()
    host.bench.until(Phase.SERVING)


def test_drained_set_back_over_serving_is_left_in_service(host: Host) -> None:
    """Nothing is withdrawn, and a person is told until somebody asks for something."""
    drained(host)
    host.copy()
    served(host)
    host.set_back()
    assert not host.is_drained
    host.bench.go_on(60.0)
    assert (host.bench.phase, host.registry.listed, host.registry.did) == (
        Phase.SERVING,
        True,
        [],
    )
    assert "is an older copy" in host.notes()
    host.bench.start()
    assert (host.bench.phase, host.notes(), host.registry.did) == (Phase.SERVING, "", [])
    host.bench.new_life()
    assert (host.bench.phase, host.notes()) == (Phase.SERVING, "")
    drained(host)
    assert (host.is_drained, host.registry.did) == (True, ["withdraw"])


def test_a_stale_snapshot_gives_way_to_what_is_seen(host: Host) -> None:
    """What is lost later comes back as it was last, and not as an older journal had it."""
    drained(host)
    host.copy()
    served(host)
    host.set_back()
    assert host.bench.journal.snapshot(WEB.name, "one") is not None
    host.bench.go_on(1.0)
    assert host.bench.journal.snapshot(WEB.name, "one") is None
    assert "is an older copy" in host.notes()


def test_a_stale_snapshot_stays_until_the_registration_could_be_read(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the last good one, read later, is the same as before."""
    drained(host)
    host.copy()
    served(host)
    host.set_back()
    with monkeypatch.context() as patched:
        patched.setattr(host.registry, "snapshot", lambda: None)
        host.bench.go_on(1.0)
        assert host.bench.journal.snapshot(WEB.name, "one") is not None
    host.bench.go_on(60.0)
    assert host.bench.journal.snapshot(WEB.name, "one") is None


def test_what_is_out_is_put_back_when_somebody_says_so(host: Host) -> None:
    """A copy of "serving" over "drained": never said to serve, and nothing drained by old words."""
    host.copy()
    drained(host)
    host.set_back()
    host.bench.go_on(3.0)
    assert (host.bench.phase, host.registry.did, host.is_drained) == (Phase.SERVING, [], False)
    assert host.bench.loop.is_served(0.0) is None
    assert any("one does not list it" in line for line in host.bench.loop.status().blocking)
    with pytest.raises(NeverSeen):
        host.bench.stop()
    with pytest.raises(CannotRestore):
        host.bench.start()
    assert "is an older copy" in host.notes()
    host.bench.start(anyway=True)
    host.bench.until(Phase.SERVING)
    assert host.registry.did == ["restore {'weight': 5}"]
    assert (host.bench.loop.drain.outcome, host.notes()) == (Outcome.RESTORED, "")


def test_a_snapshot_of_an_older_copy_is_put_back_by_a_readiness_check(tmp_path: Path) -> None:
    """A copy of one "drained" over another: the same, and a death on the way changes nothing."""
    check = Check()
    host = Host(tmp_path, [check])
    drained(host)
    host.copy()
    check.ready = True
    served(host)
    drained(host)
    host.set_back()
    host.bench.go_on(3.0)
    assert (host.bench.phase, host.registry.listed) == (Phase.SERVING, False)
    host.bench.start()
    assert host.bench.phase is Phase.RESTORING
    host.bench.new_life()
    host.bench.until(Phase.SERVING)
    assert (host.registry.listed, host.registry.did) == (True, ["restore {'weight': 5}"])
    host.bench.journal.close()


@pytest.mark.parametrize(
    ("mark", "phase", "did"),
    [
        ("", Phase.RESTORING, ["restore {'weight': 5}"]),
        ("maintenance by somebody", Phase.SERVING, []),
    ],
)
def test_what_its_registry_holds_out_is_put_back(
    host: Host, mark: str, phase: Phase, did: list[str]
) -> None:
    """Unless somebody's mark is on it: the agent of the time after the copy may have done it."""
    host.copy()
    drained(host)
    host.registry.listed, host.registry.out, host.registry.out_by = True, True, mark
    host.set_back()
    host.bench.go_on(3.0)
    host.bench.start(anyway=True)
    assert host.bench.phase is phase
    host.bench.go_on(0.1)
    assert host.registry.did[:1] == did


class Copied:
    """Copies the journal before decision *last*, and dies before the one after it is written."""

    def __init__(self, host: Host, last: int) -> None:
        self._host, self._last, self.made = host, last, 0
        self._write = host.bench.journal.write
        host.bench.journal.write = self.write  # type: ignore[method-assign]

    def write(self, decision: Decision) -> int:
        """Write it down, unless it comes too late."""
        if self.made == self._last:
            raise Died
        self.made += 1
        if self.made == self._last:
            self._host.copy()
        return self._write(decision)


def whole_life(host: Host) -> None:
    """Drain, take "drained" back for work, drain again, and put the instance back."""
    drained(host)
    host.bench.page.in_flight = 1
    host.bench.until(Phase.DRAINING)
    host.bench.page.in_flight = 0
    host.bench.until(Phase.DRAINED)
    served(host)


DECISIONS = ["withdrawing", "settling", "draining", "drained", "draining", "drained"]
DECISIONS += ["restoring", "serving"]


def test_these_are_the_decisions_of_a_whole_life(host: Host) -> None:
    """So that each of them is lost once, below."""
    whole_life(host)
    assert [one.kind for one in host.bench.written] == DECISIONS


@pytest.mark.parametrize("last", range(1, len(DECISIONS) + 1))
def test_a_copy_older_by_one_decision_costs_one_withdrawal_at_most(host: Host, last: int) -> None:
    """It goes unnoticed, and "drained" and "serving" are only said of what is seen."""
    copied = Copied(host, last)
    try:
        whole_life(host)
    except Died:
        assert copied.made == last
    host.set_back()
    assert host.notes() == ""
    bench, asked = host.bench, host.bench.clock.time
    while bench.clock.time < asked + 20.0:
        bench.step(1.0)
        if host.is_drained:
            assert (host.registry.listed, bench.page.in_flight) == (False, 0)
        if bench.phase is Phase.SERVING and bench.loop.is_served(asked):
            assert host.registry.listed
        if bench.clock.time > asked + 10.0:
            bench.page.in_flight = 0
    assert host.registry.did.count("withdraw") <= 1


def test_drained_over_a_restore_that_was_done_is_withdrawn_again(host: Host) -> None:
    """The one withdrawal: the same process is listed, and the journal says that it was drained."""
    Copied(host, DECISIONS.index("restoring") + 1)
    with pytest.raises(Died):
        whole_life(host)
    assert host.registry.listed
    host.set_back()
    assert (host.bench.phase, host.is_drained) == (Phase.DRAINED, False)
    host.bench.until(Phase.WITHDRAWING)
    assert not host.is_drained
    host.bench.until(Phase.DRAINED)
    assert (host.is_drained, host.registry.listed) == (True, False)
    assert host.registry.did == ["withdraw"]
    served(host)
