"""Made-up listeners and networks: no exit while somebody lives or where the network is another."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from deregister_agent.host import find_by_port, pids, port_holders
from deregister_agent.host.clock import SystemClock
from deregister_agent.host.find_by_port import PortFinder
from deregister_agent.host.network import Network
from deregister_agent.host.pids import Pid
from deregister_agent.host.sockets import Socket, State
from deregister_agent.model import Process
from tests.unit.test_process_trees import MASTER, Kernel, act, below, ruled_by

PORT, HOME = 8080, 0
STEPS = (
    *("fork", "session", "group", "end", "other forks", "other ends"),
    *(
        "forks for a connection",
        "closes",
        "opens anew",
        "agent moves",
        "agent comes back",
        "agent forgets",
    ),
)
step = st.tuples(st.sampled_from(STEPS), st.integers(0, 50))


@dataclass
class Host(Kernel):
    """A made-up kernel with listening sockets, all in one network, and an agent that moves."""

    held: dict[int, set[int]] = field(default_factory=lambda: {1: {MASTER}})  # by inode
    agent_in: int = HOME

    def fork(self, pid: int) -> None:
        super().fork(pid)
        for holders in self.held.values():
            if pid in holders:
                holders.add(self.last)

    def end(self, pid: int) -> None:
        super().end(pid)
        self.close(pid)

    def close(self, pid: int) -> None:
        """Let a process close its listeners; one that nobody holds is gone."""
        self.held = {inode: left for inode, who in self.held.items() if (left := who - {pid})}

    def open(self, pid: int) -> None:
        self.clock += 1
        self.held[self.clock] = {pid}

    def listeners(self, port: int) -> list[Socket]:
        """Return what is listening in the agent's network."""
        here = self.held if self.agent_in == HOME else {}
        return [
            Socket(State.LISTEN, "127.0.0.1", port, "0.0.0.0", 0, 0, 0, inode) for inode in here
        ]

    def holders(self, inodes: Iterable[int]) -> dict[int, frozenset[Pid]]:
        """Return who holds a socket: /proc shows that wherever the agent is."""
        found = {inode: map(self.find, self.held.get(inode, ())) for inode in inodes}
        return {inode: frozenset(filter(None, who)) for inode, who in found.items()}


@contextmanager
def governed_by(host: Host) -> Iterator[None]:
    """Let the port finders of the block see the made-up sockets, processes and networks."""
    with ExitStack() as stack:
        stack.enter_context(ruled_by(host))
        for where, name, work in (
            (find_by_port, "listeners", host.listeners),
            (find_by_port, "connections", lambda _: []),
            (find_by_port, "network", lambda: Network(f"net:[{host.agent_in}]", frozenset())),
            (find_by_port, "who_uses", lambda *_: ""),
            (find_by_port, "holders", host.holders),
            (port_holders, "recent_holders", lambda inodes, _: (host.holders(inodes), 0.0, 0.0)),
            (port_holders, "suspected", lambda *_: ""),
            (port_holders, "connections", lambda _: []),
            (port_holders, "is_activator", lambda _: False),
            (pids, "activated", lambda _: None),
        ):
            stack.enter_context(patch.object(where, name, work))
        yield


def finder_of() -> PortFinder:
    return PortFinder(PORT, "127.0.0.1", SystemClock())


def happen(host: Host, what: str, which: int) -> None:
    """Let one thing happen to the app, to somebody else, or to the agent."""
    ours = sorted(host.living())
    match what:
        case "forks for a connection" if ours:
            host.fork(ours[which % len(ours)])
            host.close(host.last)
        case "closes" if ours:
            host.close(ours[which % len(ours)])
        case "opens anew" if ours:
            host.open(ours[which % len(ours)])
        case "agent moves":
            host.agent_in = 1 + which
        case "agent comes back":
            host.agent_in = HOME
        case _:
            act(host, what, which)


def _shown(host: Host, running: Process) -> set[int]:
    """Return who is seen with a living app: its processes, and what is below them."""
    found = {pid for pid, _ in running.pids}
    return found.union(*(below(host, pid) for pid in found))


@settings(max_examples=400, deadline=None)
@given(st.lists(step, max_size=40))
def test_exited_means_that_nobody_lives_and_the_network_is_that_one(
    steps: list[tuple[str, int]],
) -> None:
    """Whoever was seen keeps the app from being gone; in another network nothing is an exit."""
    host = Host()
    with governed_by(host):
        finder = finder_of()
        first = finder.look(None).running
        assert first is not None
        was, seen = first, {MASTER}
        for what, which in steps:
            happen(host, what, which)
            if what == "agent forgets":
                finder, seen = finder_of(), {pid for pid, _ in was.pids}
            presence = finder.look(was)
            was = presence.running or was  # before "drained", the next one is drained like the last
            if host.agent_in != HOME:
                assert not presence.exited, (presence, host)
                continue
            if presence.running and not presence.exited:
                seen |= _shown(host, presence.running)
            gone = presence.exited and not presence.left and not presence.running
            assert not (gone and host.living() & seen), (presence, host)
            if not host.living():
                assert gone, (presence, host)
        for pid in host.living():
            host.end(pid)
        assert not finder.look(was).exited or host.agent_in == HOME
        host.agent_in = HOME
        presence = finder.look(was)
        assert (presence.exited, presence.left) == (True, ""), (presence, host)


@settings(max_examples=200, deadline=None)
@given(st.lists(step, max_size=20), st.integers(1, 5))
def test_who_listens_in_another_network_is_nobodys_successor(
    steps: list[tuple[str, int]], network: int
) -> None:
    """The app ended while the agent was elsewhere: unknown there, and exited at home."""
    host = Host()
    with governed_by(host):
        was = finder_of().look(None).running
        assert was is not None
        for what, which in steps:
            happen(host, what, which)
        for pid in host.living():
            host.end(pid)
        host.agent_in = network
        there = finder_of().look(was)
        assert (there.exited, there.running, there.nobody) == (False, None, False)
        assert "another network namespace" in there.note
        host.agent_in = HOME
        assert finder_of().look(was).exited
