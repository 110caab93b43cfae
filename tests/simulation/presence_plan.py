"""What a seed says of names, marks, losses and vouching: beside its plan, and drawn apart."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

from tests.simulation.plan import FAULTS_END, Happening, Plan


@dataclass(frozen=True, slots=True)
class NamePlan:
    """As what one registry has the instance, and how it says that it is out."""

    misnamed: bool = False  # the agent looks for it under a name that this registry never had
    may_be_absent: bool = False  # it is not there, need not be, and the configuration says so
    tells: bool = False  # it lets the agent see what it has under other names
    marks: bool = False  # it can have the instance and send it nothing, and says so


@dataclass(frozen=True, slots=True)
class PresencePlan:
    """What a world has to do with presence."""

    names: Sequence[NamePlan]
    renames: int | None = None  # the version from which on the app registers under another name
    happenings: Sequence[Happening] = field(default_factory=tuple)
    asks: Sequence[float] = ()  # when somebody asks whether it takes traffic
    says_who: bool = False  # the probe says which process has answered
    anyway: bool = False  # start-traffic asks for no readiness check
    puts_back: bool = False  # at the end somebody asks the agent to put back what was lost


LOSSES = ("data gone", "operator withdraws")
AFTER_A_LOSS = (None, "start", "stop", "start")
MARKS = ("operator marks", "operator marks", "operator unmarks")


def presence_plan(seed: int, world: Plan) -> PresencePlan:
    """Return what *seed* adds to its *world*, which stays what it always was."""
    chance = Random(f"presence {seed}")
    asks = tuple(chance.uniform(0.2, FAULTS_END + 10.0) for _ in range(3))
    if world.calm:
        marks = [NamePlan(marks=_can_mark(chance, one.lease)) for one in world.registries]
        return PresencePlan(marks, asks=asks)
    telling = Random(f"other names {seed}")
    names = [
        replace(_name(chance, one.lease), tells=telling.random() < 0.7) for one in world.registries
    ]
    renames = chance.choice((2, 2, 3)) if chance.random() < 0.12 else None
    return PresencePlan(
        names=names,
        renames=renames,
        happenings=[
            *_losses(chance),
            *(_marks(chance, world.stop_at) if any(one.marks for one in names) else ()),
            *_vouching(chance),
            *(_deployment(chance) if renames is not None else ()),
            *_shortage(Random(f"threads {seed}")),
        ],
        asks=asks,
        says_who=telling.random() < 0.5,
        anyway=chance.random() < 0.5,
        puts_back=chance.random() < 0.7,
    )


def _can_mark(chance: Random, lease: float) -> bool:
    return chance.random() < 0.25 and not lease


def _name(chance: Random, lease: float) -> NamePlan:
    kind = chance.random()
    if kind < 0.04:
        return NamePlan(misnamed=True)
    if kind < 0.08:
        return NamePlan(may_be_absent=True)
    return NamePlan(marks=_can_mark(chance, lease))


def _losses(chance: Random) -> list[Happening]:
    """Let a registry lose it at some time; often somebody asks for something afterwards."""
    if chance.random() < 0.8:
        return []
    at = chance.uniform(0.1, FAULTS_END - 3.0)
    what, after = chance.choice(LOSSES), chance.choice(AFTER_A_LOSS)
    found = [Happening(at, what, 0.0)]
    if after is not None:
        found.append(Happening(at + chance.choice((0.05, 0.5, 2.0)), after, 0.0))
    return found


def _marks(chance: Random, stop_at: float) -> list[Happening]:
    """Let an operator have it out: from before the first drain on, or at any other time."""
    if chance.random() < 0.4:
        return []
    first = chance.choice((stop_at * chance.random(), chance.uniform(1.0, FAULTS_END - 1.0)))
    found = [Happening(first, "operator marks", 0.0)]
    for _ in range(chance.choice((0, 0, 1, 2))):
        at = chance.uniform(first, FAULTS_END - 1.0)
        found.append(Happening(at, chance.choice(MARKS), 0.0))
    return found


def _vouching(chance: Random) -> list[Happening]:
    if chance.random() < 0.9:
        return []
    lasts = chance.choice((0.3, 3.0, 10.0))
    return [Happening(chance.uniform(0.1, FAULTS_END - 3.0), "vouched for", lasts)]


def _shortage(chance: Random) -> list[Happening]:
    if chance.random() < 0.93:
        return []
    lasts = chance.choice((0.2, 1.0, 3.0))
    return [Happening(chance.uniform(0.1, FAULTS_END - 4.0), "threads run out", lasts)]


def _deployment(chance: Random) -> list[Happening]:
    """Let somebody put the next version in its place, and ask for that one to be taken out."""
    at = chance.uniform(0.5, FAULTS_END - 6.0)
    stops = [Happening(at + wait, "stop", 0.0) for wait in (chance.uniform(0.4, 1.0), 4.0)]
    return [Happening(at, "next version", 0.0), *stops]
