"""The stack that is described in compose, or a part of it, as a rolling deploy sees it."""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from compose.clusters import Cluster, etcd_cluster
from compose.fronts import Fronts
from compose.haproxy import ByHaproxy
from compose.places import CONSULS, FRONTS, NAMES, REDIS, Place, agent_of
from compose.processes import Processes, free_net
from compose.shop.counter import Commands
from deregister_agent.cli.client import AgentAddress, AgentAnswer, AgentClient
from deregister_agent.net.fetcher import FetchError
from tests.servers.child import wait_until

EVERY, HAPROXY = "all three", "HAProxy"
CONSUL_CLUSTER, ETCD_CLUSTER = "Consul cluster", "etcd cluster"
PARTS = {
    **{front: (front,) for front in FRONTS},
    EVERY: FRONTS,
    HAPROXY: (),
    CONSUL_CLUSTER: ("Consul",),
    ETCD_CLUSTER: ("etcd",),
}
"""The parts of the stack that run, by what a row of the table goes through."""
START = 60.0  # seconds until every instance is listed


class Shops(ABC):
    """The instances' processes, and what each of them wrote into its ledger."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledgers: dict[str, list[Path]] = {name: [] for name in NAMES}

    def next_ledger(self, name: str) -> Path:
        """Return the file for what the next process of an instance will have had in hand."""
        self.ledgers[name].append(self.folder / f"{name}.{len(self.ledgers[name])}.ledger")
        return self.ledgers[name][-1]

    @abstractmethod
    def start(self, name: str) -> None:
        """Start the next process of an instance, and return once it accepts connections."""

    @abstractmethod
    def kill(self, name: str) -> None:
        """Kill it as hard as can be: what it has in hand is lost."""


class Plain(Shops):
    """Processes of this machine."""

    def __init__(self, processes: Processes) -> None:
        super().__init__(Path(processes.place.root))
        self._processes = processes

    def start(self, name: str) -> None:
        """Start it; what it takes for its ledger is a link to the next one."""
        link = Path(self._processes.place.scratch(name, "ledger"))
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(self.next_ledger(name))
        self._processes.start(name)

    def kill(self, name: str) -> None:
        """Kill it."""
        self._processes.kill(name)


class ByInstance(AgentClient):
    """Several agents as one: asks the one that the instance in the path belongs to."""

    def __init__(self, clients: Mapping[str, AgentClient]) -> None:
        self._clients = clients

    def get(self, path: str, wait: float | None = None, **params: int) -> AgentAnswer:
        """Ask."""
        return self._clients[path.split("/")[3]].get(path, wait, **params)

    def post(self, path: str, body: Mapping[str, object]) -> AgentAnswer:
        """Ask for a change."""
        return self._clients[path.split("/")[3]].post(path, body)


@dataclass(frozen=True, slots=True)
class Stack:
    """All of it, running; *counts* tells what Redis has counted, and *agent* is all agents."""

    place: Place
    counts: Callable[[], tuple[int, Mapping[str, int]]]
    shops: Shops
    front: Fronts
    agent: AgentClient


@dataclass(frozen=True, slots=True)
class Local(Stack):
    """The same as processes of this machine; *cluster* is etcd, where it is one."""

    processes: Processes
    cluster: Cluster | None = None

    def start_agents(self) -> None:
        """Start the agents, or start them again, and return once each accepts connections."""
        for agent in self.place.agents:
            self.processes.start(agent)

    def pid(self, name: str) -> int:
        """Return the process of a service."""
        return self.processes.children[name].pid


@contextmanager
def stack(kind: str, *, waits: bool = False, deadline: float = 120.0) -> Iterator[Local]:
    """Run what a row of that kind goes through; the agents are there and not yet started."""
    with ExitStack() as last:
        place = Place(free_net(), parts=PARTS[kind], deadline=deadline, waits=waits)
        cluster = None
        if kind == CONSUL_CLUSTER:
            place = replace(place, consuls=len(CONSULS))
        if kind == ETCD_CLUSTER:
            cluster = last.enter_context(etcd_cluster())
            place = replace(place, members=cluster.urls)
        here = last.enter_context(running(place, proxied=kind == HAPROXY))
        yield replace(here, cluster=cluster)


@contextmanager
def running(place: Place, *, proxied: bool = False) -> Iterator[Local]:
    """Run a place in a folder of its own, but for its agents and its load."""
    with ExitStack() as last:
        folder = Path(last.enter_context(tempfile.TemporaryDirectory(prefix="stack-")))
        folder.chmod(0o755)  # Nginx' workers are somebody else, where its master is root
        place = replace(place, root=str(folder))
        processes = Processes(place)
        last.callback(processes.close)
        shops = Plain(processes)
        for name in processes.services:
            if name in NAMES:
                shops.start(name)
            elif name not in (*place.agents, "load"):
                processes.start(name)
        others = [last.enter_context(ByHaproxy(place))] if proxied else []
        front = Fronts(place, *others)
        clients = {
            name: AgentClient(AgentAddress(f"unix:{place.socket(agent_of(name))}"))
            for name in NAMES
        }
        counts = last.enter_context(Commands(REDIS, place.at("redis"))).counted
        here = Local(place, counts, shops, front, ByInstance(clients), processes)
        wait_until(lambda: _is_listed(here), "every instance is listed", limit=START)
        yield here


def _is_listed(here: Local) -> bool:
    with suppress(FetchError):
        return here.front.list_all()
    return False
