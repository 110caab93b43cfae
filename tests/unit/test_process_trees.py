"""Made-up process trees: never "exited" while somebody of it lives, never held by nobody."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

from hypothesis import example, given, settings
from hypothesis import strategies as st

from deregister_agent.host import pids, relatives
from deregister_agent.host.clock import SystemClock
from deregister_agent.host.find_by_pid import PidFinder, PidWord
from deregister_agent.host.pids import Pid, ProcessStat
from deregister_agent.model import Process

MASTER = 100
BOOT = SystemClock().boot_id()
STEPS = ("fork", "session", "group", "end", "other forks", "other ends", "agent forgets")
step = st.tuples(st.sampled_from(STEPS), st.integers(0, 50))


@dataclass
class Kernel:
    """Processes that are made up, with the rules by which a kernel keeps them."""

    alive: dict[int, ProcessStat] = field(default_factory=dict)
    ours: set[int] = field(default_factory=set)  # everybody who ever came of the app
    clock: int = 1000
    last: int = MASTER

    def __post_init__(self) -> None:
        self.alive[1] = ProcessStat(b"S", 0, 1, 1, 1, 1)
        self.alive[50] = ProcessStat(b"S", 1, 50, 50, 1, 10)  # somebody else, of old
        self.alive[MASTER] = ProcessStat(b"S", 1, MASTER, MASTER, 1, self.clock)
        self.ours.add(MASTER)

    def fork(self, pid: int) -> None:
        self.clock += 1
        self.last += 1
        self.alive[self.last] = self.alive[pid]._replace(parent=pid, start=self.clock)
        if pid in self.ours:
            self.ours.add(self.last)

    def lead(self, pid: int, *, session: bool) -> None:
        """Let a process begin a process group of its own, or a session."""
        shown = self.alive[pid]
        if pid not in {shown.group, shown.session}:
            new = pid if session else shown.session
            self.alive[pid] = shown._replace(group=pid, session=new)

    def end(self, pid: int) -> None:
        del self.alive[pid]
        for child, shown in self.alive.items():
            if shown.parent == pid:
                self.alive[child] = shown._replace(parent=1)

    def find(self, pid: int) -> Pid | None:
        return (pid, self.alive[pid].start) if pid in self.alive else None

    def living(self) -> set[int]:
        """Return who of the app lives."""
        return self.ours & self.alive.keys()


class Source:
    """Knows the master while it lives."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def ask(self) -> PidWord:
        return PidWord(self._kernel.find(MASTER), certain=True)


@contextmanager
def ruled_by(kernel: Kernel) -> Iterator[None]:
    """Let the finders of the block see the processes of a made-up kernel."""
    table: Callable[..., dict[int, ProcessStat]] = lambda _: dict(kernel.alive)  # noqa: E731
    with (
        patch.object(pids, "find", kernel.find),
        patch.object(pids, "name", lambda _: "app"),
        patch.object(relatives._tables, "ask", table),
    ):
        yield


def finder_of(kernel: Kernel) -> PidFinder:
    return PidFinder(Source(kernel), SystemClock(), "127.0.0.1", 1)


def act(kernel: Kernel, what: str, which: int) -> None:
    """Let one thing happen to somebody of the app, or to somebody else."""
    others = sorted(kernel.alive.keys() - kernel.ours - {1})
    group = others if what.startswith("other") else sorted(kernel.living())
    if not group:
        return
    pid = group[which % len(group)]
    match what:
        case "fork" | "other forks":
            kernel.fork(pid)
        case "session" | "group":
            kernel.lead(pid, session=what == "session")
        case "end":
            kernel.end(pid)
        case "other ends" if pid != 50:
            kernel.end(pid)
        case _:
            pass


@settings(max_examples=400, deadline=None)
@given(st.lists(step, max_size=40))
@example([("fork", 0), ("end", 0), ("session", 0), ("fork", 0), ("end", 0)])
def test_exited_means_that_nobody_of_it_lives(steps: list[tuple[str, int]]) -> None:
    """Looked at after each thing that happens, the finder says who is left, and of nobody none."""
    kernel = Kernel()
    with ruled_by(kernel):
        finder = finder_of(kernel)
        was = finder.look(None).running
        assert was is not None
        for what, which in steps:
            act(kernel, what, which)
            presence = finder.look(was)
            assert presence.exited == (MASTER not in kernel.alive)
            gone = presence.exited and not presence.left
            assert gone == (not kernel.living()), (presence, kernel)
        for pid in kernel.living():
            kernel.end(pid)
        presence = finder.look(was)
        assert (presence.exited, presence.left) == (True, "")


@settings(max_examples=400, deadline=None)
@given(st.lists(step, max_size=40), st.sets(st.integers(0, 39)))
def test_an_agent_that_looks_seldom_or_begins_anew(
    steps: list[tuple[str, int]], looks: set[int]
) -> None:
    """Whoever was seen, or is in a session or group of the app's process, is never passed over."""
    kernel = Kernel()
    with ruled_by(kernel):
        finder = finder_of(kernel)
        was = finder.look(None).running
        assert was is not None
        seen: set[int] = set()
        for number, (what, which) in enumerate(steps):
            act(kernel, what, which)
            if what == "agent forgets":
                finder, seen = finder_of(kernel), set()
            if number in looks and MASTER in kernel.alive:
                finder.look(was)
                seen |= below(kernel, MASTER)
        if MASTER in kernel.alive:
            kernel.end(MASTER)
        shown = kernel.living() & seen
        shown |= {p for p in kernel.living() if MASTER in kernel.alive[p][2:4]}
        presence = finder.look(was)
        assert presence.exited
        assert bool(presence.left) >= bool(shown), (presence, kernel)
        if not kernel.living():
            assert presence.left == ""


def below(kernel: Kernel, pid: int) -> set[int]:
    """Return the children of a process, and theirs in turn."""
    children = {one for one, shown in kernel.alive.items() if shown.parent == pid}
    return children.union(*(below(kernel, child) for child in children))


@given(st.sampled_from(["pid:[1]", "pid:[4026532000]"]), st.booleans())
def test_another_pid_namespace_tells_nothing(namespace: str, lives: bool) -> None:
    """Its numbers mean others here, alive or dead."""
    kernel = Kernel()
    if not lives:
        kernel.end(MASTER)
    was = Process(BOOT, ((MASTER, 1000),), namespace=namespace)
    with ruled_by(kernel):
        presence = finder_of(kernel).look(was)
    assert (presence.exited, presence.running) == (False, None)
    assert "another pid namespace" in presence.note


@given(st.floats(0.01, 100.0), st.integers(0, 20000))
def test_who_begins_after_the_word_is_a_successor(closed: float, start: int) -> None:
    """In doubt, within one tick of the clock, it began after: the next version is not hindered."""
    was = Process(BOOT, ((MASTER, 1),), closed=closed)
    later = relatives.began_after((200, start), was)
    assert later == (start >= int(closed * 100))
    assert not relatives.began_after((MASTER, 1), was)
