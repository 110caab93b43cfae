"""What doctor makes of the answers of backends, and that it asks them all and tells nobody."""

import json
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from deregister_agent.cli.doctor import described
from deregister_agent.engine import doctor as examining
from deregister_agent.engine.calls import Threads
from deregister_agent.engine.doctor import Doctor
from deregister_agent.engine.examination import RegistryRules, of_connections, of_registry
from deregister_agent.engine.knowledge import InstanceSetup
from deregister_agent.engine.probe_examination import own_starts
from deregister_agent.errors import AgentError, JournalError, ProbeError
from deregister_agent.host.clock import SystemClock
from deregister_agent.journal.file import JournalFile
from deregister_agent.journal.glance import last_phases
from deregister_agent.journal.journal import Decision, Journal
from deregister_agent.model import (
    Drain,
    Event,
    Instance,
    Listing,
    Look,
    Peer,
    Phase,
    Policy,
    Presence,
    Process,
    Reading,
    Straggler,
)
from deregister_agent.ports import Notifier, Registry
from deregister_agent.status import DoctorReport, Finding, FindingKind, plain, read
from tests.fakes import Directory, FakeNotifier, FakeProbe, FakeRegistry

ORDERS = Instance("orders-1", "orders", "127.0.0.1", 8080)
CLOCK = SystemClock()


class Shown(FakeRegistry):
    """A registry that shows what the test says, and names what looks like the instance."""

    def __init__(self, listing: Listing, others: int | None = 2, *, mark: str = "") -> None:
        super().__init__(Directory(), ORDERS.name)
        self.seen, self.count = Look(listing, (), mark), others
        self.unknown = ""

    def look(self) -> Look:
        self._call("look")
        return self.seen

    def others(self) -> int | None:
        if self.unknown:
            raise AgentError(self.unknown)
        return self.count

    def look_alikes(self) -> Sequence[str]:
        return ["orders-10 at 127.0.0.1:8080; set service_id"]


class Finder:
    """Sees the process that the test says."""

    def __init__(self, *pids: int, nobody: bool = False) -> None:
        self.running = None if nobody else Process("boot-1", tuple((pid, 1) for pid in pids))
        self.nobody = nobody
        self.marks: list[str] = []

    def look(self, was: Process | None) -> Presence:
        note = "nothing listens on port 8080" if self.nobody else ""
        return Presence(was is not None, self.running, note)

    def wait_exit(self, was: Process, timeout: float) -> None:
        raise AssertionError

    def heard(self, mark: str) -> None:
        self.marks.append(mark)


class Counted(FakeProbe):
    """A probe of an app whose counter moves by these amounts, again and again."""

    def __init__(self, *moves: int) -> None:
        super().__init__()
        self.moves, self.started, self.reads = moves, 0, 0

    def read(self, wait: float) -> Reading:
        self.started = (self.started or 0) + self.moves[self.reads % len(self.moves)]
        self.reads += 1
        return super().read(wait)


def setup(*registries: Registry, **more: object) -> InstanceSetup:
    made = InstanceSetup(ORDERS, Policy(), registries, [FakeProbe()], Finder(17))
    return replace(made, **more)  # type: ignore[arg-type]


def examine(
    made: InstanceSetup,
    *notifiers: Notifier,
    phase: Phase = Phase.SERVING,
    trouble: AgentError | None = None,
    alone: bool = False,
) -> DoctorReport:
    named = {one.name: one for one in notifiers}
    return Doctor(made, named, Threads().submit, CLOCK, alone=alone).examine(phase, trouble)


def of(report: DoctorReport, kind: str) -> Finding:
    (found,) = [one for one in report.findings if one.kind == kind]
    return found


@pytest.mark.parametrize(
    ("phase", "ok"), [(Phase.SERVING, False), (Phase.DRAINED, False), (Phase.GONE, None)]
)
def test_what_else_sends_it_work_is_named(phase: Phase, ok: bool | None) -> None:
    """A drain would be refused for it, as doctor can tell beforehand."""
    registry = Shown(Listing.LISTED)
    registry.other_registrations = lambda: ["ID 'orders-metrics'"]  # type: ignore[method-assign]
    also = examine(setup(registry), phase=phase).findings[2]
    assert (also.ok, also.said) == (ok, "what else sends it work: ID 'orders-metrics'")
    assert "would be refused" in also.remedy


def test_what_is_as_it_should_be_would_be_proved() -> None:
    """Listed, readable, enough others and a process in sight: nothing speaks against a drain."""
    registry, notifier = Shown(Listing.LISTED), FakeNotifier()
    report = examine(setup(registry), notifier)
    assert report.would_prove
    assert of(report, "registry").ok
    assert "2 other" in of(report, "registry").said
    assert of(report, "process").said == "pid 17"
    assert of(report, "ready").ok is None
    assert (of(report, "notifier").ok, notifier.told) == (None, {})
    assert registry.calls == ["look"]
    assert read(DoctorReport, json.loads(json.dumps(report, default=plain))) == report


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("listing", Listing)
def test_a_look_is_judged_by_the_phase(listing: Listing, phase: Phase) -> None:
    """Absent is a mistake while serving; listed is one where the instance must be out."""
    report = examine(setup(Shown(listing)), phase=phase)
    out = {Phase.SETTLING, Phase.DRAINING, Phase.DRAINED, Phase.EXPIRED}
    wrong = (listing is Listing.ABSENT and phase is Phase.SERVING) or (
        listing is Listing.LISTED and phase in out
    )
    assert (of(report, "registry").ok is False) is wrong
    assert report.would_prove is not wrong
    assert phase in of(report, "agent").said


def test_an_absent_registry_is_told_with_what_looks_like_the_instance() -> None:
    """The sentence has the look-alike, the remedy names the registry."""
    found = of(examine(setup(Shown(Listing.ABSENT))), "registry")
    assert "does not show it" in found.said.replace("the instance", "it")
    assert "orders-10 at 127.0.0.1:8080; set service_id" in found.said
    assert 'absent = "withdrawn"' in found.remedy


def test_a_registry_that_need_not_show_it_is_only_mentioned() -> None:
    """By choice absent is neither right nor wrong."""
    made = setup(Shown(Listing.ABSENT), may_be_absent=frozenset({"memory"}))
    report = examine(made)
    assert (of(report, "registry").ok, report.would_prove) == (None, True)


def test_by_whom_it_is_out_is_said() -> None:
    """Recognised and out is presence: a drain can prove itself; the mark is for a person."""
    found = of(examine(setup(Shown(Listing.OUT, mark="maintenance by bob"))), "registry")
    assert found.ok is None
    assert "maintenance by bob" in found.said
    assert found.remedy


def test_stragglers_are_named() -> None:
    """Old routes are part of what a registry says."""
    registry = Shown(Listing.LISTED)
    registry.seen = Look(Listing.LISTED, (Straggler("worker 12"),))
    assert "worker 12" in of(examine(setup(registry)), "registry").said


@pytest.mark.parametrize(
    ("listing", "others", "phase", "refused"),
    [
        (Listing.LISTED, 0, Phase.SERVING, True),
        (Listing.LISTED, 1, Phase.SERVING, False),
        (Listing.LISTED, None, Phase.SERVING, False),
        (Listing.OUT, 0, Phase.SERVING, False),
        (Listing.LISTED, 0, Phase.RESTORING, True),
        (Listing.LISTED, 0, Phase.WITHDRAWING, False),
    ],
)
def test_the_guard_is_asked_as_stop_traffic_would(
    listing: Listing, others: int | None, phase: Phase, refused: bool
) -> None:
    """Too few others is a finding of its own, where stop-traffic would be refused for it."""
    rules = RegistryRules(ORDERS, phase, 1, may_be_absent=False)
    found = of_registry(Shown(listing, others), rules)
    assert [one.ok for one in found if "guard would refuse" in one.said] == [False] * refused


def test_others_that_cannot_be_counted_are_a_mistake() -> None:
    """The guard could not be asked, so a drain would not begin."""
    registry = Shown(Listing.LISTED)
    registry.unknown = "HTTP 500"
    report = examine(setup(registry))
    assert not report.would_prove
    assert "HTTP 500" in [one.said for one in report.findings if one.ok is False]


def test_an_error_is_a_finding_in_words() -> None:
    """A registry, probe or readiness check that does not know is named, with its own sentence."""
    registry = FakeRegistry(Directory(trouble="HTTP 403"), ORDERS.name)
    probe = FakeProbe()
    probe.trouble = "HTTP 404"
    report = examine(setup(registry, probes=[probe]), trouble=JournalError("disk full"))
    assert [one.kind for one in report.findings if one.ok is False] == [
        "agent",
        "registry",
        "probe",
    ]
    assert "HTTP 403" in of(report, "registry").said
    assert "HTTP 404" in of(report, "probe").said
    assert "disk full" in of(report, "agent").said
    text = "\n".join(described(report))
    assert "NOT fit" in text
    assert "BAD  probe" in text


def test_one_that_hangs_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is late is said to be late; the others were asked at the same time."""
    monkeypatch.setattr(examining, "LIMIT", 0.2)
    held = threading.Event()

    class Hung(Shown):
        name = "hung"

        def look(self) -> Look:
            held.wait()
            return super().look()

    hung = Hung(Listing.LISTED)
    hung.name = "hung"
    report = examine(setup(hung, Shown(Listing.LISTED)))
    held.set()
    said = {one.name: one for one in report.findings if one.kind == "registry"}
    assert said["hung"].ok is False
    assert "did not answer within" in said["hung"].said
    assert said["memory"].ok
    assert of(report, "process").ok


def test_a_bug_of_a_third_party_is_no_silence() -> None:
    """An exception that is no error of the contract is a finding, not a hang."""

    class Broken(Shown):
        def look(self) -> Look:
            raise ZeroDivisionError

    report = examine(setup(Broken(Listing.LISTED)))
    assert of(report, "registry").ok is False
    assert "ZeroDivisionError" in of(report, "registry").said


def test_a_registry_that_listens_is_not_started_by_a_look_alone() -> None:
    """Where no agent runs, nothing begins to answer others for a moment."""
    registry = Shown(Listing.LISTED)
    registry.listens = True
    report = examine(setup(registry), alone=True)
    assert (registry.calls, report.would_prove) == ([], False)
    assert examine(setup(registry)).would_prove


OWN = [
    ((0,), None),
    ((1,), 1),
    ((2,), 2),
    ((1, 1, 1, 2), 1),
    ((1, 0), None),
    ((3, 1, 4, 2, 6, 5), 0),
]


@pytest.mark.parametrize(("moves", "own"), OWN)
def test_whether_a_probe_counts_its_own_readings(moves: tuple[int, ...], own: int | None) -> None:
    """It is a mistake if the counter moves with each reading, and if it does not, none."""
    probe = Counted(*moves)
    report = examine(setup(Shown(Listing.LISTED), probes=[probe]))
    assert of(report, "probe").ok == {None: True, 0: None}.get(own, False)
    assert f"own_starts = {own}" in of(report, "probe").remedy or not own
    assert probe.reads <= 30


def test_work_of_others_is_told_from_own_readings() -> None:
    """One gap without a start is enough; no gap without one, and never the same, tells nothing."""

    def judged(*counts: int) -> int | None:
        return own_starts([Reading({}, count) for count in counts])

    assert judged(5) is None
    assert judged(5, 6, 7, 8) == 1
    assert judged(5, 6, 8, 8) is None
    assert judged(5, 6, 8, 11) == 0
    assert judged(5, 3) is None  # the app was started anew


def test_a_probe_without_a_counter_is_read_once_and_says_what_it_misses() -> None:
    """Work between two readings is not seen; the mark goes to the finder."""
    probe, finder = FakeProbe(), Finder()
    probe.mark, probe.started = "me", None
    report = examine(setup(Shown(Listing.LISTED), probes=[probe], finder=finder))
    assert "no counter" in of(report, "probe").said
    assert finder.marks == ["me"]


def test_nobody_there_is_a_mistake_where_no_probe_sees_the_app_either() -> None:
    """An app that was not started is named; one that is only not to be seen is a note."""
    blind = FakeProbe()
    blind.trouble = "connection refused"
    nobody = Finder(nobody=True)
    down = examine(setup(Shown(Listing.LISTED), probes=[blind], finder=nobody))
    assert of(down, "process").ok is False
    assert "nothing listens" in of(down, "process").said
    for phase in (Phase.DRAINED, Phase.GONE):
        gone = examine(setup(Shown(Listing.OUT), probes=[blind], finder=nobody), phase=phase)
        assert of(gone, "process").ok is None
    elsewhere = examine(setup(Shown(Listing.LISTED), finder=nobody))
    assert (of(elsewhere, "process").ok, elsewhere.would_prove) == (None, True)
    unseen = examine(setup(Shown(Listing.LISTED), finder=Finder()))
    assert (of(unseen, "process").ok, unseen.would_prove) == (None, True)


def test_a_failing_readiness_check_is_a_mistake_while_the_app_should_be_up() -> None:
    """It would not come back; in mid-drain an app may well have begun to refuse."""

    class Sick:
        name, passes, every = "http://127.0.0.1/healthz", 1, 0.5

        def ask(self) -> None:
            raise ProbeError(self.name, "call the app ready", "it answered 503")

    for phase in Phase:
        found = of(examine(setup(Shown(Listing.OUT), ready=[Sick()]), phase=phase), "ready")
        assert found.ok is (False if phase in {Phase.SERVING, Phase.RESTORING} else None)
        assert "503" in found.said


def test_a_notifier_of_the_contract_before_is_not_asked() -> None:
    """One that is no Notifier by inheritance has no examine, and is told nothing."""

    class Before:
        name, announces = "before", frozenset[str]()

        def announce(self, event: Event) -> None:
            raise AssertionError

    report = examine(setup(Shown(Listing.LISTED)), cast(Notifier, Before()))
    assert (of(report, "notifier").ok, report.would_prove) == (None, True)


def test_at_most_ten_peers_are_named() -> None:
    """Those with the most connections first, and how many more there are."""
    peers = [Peer(f"10.0.0.{number}", connections=number) for number in range(1, 14)]
    (found,) = of_connections("port 8080", lambda: peers)
    assert found.said.startswith("91 kept: 13 of 10.0.0.13, ")
    assert found.said.endswith("and those of 3 other peers")
    assert found.ok is None
    assert of_connections("port 8080", list)[0].said == "none is kept"


def _written(journal: Journal, phase: Phase) -> None:
    drain = Drain(id="d1", instance=ORDERS.name, phase=phase, since=0.0, deadline=1.0)
    journal.write(Decision(drain=drain, instance=ORDERS, kind=phase, detail={}))


def test_a_journal_is_glanced_at_and_not_touched(tmp_path: Path) -> None:
    """The newest phase is found, also of a journal that is in use; no file comes or changes."""
    path = tmp_path / "journal.db"
    assert last_phases(path) == {}
    journal = Journal(path, CLOCK)
    _written(journal, Phase.WITHDRAWING)
    _written(journal, Phase.DRAINED)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert last_phases(path) == {ORDERS.name: Phase.DRAINED}
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    journal.close()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert last_phases(path) == {ORDERS.name: Phase.DRAINED}
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_journal_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """Damage, and a format of later, are said; an empty file has no drains."""
    path = tmp_path / "journal.db"
    path.write_bytes(b"this is no journal, and never was one" * 100)
    with pytest.raises(JournalError, match="cannot read"):
        last_phases(path)
    path.unlink()
    JournalFile(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(JournalError, match="99"):
        last_phases(path)


def test_every_kind_of_finding_is_made() -> None:
    """Each kind that the model knows stands in a report."""
    made = setup(Shown(Listing.LISTED), peers=list)
    kinds = {one.kind for one in examine(made, FakeNotifier()).findings}
    assert kinds == set(FindingKind)
