"""One rolling deploy under load, and what it cost: requests lost by cause, seconds beyond need."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replace_field
from pathlib import Path

from compose.alternatives import Way
from compose.places import NAMES
from compose.stack import Local, Stack, stack
from compose.traffic.loads import COUNTED, Kind, Load, Sent
from compose.traffic.mixes import at_every_door
from compose.traffic.verdict import Mark, begun_twice, cause_of, finished, marks, slowest

LEAD = 13.0  # seconds of load before the first replacement: longer than the longest request
TAIL = 3.0  # and after the last
SPARE = 3.0  # seconds beyond what the last piece of work takes


@dataclass(frozen=True, slots=True)
class Entry:
    """One piece of work in a ledger; all times are monotonic."""

    work: str
    accepted: float
    until: float  # when it was to be finished
    finished: float | None  # None: it never was

    @property
    def end(self) -> float:
        """When it was finished, or would have been."""
        return self.until if self.finished is None else self.finished


def read_ledger(path: Path) -> list[Entry]:
    """Return what one process accepted."""
    accepted: dict[str, tuple[float, float]] = {}
    finished: dict[str, float] = {}
    for line in path.read_text().splitlines():
        sign, work, at, until = line.split()
        if sign == "+":
            accepted[work] = (float(at), float(until))
        else:
            finished[work] = float(at)
    return [Entry(work, *times, finished.get(work)) for work, times in accepted.items()]


@dataclass(frozen=True, slots=True)
class Took:
    """
    How one process was taken away.

    *idle* is when it had nothing in hand, or would have had; *clear* when the proxy had
    nothing in hand of what it had taken on before: its old workers end only then.
    """

    name: str
    began: float
    ended: float
    idle: float
    clear: float
    in_hand: Sequence[tuple[float, int]]
    marks: Sequence[Mark] = ()  # when the phases of its drain began

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began

    @property
    def ideal(self) -> float:
        """How long the longest work that it had accepted still needed."""
        return max(0.0, self.idle - self.began)

    @property
    def overhead(self) -> float:
        """How much longer than the ideal it took; below zero, it was cut short."""
        return self.seconds - self.ideal

    @property
    def beyond_proxy(self) -> float:
        """How much longer it took than process and proxy together still needed."""
        return self.seconds - max(0.0, max(self.idle, self.clear) - self.began)


def took(name: str, began: float, ended: float, ledger: Path) -> Took:
    """Sum up one replacement from the ledger of the process that was taken away."""
    entries = read_ledger(ledger)
    idle = max((e.end for e in entries), default=began)
    steps = [(e.accepted, 1) for e in entries] + [(min(e.end, ended), -1) for e in entries]
    curve, count = [], 0
    for at, step in sorted(steps):
        count += step
        if at >= began - TAIL:
            curve.append((at, count))
    return Took(name, began, ended, idle, idle, curve)


@dataclass(frozen=True, slots=True)
class Result:
    """What one run came to."""

    way: Way
    began: float
    sent: Sequence[Sent]
    replaced: Sequence[Took]
    accepted: int  # requests for background work that were accepted
    counter: int  # what Redis says was finished of it
    lost: Mapping[str, int]  # by cause
    lost_at: Sequence[float]
    done_twice: int
    retried: int
    notes: Sequence[str] = field(default=())
    begun_twice: int = 0
    slowest: float = 0.0  # seconds by which the latest answer came later than its work needed
    late: float = 0.0  # seconds by which the sender was behind its plan, at worst

    @property
    def is_whole(self) -> bool:
        """Whether nothing was lost, and nothing was begun or done twice."""
        return not (self.lost_in_all or self.done_twice or self.begun_twice)

    @property
    def lost_in_all(self) -> int:
        """How many requests were lost."""
        return sum(self.lost.values())

    @property
    def seconds(self) -> float:
        """Return the mean over the instances."""
        return sum(one.seconds for one in self.replaced) / max(1, len(self.replaced))

    @property
    def overheads(self) -> list[float]:
        """What each replacement took beyond the ideal."""
        return [one.overhead for one in self.replaced]


Act = Callable[[Local, Load], list[Took]]


def roll(way: Way, rounds: int = 1) -> Act:
    """Return an act: replace all instances one after the other, *rounds* times."""

    def act(here: Local, load: Load) -> list[Took]:
        del load
        time.sleep(LEAD)
        replaced = [replace(here, way, name) for _ in range(rounds) for name in NAMES]
        time.sleep(TAIL)
        return replaced

    return act


def replace(here: Stack, way: Way, name: str) -> Took:
    """Take one instance away and bring the next process of it up."""
    ledger = here.shops.ledgers[name][-1]
    began = time.monotonic()
    way.leave(here, name)
    ended = time.monotonic()
    here.shops.start(name)
    way.back(here, name)
    return took(name, began, ended, ledger)


def run(
    way: Way,
    act: Act,
    kinds: Callable[[int], Kind] = at_every_door,
    *,
    count: int | None = None,
    deadline: float = 120.0,
) -> Result:
    """Run the stack and the load, do the *act*, and judge what has become of every request."""
    with stack(way.front, waits=way.waits, deadline=deadline) as here:
        if way.ours:
            here.start_agents()
        load = Load(here.front.targets, kinds, count=count)
        began = time.monotonic()
        load.start()
        try:
            replaced = act(here, load)
        finally:
            load.stop()
        return judge(here, way, began, replaced, Over(load.sent, load.pool.retried, load.late))


@dataclass(frozen=True, slots=True)
class Over:
    """A load that is over, wherever it ran: what it sent, and how many it sent once more."""

    sent: Sequence[Sent]
    retried: int  # on another connection, as the kept one had just been closed
    late: float = 0.0  # seconds by which the sender was behind its plan, at worst


def judge(here: Stack, way: Way, began: float, replaced: list[Took], load: Over) -> Result:
    """Compare what clients were told, what Redis counted and what the ledgers say."""
    sent = load.sent
    accepted = [one for one in sent if one.kind in COUNTED and not one.lost]
    limit = max((one.seconds for one in accepted), default=0.0) + SPARE
    counter, done = finished(here, accepted, limit)
    gone = [one for one in accepted if not done.get(one.work)]
    lost = [one for one in sent if one.lost]
    causes = Counter(one.lost for one in lost) + Counter(map(cause_of, gone))
    phases = marks(here, NAMES) if way.ours else {}
    ledgers = [path for name in NAMES for path in here.shops.ledgers[name]]
    proxy = here.place.at("gateway")
    return Result(
        way,
        began,
        sent,
        [with_more(one, sent, proxy, phases.get(one.name, ())) for one in replaced],
        len(accepted),
        counter,
        dict(causes),
        sorted(one.at for one in [*lost, *gone]),
        sum(times - 1 for times in done.values()),
        load.retried,
        begun_twice=begun_twice(ledgers, sent),
        slowest=slowest(sent),
        late=load.late,
    )


def with_more(one: Took, sent: Sequence[Sent], proxy: str, phases: Sequence[Mark]) -> Took:
    """
    Note when the phases of its drain began, and when the *proxy* at that address was clear.

    That is when the last request was over that had been sent to it before the instance was
    out. What it took on in the moment between its reload and that is counted too.
    """
    mine = [mark for mark in phases if one.began <= mark[0] <= one.ended]
    out = next((at for at, phase in mine if phase == "settling"), one.began)
    by_proxy = [each for each in sent if each.target.rpartition(":")[0] == proxy]
    open_then = [each.ended for each in by_proxy if each.at <= out and each.ended >= one.began]
    return replace_field(one, clear=max(open_then, default=one.began), marks=mine)
