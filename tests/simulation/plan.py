"""What a seed stands for: the policy, the world's bad habits, and what happens when."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from deregister_agent.model import OnDeadline, Policy, RestoreWhen

FAULTS_END = 16.0
"""Seconds after which nothing goes wrong any more."""


@dataclass(frozen=True, slots=True)
class RegistryPlan:
    """How one registry behaves."""

    lag: float  # seconds between a write and what its consumers see
    watches: bool
    app_registers: bool  # the app registers itself here when it starts
    stragglers: float  # seconds for which old routes go on after it let go
    counts: bool  # it can count the others
    lease: float  # seconds for which it lists what it was told to restore; 0: for good


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that goes wrong, or that somebody does."""

    at: float
    what: str
    lasts: float


@dataclass(frozen=True, slots=True)
class Plan:
    """One world."""

    policy: Policy
    registries: Sequence[RegistryPlan]
    counts_work: bool  # the app counts all work ever started
    holds: bool  # the app's page holds its answer until it is idle
    error_rate: float
    hang_rate: float
    lie_rate: float
    arrivals: float  # per second
    longest_work: float
    late_clients: float  # seconds for which they use a route longer than the policy allows for
    late_messages: float  # how many of all messages take long
    registers_every: float | None
    supervised: bool
    readiness: bool
    platform_kills: bool
    stop_at: float
    force: bool
    others: int
    happenings: Sequence[Happening] = field(default_factory=tuple)
    calm: bool = False  # nothing goes wrong at all
    strays: Sequence[tuple[float, float]] = ()  # work after "drained": when, and how long it takes
    freezes: float | None = None  # seconds after draining began at which the agent is stopped
    dies: float | None = None  # seconds after draining began at which the process dies, if it works
    children: bool = False  # the app forks for its work, which outlives the process that is watched
    shows_children: bool = False  # the finder can see them
    deaf: bool = False  # the platform kills although the word was taken back in the meantime


KINDS = (
    *("agent dies",) * 4,
    "reboot",
    *("disk full",) * 2,
    "wall steps",
    *("app dies",) * 2,
    *("registers again",) * 2,
    *("registry down",) * 2,
    "registry hangs",
    "operator lists",
    "operator withdraws",
    *("start",) * 2,
    *("stop",) * 2,
    "others leave",
    "probe down",
    "notifier down",
    "process unsure",
)
LATER_KINDS = ("agent frozen",)
"""What was added later: drawn apart, so that each seed stands for the world that it always was."""


def plan(seed: int) -> Plan:
    """Return the world that *seed* stands for."""
    chance, forks = Random(f"plan {seed}"), Random(f"forks {seed}")
    calm = chance.random() < 0.15
    children, shows_children = forks.random() < 0.3, forks.random() < 0.5
    nasty = 0.0 if calm else chance.choice((0.0, 0.0, 0.02, 0.08, 0.2))
    readiness = chance.random() < 0.6
    more = Random(f"more {seed}")
    return Plan(
        policy=Policy(
            deadline=chance.uniform(2.0, 9.0),
            quiet=chance.choice((0.0, 0.2, 0.5, 1.0)),
            settle=chance.choice((0.0, 0.0, 0.3, 1.0)),
            on_deadline=chance.choice(tuple(OnDeadline)),
            restore=chance.choice(tuple(RestoreWhen)),
            restore_deadline=chance.choice((3.0, 30.0)),
            min_others=chance.choice((0, 1, 1, 2)),
        ),
        registries=[
            _registry(chance, leases=readiness) for _ in range(chance.choice((1, 1, 2, 3)))
        ],
        counts_work=chance.random() < 0.6,
        holds=chance.random() < 0.5,
        error_rate=nasty,
        hang_rate=nasty / 4,
        lie_rate=nasty,
        arrivals=chance.choice((0.0, 2.0, 5.0)),
        longest_work=chance.choice((0.1, 0.5, 3.0)),
        late_clients=chance.choice((0.0, 0.0, 0.0, 1.5)),
        late_messages=0.03 if calm else chance.choice((0.03, 0.03, 0.3)),
        registers_every=chance.choice((None, None, None, 1.0)) if not calm else None,
        supervised=chance.random() < 0.6,
        readiness=readiness,
        platform_kills=chance.random() < 0.8,
        stop_at=chance.uniform(0.05, 1.0),
        force=chance.random() < 0.2,
        others=3 if calm else chance.choice((0, 1, 2, 3, 3, 3)),
        happenings=() if calm else (*_happenings(chance), *_later(more)),
        calm=calm,
        strays=() if calm else _strays(more),
        freezes=None if calm or more.random() < 0.8 else more.uniform(0.0, 0.5),
        deaf=more.random() < 0.3,
        dies=None if calm or forks.random() < 0.4 else forks.uniform(0.0, 0.2),
        children=children,
        shows_children=shows_children,
    )


def _registry(chance: Random, *, leases: bool) -> RegistryPlan:
    return RegistryPlan(
        lag=chance.choice((0.0, 0.0, 0.05, 0.6)),
        watches=chance.random() < 0.6,
        app_registers=chance.random() < 0.5,
        stragglers=chance.choice((0.0, 0.0, 0.0, 1.0)),
        counts=chance.random() < 0.7,
        lease=3.0 if leases and chance.random() < 0.3 else 0.0,
    )


def _later(more: Random) -> list[Happening]:
    return [
        Happening(more.uniform(0.2, FAULTS_END - 4.0), what, more.choice((1.0, 2.2, 4.0)))
        for what in LATER_KINDS
        if more.random() < 0.25
    ]


def _strays(more: Random) -> list[tuple[float, float]]:
    """Return work that reaches the app by no route: a request at a time, or a stream of them."""
    if more.random() < 0.6:
        return []
    begin, lasts = more.uniform(1.0, FAULTS_END - 2.0), more.choice((0.005, 0.3, 2.0, 9.0))
    many = more.choice((1, 1, 60))
    return [(begin + number * 0.05, lasts) for number in range(many)]


def _happenings(chance: Random) -> list[Happening]:
    many = chance.choice((0, 1, 1, 2, 3, 5, 8))
    return [
        Happening(
            at=chance.uniform(0.2, FAULTS_END - 1.0),
            what=chance.choice(KINDS),
            lasts=chance.choice((0.05, 0.3, 1.0, 3.0, 10.0)),
        )
        for _ in range(many)
    ]
