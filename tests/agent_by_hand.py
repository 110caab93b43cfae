"""A stand-in for the agent, with behaviour: drains that the test moves by hand."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from deregister_agent.drain import after_start, after_stop
from deregister_agent.errors import JournalError, TooFewOthers
from deregister_agent.journal.history import PastDrain, TimelineEvent
from deregister_agent.model import UNFINISHED, Drain, Instance, Outcome, Phase, StopRequest
from deregister_agent.status import (
    DoctorReport,
    DrainStatus,
    Finding,
    FindingKind,
    ProbeStatus,
    ProcessStatus,
    RegistryStatus,
    Status,
)

WALL = 1_795_232_700.0
NOW = "2026-11-21T03:45:00.000Z"


class FakeJournal:
    """Keeps drains and events in memory; unreadable when told so."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.past: list[PastDrain] = []
        self.events: list[TimelineEvent] = []
        self.broken = False

    def check(self) -> None:
        if self.broken:
            raise JournalError("cannot write the journal: disk full")

    def add_event(self, kind: str, drain: Drain) -> None:
        with self.changed:
            number = len(self.events) + 1
            self.events.append(TimelineEvent(number, kind, drain.instance, drain.id, WALL, {}))
            self.changed.notify_all()

    def drains(self, instance: str, limit: int) -> list[PastDrain]:
        self.check()
        found = [one for one in reversed(self.past) if one.drain.instance == instance]
        return found[:limit]

    def drain(self, instance: str, drain: str) -> tuple[PastDrain, list[TimelineEvent]] | None:
        for one in self.drains(instance, 1000):
            if one.drain.id == drain:
                return one, [event for event in self.events if event.drain == drain]
        return None

    def events_after(self, event: int, limit: int) -> list[TimelineEvent]:
        self.check()
        return self.events[event : event + limit]

    def last_event(self) -> int:
        self.check()
        return len(self.events)


class FakeLoop:
    """One instance. Counts who waits, so that a test can tell when a waiter has left."""

    def __init__(self, name: str, journal: FakeJournal) -> None:
        self.name = name
        self.instance = Instance(name, "orders", "10.0.0.7", 8080)
        self.journal = journal
        self.drain = Drain.never(name)
        self.changed = threading.Condition()
        self.closed = False
        self.waiting = 0
        self.requests: list[StopRequest] = []
        self.others: int | None = None
        self.stands = True  # whether "drained" may be said
        self.served: bool | None = True  # whether "serving" may be said
        self.out_by = ""  # whose turn it is, while it serves
        self.late: list[str] = []  # the registries that do not answer

    def ask_registries(self, timeout: float) -> list[str]:
        del timeout
        return self.late

    def ask_if_serving(self, timeout: float) -> float:
        del timeout
        return 0.0

    def is_served(self, since: float) -> bool | None:
        del since
        return self.served

    @property
    def cursor(self) -> str:
        return f"{self.drain.phase}-{self.drain.id}"

    def has_changed(self, known: str, timeout: float) -> bool:
        self.wait(lambda _: self.cursor != known, timeout)
        return self.cursor != known

    def stop_traffic(self, request: StopRequest) -> None:
        self.requests.append(request)
        self.journal.check()
        if self.others == 0 and not request.force:
            raise TooFewOthers(self.name, "consul", 0, 1)
        phase = after_stop(self.drain.phase)
        if phase is not self.drain.phase:
            drain = Drain(
                id=f"d{len(self.journal.past) + 1}",
                instance=self.name,
                phase=phase,
                since=0.0,
                deadline=180.0,
                reason=request.reason,
                asked_by=request.asked_by,
            )
            self.journal.past.append(PastDrain(drain, WALL, None))
            self.move(drain)

    def start_traffic(self, reason: str, asked_by: str, *, anyway: bool = False) -> None:
        del anyway
        self.journal.check()
        self.move(replace(self.drain, phase=after_start(self.drain.phase)))

    def move(self, drain: Drain) -> None:
        with self.changed:
            self.drain = drain
            self.changed.notify_all()
        self.journal.add_event(drain.phase, drain)

    def to(self, phase: Phase, outcome: Outcome | None = None, **more: Any) -> None:
        """Stand in *phase*, whatever was before."""
        drain_id = self.drain.id or "d0"
        self.move(replace(self.drain, id=drain_id, phase=phase, outcome=outcome, **more))

    def wait(self, final: Callable[[Drain], bool], timeout: float) -> Drain:
        with self.changed:
            self.waiting += 1
            self.changed.wait_for(lambda: self.closed or final(self.drain), timeout)
            self.waiting -= 1
            return self.drain

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def stands_by(self, announcement: str) -> bool:
        """Whether it may be told now; the test decides."""
        return self.stands or announcement != "drained"

    @property
    def is_recalled(self) -> bool:
        """Whether the last drain of before is known to hold; the test decides."""
        return self.stands

    has_looked = True

    def status(self) -> Status:
        drain = self.drain
        unfinished = drain.phase in UNFINISHED
        waits = ("3 requests in flight (http_json)",) if unfinished else ()
        registry = RegistryStatus(
            name="consul",
            listed=False,
            acknowledged=True,
            stragglers=(),
            others=2,
            asked=NOW,
            error=None,
        )
        probe = ProbeStatus(name="http_json", in_flight={"requests": 3}, started=17, asked=NOW)
        return Status(
            instance=Instance(self.name, "orders", "10.0.0.7", 8080),
            phase=drain.phase,
            since=NOW,
            deadline=NOW if unfinished else None,
            remaining=171.2 if unfinished else None,
            drain=self._shown(drain) if drain.id else None,
            in_flight={"requests": 3},
            blocking=(self.out_by,) if self.out_by else waits,
            registries=(registry,),
            probes=(probe,),
            process=ProcessStatus(pids=(123,)),
            cursor=self.cursor,
        )

    def _shown(self, drain: Drain) -> DrainStatus:
        return DrainStatus(
            id=drain.id,
            outcome=drain.outcome,
            reason=drain.reason,
            asked_by=drain.asked_by,
            forced=drain.forced,
            on_deadline=drain.on_deadline,
        )


class FakeAgent:
    """Has the instances it is told to have."""

    def __init__(self, *names: str) -> None:
        self.journal = FakeJournal()
        self.instances = {name: FakeLoop(name, self.journal) for name in names}
        self.trouble: str | None = None
        self.started = self.stopped = False
        self.fit = True  # whether a drain could prove itself
        self.examining: list[str] = []
        self.may_examine = threading.Event()
        self.may_examine.set()
        self.listening = 0  # streams of events that wait

    def start(self) -> None:
        self.started = True

    def stop(self) -> None:
        self.stopped = True
        for loop in self.instances.values():
            loop.close()
        with self.journal.changed:
            self.journal.changed.notify_all()

    def healthy(self) -> str | None:
        return self.trouble

    def examine(self, name: str) -> DoctorReport:
        """Find out what the test says; held while the test wants it."""
        self.examining.append(name)
        assert self.may_examine.wait(30)
        found = Finding(kind=FindingKind.PROBE, name="http_json", ok=self.fit, said="3 requests")
        loop = self.instances[name]
        return DoctorReport(
            instance=Instance(name, "orders", "10.0.0.7", 8080),
            phase=loop.drain.phase,
            would_prove=self.fit,
            findings=(found,),
        )

    def metrics(self) -> bytes:
        waiting = sum(loop.waiting for loop in self.instances.values())
        return f"waiting {waiting}\nlistening {self.listening}\n".encode()

    def wait_event(self, after: int, timeout: float) -> None:
        with self.journal.changed:
            self.listening += 1
            self.journal.changed.wait_for(
                lambda: self.stopped or len(self.journal.events) > after, timeout
            )
            self.listening -= 1
