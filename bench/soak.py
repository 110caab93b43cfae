"""
The same deploys over and over, until so many requests have been sent or one of them is lost.

What is over is checked between two replacements and then forgotten, so that the run itself
needs no more memory at its end than at its begin. Progress goes to standard error.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace as replace_field
from pathlib import Path

from bench.sizes import Run, Size
from compose.alternatives import WAYS
from compose.places import NAMES, REDIS, agent_of
from compose.rollout import replace
from compose.shop.counter import DONE, Commands
from compose.stack import Local, stack
from compose.traffic.loads import COUNTED, KEPT, Load, Sent
from compose.traffic.mixes import at_every_door
from deregister_agent.cli.client import path_of
from deregister_agent.errors import AgentError

LATEST = 60.0  # seconds after which accepted work that is not done counts as lost
KEPT_LEDGERS = 3  # of an instance, for the details of a loss
SHOWN = 30.0  # seconds between two lines of progress
TOLD = 5  # losses that are told in full


class Loss(Exception):  # noqa: N818 - it is what happened, and no mistake of a program
    """Something was lost, or done twice; the message has all that is known of it."""


class Soak:
    """Sees to it that everything that was sent is answered, and done once."""

    def __init__(self, here: Local) -> None:
        self.run = Run()
        self._here = here
        self._accepted: dict[str, Sent] = {}  # and not yet seen in Redis
        self._lost: list[Sent] = []
        self._begun, self._done = bytearray(), bytearray()  # by number of the request
        self._read: set[Path] = set()

    def over(self, one: Sent) -> None:
        """Take in a request that has ended. Called in the load's thread."""
        self.run.by_kind[one.kind] += 1
        if one.lost:
            self._lost.append(one)
            return
        self.run.slowest = max(self.run.slowest, one.ended - one.at - one.seconds)
        if one.kind in COUNTED:
            self._accepted[one.work] = one

    def measure(self, here: Local, name: str) -> None:
        """Note what each agent needs now, and an app that is about to be taken away."""
        self.run.apps.append(Size.of(here.pid(name)))
        for agent in here.place.agents:
            self.run.agents.setdefault(agent, []).append(Size.of(here.pid(agent)))
        paths = Path(here.place.root).glob("*agent*/var/lib/deregister-agent/journal.db*")
        self.run.journal.append(sum(path.stat().st_size for path in paths) / 2**20)

    def check(self, *, at_the_end: bool = False) -> None:
        """Raise Loss unless all is well so far."""
        for ledger in self._ledgers(at_the_end=at_the_end):
            self._take(ledger)
        self._count()
        late = [one for one in self._accepted.values() if _age(one) > LATEST]
        lost = [*self._lost, *(replace_field(one, lost="accepted, never done") for one in late)]
        if lost:
            causes = Counter(f"{one.kind}: {one.lost}" for one in lost)
            head = f"{len(lost)} lost: {dict(causes)}"
            raise Loss("\n\n".join([head, *map(self._told, lost[:TOLD])]))

    def finish(self) -> None:
        """Wait until all that was accepted is done. Raises Loss."""
        self.check(at_the_end=True)
        while self._accepted:
            time.sleep(0.5)
            self.check(at_the_end=True)

    def _count(self) -> None:
        """Take note of what Redis says is done, and have it forget that."""
        with Commands(REDIS, self._here.place.at("redis")) as redis:
            for work, times in redis.counted()[1].items():
                if times != 1 or _noted(self._done, work) > 1:
                    raise Loss(f"{work} was done twice\n{self._known(work)}")
                if work in self._accepted:
                    redis.call("HDEL", DONE, work)
                    del self._accepted[work]
                else:  # its answer is on its way
                    self._done[_number(work)] -= 1

    def _ledgers(self, *, at_the_end: bool) -> Iterator[Path]:
        """Give the ledgers of processes that have gone, each once; remove old ones."""
        for name in NAMES:
            paths = self._here.shops.ledgers[name]
            for path in paths[:-KEPT_LEDGERS]:
                path.unlink(missing_ok=True)
            for path in paths if at_the_end else paths[:-1]:
                if path not in self._read:
                    self._read.add(path)
                    yield path

    def _take(self, ledger: Path) -> None:
        for line in ledger.read_text().splitlines():
            sign, work, *_ = line.split()
            if sign == "+" and _noted(self._begun, work) > 1 and not _may_repeat(work):
                raise Loss(f"{work} was begun twice\n{self._known(work)}")

    def _told(self, one: Sent) -> str:
        return f"lost, sent {_age(one):.3f} s ago: {one}\n{self._known(one.work)}"

    def _known(self, work: str) -> str:
        """Return what the ledgers say of one request, and where the agents stand."""
        lines = [
            f"{path.name}: {line}"
            for name in NAMES
            for path in self._here.shops.ledgers[name]
            if path.exists()
            for line in path.read_text().splitlines()
            if line.split()[1] == work
        ]
        for agent in self._here.place.agents:
            log = self._here.processes.log(agent).splitlines()
            lines += [f"the log of {agent} ends:", *log[-30:]]
        return "\n".join([*lines, f"it is {time.monotonic():.3f}", *map(self._said, NAMES)])

    def _said(self, name: str) -> str:
        try:
            return json.dumps(self._here.agent.get(path_of(name)).body)
        except AgentError as e:
            return f"{agent_of(name)} does not answer: {e}"


def soak(count: int, *, rate: float, through: str) -> Run:
    """
    Deploy until *count* requests have been sent. Raises Loss at the first that is lost.

    *through* is the name of the way, as ``ours-every``.
    """
    way = next(way for way in WAYS if way.slug == through)
    with stack(way.front) as here:
        here.start_agents()
        watch = Soak(here)
        load = Load(here.front.targets, at_every_door, rate=rate, over=watch.over)
        began = shown = time.monotonic()
        load.start()
        try:
            while load.number < count:
                for name in NAMES:
                    watch.measure(here, name)
                    watch.run.beyond.append(replace(here, way, name).overhead)
                    watch.check()
                run = watch.run
                run.requests, run.seconds = load.number, time.monotonic() - began
                run.retried, run.late = load.pool.retried, load.late
                if time.monotonic() - shown > SHOWN:
                    shown = time.monotonic()
                    print(_progress(run, count), file=sys.stderr, flush=True)
        finally:
            load.stop()
        watch.finish()
        watch.run.requests = load.number
        return watch.run


def _progress(run: Run, count: int) -> str:
    left = (count - run.requests) * run.seconds / max(1, run.requests)
    return (
        f"{run.requests} of {count} requests in {run.seconds / 60:.1f} min, none lost; "
        f"{len(run.beyond)} instances replaced, {run.beyond[-1]:.2f} s beyond the ideal; "
        f"agents {', '.join(f'{sizes[-1].memory:.1f}' for sizes in run.agents.values())} MiB, "
        f"app {run.apps[-1].memory:.1f} MiB; "
        f"{max(0.0, left) / 60:.0f} min to go"
    )


def _age(one: Sent) -> float:
    """Return for how many seconds a request's work should have been done."""
    return time.monotonic() - one.at - one.seconds


def _number(work: str) -> int:
    return int(work.removeprefix("r"))


def _may_repeat(work: str) -> bool:
    return at_every_door(_number(work)).name == KEPT.name


def _noted(seen: bytearray, work: str) -> int:
    """Note that a piece of work was seen once more; return how often it was."""
    number = _number(work)
    if number >= len(seen):
        seen.extend(bytes(number + 1 - len(seen)))
    seen[number] += 1
    return seen[number]
