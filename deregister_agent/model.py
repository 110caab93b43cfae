"""
The words of this agent, as plain values. Nothing here touches the outside world.

Times are seconds of CLOCK_BOOTTIME unless a name says ``wall``; durations are seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

Snapshot = Mapping[str, object]
"""What a registry needs to list an instance again: plain JSON, meant for that registry alone."""


class Phase(StrEnum):
    """Where a drain stands, from "takes traffic" to "safe to kill" and back."""

    SERVING = "serving"  # in rotation
    WITHDRAWING = "withdrawing"  # stop-traffic; some registry may still list the instance
    SETTLING = "settling"  # out of every registry; routes handed out before may be in use
    DRAINING = "draining"  # waiting until the app is quiet
    DRAINED = "drained"  # withdrawn and quiet: safe to kill
    EXPIRED = "expired"  # the deadline passed first: NOT drained
    GONE = "gone"  # announced, and the process has exited since: nothing is guarded
    RESTORING = "restoring"  # start-traffic; some registry may not list the instance yet


UNFINISHED = frozenset({Phase.WITHDRAWING, Phase.SETTLING, Phase.DRAINING})
"""The phases in which a drain still works towards "drained" and has a deadline."""

GUARDED = UNFINISHED | {Phase.DRAINED, Phase.EXPIRED}
"""The phases in which the process under drain is kept out of traffic."""


class Outcome(StrEnum):
    """How a drain ended. Settled once; a drain without one has not ended."""

    DRAINED = "drained"  # withdrawn and quiet
    APP_EXITED = "app-exited"  # withdrawn, and the process exited by itself: nothing in hand
    ABSENT = "absent"  # nobody was there to be drained, and nobody came
    EXPIRED = "expired"  # the deadline passed first
    CANCELLED = "cancelled"  # start-traffic came before the end
    REFUSED = "refused"  # after the drain had begun: too few others, or never seen in a registry
    RESTORED = "restored"  # of a restore: every registry lists it again


class DrainKind(StrEnum):
    """What a record of the journal is about."""

    DRAIN = "drain"
    RESTORE = "restore"  # of an instance in service that a registry had lost


class OnDeadline(StrEnum):
    """What to do when the deadline passes before the instance is drained."""

    HOLD = "hold"  # keep it out, and leave the next step to a person
    RESTORE = "restore"  # put it back
    KILL = "kill"  # announce "forced": the platform may kill it, work in hand or not


class RestoreWhen(StrEnum):
    """Who puts the instance back after the drained process has exited."""

    MANUAL = "manual"  # start-traffic does
    WHEN_READY = "when-ready"  # the agent does, as soon as the new process is ready


class Announcement(StrEnum):
    """What notifiers may be told."""

    DRAINED = "drained"  # safe to kill
    EXPIRED = "expired"  # the deadline passed: not safe to kill
    FORCED = "forced"  # the deadline passed and the policy is to kill anyway
    TAKEN_BACK = "taken-back"  # an earlier "drained" no longer holds
    NOT_RESTORED = "not-restored"  # the restore deadline passed; the agent keeps trying
    SERVING = "serving"  # listed again by every registry


@dataclass(frozen=True, slots=True)
class Instance:
    """One running copy of a service."""

    name: str
    service: str
    address: str
    port: int

    def __str__(self) -> str:
        """Return the form used in logs: ``orders-1@10.0.0.7:8080``."""
        return f"{self.name}@{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Policy:
    """How long to wait and what to do then, for one instance."""

    deadline: float = 180.0
    quiet: float = 2.0
    settle: float = 0.0
    on_deadline: OnDeadline = OnDeadline.HOLD
    restore: RestoreWhen = RestoreWhen.MANUAL
    restore_deadline: float = 180.0
    min_others: int = 1


@dataclass(frozen=True, slots=True)
class Process:
    """Which process is, or was, the app: enough to tell it from its successor."""

    boot_id: str
    pids: tuple[tuple[int, int], ...] = ()  # pid and start time in clock ticks since boot
    sockets: tuple[int, ...] = ()  # inodes of its listening sockets
    mark: str = ""  # what the app itself says it is: an instance id, a start time
    namespace: str = ""  # the pid namespace in which its pids mean something
    network: str = field(default="", compare=False)  # the network namespace of its sockets
    closed: float = field(default=0.0, compare=False)  # who began later is its successor; 0: open


@dataclass(frozen=True, slots=True)
class Presence:
    """What could be seen of a process: whether it has exited, and who is there now."""

    exited: bool  # the process asked about is known to have exited
    running: Process | None  # who is in its place now, itself included; None: nobody was seen
    note: str = ""  # why the agent cannot tell more, for status
    nobody: bool = False  # where nobody was asked about: it is certain that nobody is there
    left: str = ""  # who of it lives on though the process has exited, in words; empty: nobody

    @property
    def replaced(self) -> bool:
        """Whether another process has taken the place of the one that has exited."""
        return self.exited and self.running is not None


@dataclass(frozen=True, slots=True)
class Drain:
    """One run of the whole process, as the journal has it."""

    id: str
    instance: str
    phase: Phase
    since: float  # when this phase was entered
    deadline: float  # absolute end of the drain
    limit: float = 180.0  # the deadline as it was asked for: seconds from the start
    on_deadline: OnDeadline = OnDeadline.HOLD
    outcome: Outcome | None = None
    reason: str = ""
    asked_by: str = ""
    forced: bool = False  # the guard was overridden
    guarded: bool = True  # the guard has yet to let this drain pass
    overdue: bool = False  # "not restored" has been announced
    relisted: int = 0  # how often a registry listed it again after it had been out
    process: Process | None = None  # what is being drained
    announced: Outcome | None = None  # with which the platform was told that it may kill
    kind: DrainKind = DrainKind.DRAIN
    vouched: tuple[str, ...] = ()  # registries whose word is not waited for
    if_present: bool = False  # if nobody is there to be drained, that is an end, too
    refusal: str = ""  # why it was refused after it had begun

    @classmethod
    def never(cls, instance: str) -> "Drain":
        """Return what stands for "no drain was ever asked for"."""
        return cls(id="", instance=instance, phase=Phase.SERVING, since=0.0, deadline=0.0)


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one look has shown. Each fact is True only when it is known to be."""

    acknowledged: bool = False  # every registry took this phase's action, in this process life
    listed: bool = False  # at least one registry lists the instance
    unlisted: bool = False  # every registry says it does not
    withdrawn: bool = False  # and no straggler is waited for
    restored: bool = False  # every registry lists the instance
    quiet_for: float | None = (
        None  # seconds with nothing in flight or no app, up to after withdrawn
    )
    exited: bool = False  # the process under drain has exited
    left: bool = False  # and somebody of it lives on: a child, a worker, a connection it holds
    replaced: bool = False  # and another has taken its place
    nobody: bool = False  # nobody has ever been there, and nobody is
    working: bool = False  # after "drained", the drained process has lasting work again
    ready: bool = False  # the app's readiness checks pass
    refused: bool = False  # the guard refuses to go on


@dataclass(frozen=True, slots=True)
class Reading:
    """What a probe says the app has in hand."""

    in_flight: Mapping[str, int]  # by kind: requests, tasks, messages, connections
    started: int | None = None  # counter of all work ever started, where the app has one
    mark: str = ""  # which process answered, where the app says so
    late: float = 0.0  # by how many seconds the news of idleness may be behind; work is never old

    @property
    def idle(self) -> bool:
        """Whether nothing at all is in flight."""
        return not any(self.in_flight.values())


@dataclass(frozen=True, slots=True)
class Peer:
    """Who keeps connections to the port of an instance, as the kernel shows it."""

    address: str
    program: str = ""  # what has the other end, where that is on this host and shown
    connections: int = 1
    waiting: int = 0  # of these, how many have sent something since they were last sent anything
    last_byte: float | None = None  # seconds since one of them carried a byte; None: not told
    used: bool = True  # whether one of them has ever carried one

    @property
    def who(self) -> str:
        """The address, with the program where it is known."""
        return f"{self.address} ({self.program})" if self.program else self.address


@dataclass(frozen=True, slots=True)
class Straggler:
    """Something that may still send work along an old route, such as an old Nginx worker."""

    what: str  # for a person


class Listing(StrEnum):
    """What a registry shows of an instance. The first two are presence: it is recognised there."""

    LISTED = "listed"  # it would send work to the instance
    OUT = "out"  # it has the instance, and sends it nothing: critical, down, in maintenance
    ABSENT = "absent"  # it does not show the instance: out, or looked for in the wrong place


@dataclass(frozen=True, slots=True)
class Look:
    """What a registry said of an instance when it was asked."""

    listing: Listing
    stragglers: Sequence[Straggler] = ()
    out_by: str = ""  # by what somebody else has put it out, for a person: nobody else may lift it

    @property
    def listed(self) -> bool:
        """Whether the registry would send work to the instance."""
        return self.listing is Listing.LISTED


@dataclass(frozen=True, slots=True)
class Event:
    """An announcement about a drain, as notifiers are given it."""

    id: str
    kind: str
    instance: Instance
    drain: str
    wall: float  # seconds since 1970
    detail: Mapping[str, object] = field(default_factory=dict)
    process: Process | None = None


@dataclass(frozen=True, slots=True)
class StopRequest:
    """What somebody asks for with stop-traffic; None leaves it to the instance's policy."""

    deadline: float | None = None
    on_deadline: OnDeadline | None = None
    reason: str = ""
    force: bool = False
    asked_by: str = ""
    vouch: tuple[str, ...] = ()  # registries whose word is not to be waited for
    if_present: bool = False  # if nobody is there to be drained, that is an end, too
