"""A loop on a bench: its clock stands still until told, its calls run when told."""

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from deregister_agent.engine.instance_loop import InstanceLoop
from deregister_agent.engine.knowledge import AgentContext, InstanceSetup
from deregister_agent.errors import AgentError, ProbeError, RegistryError
from deregister_agent.journal.journal import Decision, Journal
from deregister_agent.model import (
    Announcement,
    Instance,
    Listing,
    Look,
    Peer,
    Phase,
    Policy,
    Presence,
    Process,
    Reading,
    Snapshot,
    StopRequest,
    Straggler,
)
from deregister_agent.ports import Registry

WEB = Instance("web-1", "web", "127.0.0.1", 8080)
OLD, NEW = Process("boot", ((1, 10),)), Process("boot", ((2, 20),))


class HandClock:
    """Time as the test wants it."""

    def __init__(self) -> None:
        self.time, self.date, self.boot = 100.0, 1_700_000_000.0, "boot"

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.date + self.time

    def boot_id(self) -> str:
        return self.boot


class Calls:
    """Runs the jobs it is given in the order in which they came, when told to."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []
        self.at_once = False  # the guard of stop-traffic waits for its calls

    def submit(self, job: Callable[[], None]) -> None:
        if self.at_once:
            job()
        else:
            self.waiting.append(job)

    def run(self) -> None:
        """Run what waits; a job may run the others itself."""
        while self.waiting:
            self.waiting.pop(0)()


class ListRegistry(Registry):
    """A registry that is one list in memory."""

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self.listed, self.down = True, False
        self.out, self.out_by = False, ""  # it is there and gets no work; by whose hand
        self.alike: list[str] = []
        self.elsewhere: list[str] = []  # what else there sends it work, and
        self.tells = True  # whether the registry answers when it is asked for that
        self.tells_by = True  # whether its looks tell by whose hand it is out
        self.lost = ""  # what restoring does not bring back
        self.lies = 0  # how many writes it will acknowledge and not do
        self.did: list[str] = []
        self.count: int | None = None
        self.old_routes: list[Straggler] = []
        self.while_looking: Callable[[], None] = lambda: None

    def _write(self, what: str, *, listed: bool) -> None:
        if self.down:
            raise RegistryError(self.name, what, "connection refused")
        self.did.append(what)
        if self.lies:
            self.lies -= 1
        else:
            self.listed = listed

    def lists(self) -> bool:
        if self.down:
            raise RegistryError(self.name, "list", "connection refused")
        self.while_looking()
        return self.listed

    def look(self) -> Look:
        listed = self.lists()
        if listed and not self.out:
            return Look(Listing.LISTED, self.old_routes)
        by = self.out_by if self.tells_by else ""
        return Look(Listing.OUT if self.out else Listing.ABSENT, self.old_routes, by)

    def look_alikes(self) -> Sequence[str]:
        return self.alike

    def other_registrations(self) -> Sequence[str]:
        if self.down or not self.tells:
            why = "connection refused" if self.down else "no answer in time"
            raise RegistryError(self.name, "look for other registrations", why)
        return self.elsewhere

    def lost_by_restoring(self, snapshot: Snapshot) -> str:
        return self.lost

    def keep(self, snapshot: Snapshot | None) -> float:
        self._write(f"keep {snapshot}", listed=self.listed)
        return 10.0

    def stragglers(self) -> Sequence[Straggler]:
        return self.old_routes

    def others(self) -> int | None:
        return self.count

    def snapshot(self) -> Snapshot | None:
        if self.down:
            raise RegistryError(self.name, "take a snapshot", "connection refused")
        return {"weight": 5, "out": self.out_by} if self.listed and self.out_by else self._here()

    def _here(self) -> Snapshot | None:
        return {"weight": 5} if self.listed else None

    def was_out_by(self, snapshot: Snapshot) -> str:
        return "" if self.tells_by else str(snapshot.get("out", ""))

    def withdraw(self) -> None:
        self._write("withdraw", listed=False)

    def restore(self, snapshot: Snapshot | None) -> None:
        self._write(f"restore {snapshot}", listed=True)


class Page:
    """A probe that says what it is told to say."""

    def __init__(self, name: str = "page") -> None:
        self.name = name
        self.in_flight, self.down, self.late, self.reads = 0, False, 0.0, 0
        self.started: int | None = None
        self.while_reading: Callable[[], None] = lambda: None

    def read(self, wait: float) -> Reading:
        if self.down:
            raise ProbeError(self.name, "read", "connection refused")
        in_flight = self.in_flight
        self.reads += 1
        self.while_reading()
        return Reading({"requests": in_flight}, self.started, late=self.late)


class Finder:
    """Knows which process runs."""

    def __init__(self) -> None:
        self.running: Process | None = OLD
        self.sees, self.unsure = True, False
        self.left = ""  # who of it lives on after the exit
        self.while_looking: Callable[[], None] = lambda: None

    def look(self, was: Process | None) -> Presence:
        if not self.sees:
            return Presence(exited=False, running=None, note="cannot see it")
        self.while_looking()
        nobody = was is None and self.running is None and not self.unsure
        exited = was is not None and was != self.running
        return Presence(exited, self.running, nobody=nobody, left=self.left if exited else "")

    def wait_exit(self, was: Process, timeout: float) -> None:
        """Return: it may have exited."""

    def heard(self, mark: str) -> None:
        """Nothing is known by marks."""


class Check:
    """A readiness check."""

    name, passes, every = "ready", 1, 0.5

    def __init__(self) -> None:
        self.ready = False

    def ask(self) -> None:
        if not self.ready:
            raise ProbeError(self.name, "call it ready", "it answered 503")


class Bench:
    """One loop, with all that it works with."""

    def __init__(
        self,
        folder: Path,
        policy: Policy | None = None,
        registries: Sequence[ListRegistry] | None = None,
        ready: Sequence[Check] = (),
        more: Sequence[Page] = (),
        *,
        may_be_absent: frozenset[str] = frozenset(),
    ) -> None:
        self.clock, self.calls = HandClock(), Calls()
        self.policy = policy or Policy(quiet=1.0, min_others=0)
        self.registries = registries or [ListRegistry()]
        self.page, self.finder, self.ready = Page(), Finder(), ready
        self.more = more  # probes beside the page
        self.may_be_absent = may_be_absent
        self.identities: dict[str, str] = {}  # where each registry looks
        self.peers: list[Peer] | AgentError = []  # who keeps connections; an error: not seen
        self.peers_asked = 0
        self.journal = Journal(folder / "journal.db", self.clock)
        self.written: list[Decision] = []
        self.loop = self.new_life()

    def new_life(self) -> InstanceLoop:
        """Return a loop that knows nothing but the journal; calls under way are lost."""
        self.calls.waiting.clear()
        context = AgentContext(
            self.journal,
            self.clock,
            self.calls.submit,
            Random(1),
            lambda decision, _: self.written.append(decision),
        )
        setup = InstanceSetup(
            WEB,
            self.policy,
            self.registries,
            [self.page, *self.more],
            self.finder,
            self.ready,
            {"platform": frozenset(Announcement)},
            self.may_be_absent,
            self.identities,
            self._peers,
        )
        self.loop = InstanceLoop(setup, context, lambda: None)
        return self.loop

    def _peers(self) -> list[Peer]:
        self.peers_asked += 1
        if isinstance(self.peers, AgentError):
            raise self.peers
        return self.peers

    @property
    def phase(self) -> Phase:
        return self.loop.drain.phase

    def stop(self, request: StopRequest | None = None) -> None:
        """Ask for a drain."""
        self.calls.at_once = True
        try:
            self.loop.stop_traffic(request or StopRequest())
        finally:
            self.calls.at_once = False

    def start(self, *, anyway: bool = False) -> None:
        """Ask for it to be put back."""
        self.calls.at_once = True
        try:
            self.loop.start_traffic("", "somebody", anyway=anyway)
        finally:
            self.calls.at_once = False

    def step(self, most: float) -> None:
        """Call the loop once, run its calls, and let time pass until it is due again."""
        rest = self.loop.tick()
        waiting = bool(self.calls.waiting)
        self.calls.run()
        self.clock.time += 0.001 if waiting else min(max(rest, 0.001), most)

    def go_on(self, seconds: float) -> int:
        """Let the loop work for a time; return how often it was called."""
        end, ticks = self.clock.time + seconds, 0
        while self.clock.time < end:
            self.step(end - self.clock.time)
            ticks += 1
        return ticks

    def until(self, phase: Phase, within: float = 20.0) -> float:
        """Let the loop work until that *phase*; return how long it took."""
        began = self.clock.time
        while self.phase is not phase:
            assert self.clock.time - began < within, f"{self.phase} after {within} s, not {phase}"
            self.step(within)
        return self.clock.time - began


Make = Callable[..., Bench]
"""Makes a bench in a folder of the test's own; see the fixture of that name."""
