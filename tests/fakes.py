"""Stand-ins with real behaviour, for tests of what uses registries, probes and notifiers."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from deregister_agent.errors import NotifyError, ProbeError, RegistryError
from deregister_agent.model import Announcement, Event, Reading, Snapshot
from deregister_agent.ports import IdleProbe, Notifier, Registry


class Crash(BaseException):
    """The process dies here. No ``except Exception`` must survive it."""


class FakeClock:
    """Time that moves when the test says so."""

    def __init__(self, now: float = 1000.0, wall: float = 1_700_000_000.0) -> None:
        self._now, self._wall, self._boot = now, wall, "boot-1"

    def now(self) -> float:
        """Return seconds since boot."""
        return self._now

    def wall(self) -> float:
        """Return seconds since 1970."""
        return self._wall

    def boot_id(self) -> str:
        """Return the name of this boot."""
        return self._boot

    def pass_time(self, seconds: float) -> None:
        """Let time go by, on both clocks."""
        self._now += seconds
        self._wall += seconds

    def step_wall(self, seconds: float) -> None:
        """Correct the wall clock, which the other does not notice."""
        self._wall += seconds

    def reboot(self, seconds: float = 60.0) -> None:
        """Start the host anew: the clock begins again, the wall clock went on."""
        self._boot = f"boot-{int(self._boot.removeprefix('boot-')) + 1}"
        self._now = 1.0
        self._wall += seconds


@dataclass
class Directory:
    """
    What FakeRegistry talks to: who is listed, with what. Shared by instances as Consul is.

    ``trouble`` makes every call fail with that sentence. ``blocked`` makes it take a
    change, and not follow it, as Consul does when ACLs block the sync.
    """

    listed: dict[str, Mapping[str, object]] = field(default_factory=dict)
    trouble: str = ""
    blocked: bool = False
    version: int = 1
    moved: threading.Condition = field(default_factory=threading.Condition)

    def put(self, name: str, definition: Mapping[str, object]) -> None:
        """List an instance."""
        self._change(lambda: self.listed.__setitem__(name, dict(definition)))

    def remove(self, name: str) -> None:
        """Stop listing an instance."""
        self._change(lambda: self.listed.pop(name, None))

    def _change(self, change: Callable[[], object]) -> None:
        with self.moved:
            change()
            self.version += 1
            self.moved.notify_all()


class FakeRegistry(Registry):
    """One instance in a Directory. ``calls`` has the name of each method called."""

    def __init__(self, directory: Directory, instance: str, name: str = "memory") -> None:
        self.name = name
        self.directory = directory
        self.instance = instance
        self.calls: list[str] = []
        self.remarks: list[str] = []

    def _call(self, method: str) -> None:
        self.calls.append(method)
        if self.directory.trouble:
            raise RegistryError(self.name, f"{method} {self.instance}", self.directory.trouble)

    def lists(self) -> bool:
        self._call("lists")
        return self.instance in self.directory.listed

    def snapshot(self) -> Snapshot | None:
        self._call("snapshot")
        definition = self.directory.listed.get(self.instance)
        return None if definition is None else {"definition": dict(definition)}

    def withdraw(self) -> None:
        self._call("withdraw")
        if not self.directory.blocked and self.instance in self.directory.listed:
            self.directory.remove(self.instance)

    def restore(self, snapshot: Snapshot | None) -> None:
        self._call("restore")
        definition = (snapshot or {}).get("definition")
        absent = self.instance not in self.directory.listed
        if isinstance(definition, dict) and absent and not self.directory.blocked:
            self.directory.put(self.instance, definition)

    def notes(self, snapshot: Snapshot | None) -> Sequence[str]:
        return tuple(self.remarks)

    def others(self) -> int | None:
        self._call("others")
        return len(self.directory.listed.keys() - {self.instance})

    def watch(self, cursor: str | None, timeout: float) -> str | None:
        self._call("watch")
        with self.directory.moved:
            if cursor is not None:
                self.directory.moved.wait_for(
                    lambda: str(self.directory.version) != cursor, timeout
                )
            return str(self.directory.version)


class CrashyRegistry(FakeRegistry):
    """Dies at the n-th side effect, before it has any effect or just after it."""

    def __init__(self, directory: Directory, instance: str, crash_at: int, *, after: bool) -> None:
        super().__init__(directory, instance)
        self._left = crash_at
        self._after = after

    def withdraw(self) -> None:
        self._die(super().withdraw)

    def restore(self, snapshot: Snapshot | None) -> None:
        self._die(lambda: FakeRegistry.restore(self, snapshot))

    def _die(self, effect: Callable[[], None]) -> None:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Crash
        effect()
        if self._left == 0:
            raise Crash


class FakeProbe(IdleProbe):
    """An app whose work the test sets: ``in_flight``, ``started``, ``mark``."""

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self.in_flight: dict[str, int] = {"requests": 0}
        self.started: int | None = 0
        self.mark = ""
        self.trouble = ""

    def begin(self, kind: str = "requests") -> None:
        """Take on a piece of work."""
        self.in_flight[kind] = self.in_flight.get(kind, 0) + 1
        self.started = (self.started or 0) + 1

    def end(self, kind: str = "requests") -> None:
        """Finish a piece of work."""
        self.in_flight[kind] -= 1

    def read(self, wait: float) -> Reading:
        if self.trouble:
            raise ProbeError(self.name, "read what is in flight", self.trouble)
        return Reading(dict(self.in_flight), self.started, self.mark)


class FakeNotifier(Notifier):
    """A platform that remembers what it was told, each event once, in ``told``."""

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self.announces = frozenset(Announcement)
        self.told: dict[str, Event] = {}
        self.trouble = ""

    def announce(self, event: Event) -> None:
        if self.trouble:
            raise NotifyError(self.name, f"announce {event.kind}", self.trouble)
        self.told.setdefault(event.id, event)

    def kinds(self) -> list[str]:
        """Return the kinds of the events it was told, in order."""
        return [event.kind for event in self.told.values()]
