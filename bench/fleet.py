"""
Many agents against one registry: what a drain costs it, and how that grows with the fleet.

Each agent is real (loop, journal, threads, connections of its own) and has one instance;
only its app is simulated, and idle. Several share a process, as 500 would not fit else.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Any, Self

from bench.table import Row, percentile
from deregister_agent.errors import AgentError
from deregister_agent.host.sockets import connections
from deregister_agent.model import Drain, Instance, Phase, Policy, StopRequest
from deregister_agent.net import pools
from deregister_agent.ports import Registry
from deregister_agent.registries import consul, etcd
from tests.loops import Running, made_of
from tests.servers.consul import Consul
from tests.servers.consul import consul as consul_server
from tests.servers.etcd import Etcd
from tests.servers.etcd import etcd as etcd_server

SIZES = (10, 50, 100, 200, 500)
PROCESSES = 4
GROUP = 10  # instances of one service
QUIET = 0.5
LIMIT = 240.0  # seconds after which a drain expires
STAGGER = 0.1  # seconds from one drain to the next, where they are not all at once
SETTLED = 5.0  # seconds for the agents' first looks
WATCHED = 4.0  # seconds for which a steady load is measured
SAMPLE = 0.5  # seconds over which a peak is taken
NAMED = {"consul": "Consul", "etcd": "etcd"}
TICK = 100  # clock ticks a second in /proc/PID/stat (man 2 sysconf, _SC_CLK_TCK on Linux)
COUNTED: dict[str, Any] = {
    "telemetry": {"prometheus_retention_time": "24h", "disable_hostname": True},
    "limits": {"http_max_conns_per_client": 10_000},
}
"""
Let Consul count its requests, and lift its limit of 200 connections of one address: here all
instances have one address, which on many hosts they would not.
"""

Times = list[float]
"""Seconds that each drain took."""


@dataclass(frozen=True, slots=True)
class Job:
    """One agent: its instance, and where that is registered."""

    number: int
    kind: str
    url: str

    @property
    def instance(self) -> Instance:
        """Return the instance, one of GROUP of its service."""
        service = f"fleet-{self.number // GROUP}"
        address = f"10.9.{self.number // 250}.{self.number % 250}"  # of its own: no twins
        return Instance(f"fleet-{self.number}", service, address, 8080)

    def registry(self) -> Registry:
        """Return the registry, with connections that no other agent uses."""
        pools.shared.clear()  # each agent would be a process of its own
        if self.kind == "consul":
            return consul.build(consul.Options(kind="consul", url=self.url), self.instance)
        options = etcd.Options(
            kind="etcd",
            endpoints=(self.url,),
            key=key_of(self.instance),
            prefix=f"/{self.instance.service}/",
        )
        return etcd.build(options, self.instance)


def key_of(instance: Instance) -> str:
    """Return the key of an instance in etcd."""
    return f"/{instance.service}/{instance.name}"


def work(pipe: Connection, jobs: Sequence[Job], folder: Path) -> None:
    """Run agents in this process; drain them when told to, each so many seconds later."""
    policy = Policy(deadline=LIMIT, quiet=QUIET, min_others=0)
    agents = []
    for job in jobs:
        own = folder / str(job.number)
        own.mkdir()
        agents.append(made_of(own, job.instance, [job.registry()], policy))
        agents[-1].agent.start()
    pipe.send(len(agents))
    while (delays := pipe.recv()) is not None:
        with ThreadPoolExecutor(len(agents)) as pool:
            pipe.send(list(pool.map(_drain, agents, delays)))


def _drain(one: Running, delay: float) -> float:
    """Drain an instance, *delay* seconds from now; return the seconds it took, or LIMIT."""
    time.sleep(delay)
    began = time.monotonic()
    one.loop.stop_traffic(StopRequest(reason="bench"))
    drain = one.loop.wait(_is_drained, LIMIT)
    return min(LIMIT, time.monotonic() - began) if _is_drained(drain) else LIMIT


def _is_drained(drain: Drain) -> bool:
    return drain.phase is Phase.DRAINED


class Fleet:
    """All the agents, in some processes. Made by fleet()."""

    def __init__(self, pipes: Sequence[Connection], pids: Sequence[int], count: int) -> None:
        self._pipes, self._pids, self._count = pipes, pids, count

    def cpu(self) -> float:
        """Return the seconds of CPU that all of them have used."""
        return sum(map(cpu_of, self._pids))

    def drain(self, stagger: float) -> Times:
        """Drain them all, one every *stagger* seconds; return how long each took."""
        delays = [number * stagger for number in range(self._count)]
        for share, pipe in enumerate(self._pipes):
            pipe.send(delays[share :: len(self._pipes)])
        return [seconds for pipe in self._pipes for seconds in pipe.recv()]


@contextmanager
def fleet(jobs: Sequence[Job]) -> Iterator[Fleet]:
    """Run an agent for each job, until the block ends."""
    spawn = multiprocessing.get_context("spawn")
    memory = Path("/dev/shm")
    running = []
    with tempfile.TemporaryDirectory(
        prefix="fleet-", dir=memory if memory.is_dir() else None
    ) as name:
        try:
            for share in range(PROCESSES):
                ours, theirs = spawn.Pipe()
                arguments = (theirs, jobs[share::PROCESSES], Path(name))
                process = spawn.Process(target=work, args=arguments, daemon=True)
                process.start()
                running.append((process, ours))
            for _, pipe in running:
                pipe.recv()
            pids = [process.pid for process, _ in running if process.pid is not None]
            yield Fleet([pipe for _, pipe in running], pids, len(jobs))
        finally:
            for process, _ in running:
                process.kill()
                process.join()


class Peak:
    """The most that a counter rose in a second, sampled while the block runs."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count, self._over = count, Event()
        self._thread = Thread(target=self._watch)
        self.value = 0.0

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        before, began = self._count(), time.monotonic()
        while not self._over.wait(SAMPLE):
            with suppress(AgentError):  # too busy to tell: the next sample is over a longer time
                now, ended = self._count(), time.monotonic()
                self.value = max(self.value, (now - before) / (ended - began))
                before, began = now, ended


@dataclass(frozen=True, slots=True)
class Server:
    """A registry that is running: its jobs, and what it has been asked."""

    kind: str
    server: Consul | Etcd
    asked: Callable[[], int]

    def jobs(self, count: int) -> list[Job]:
        """List so many instances in it, and return an agent's job for each."""
        found = [Job(number, self.kind, self.server.url) for number in range(count)]
        for one in (job.instance for job in found):
            if isinstance(self.server, Etcd):
                self.server.put(key_of(one), f"{one.address}:{one.port}")
            else:
                place = {"Address": one.address, "Port": one.port}
                definition = {"ID": one.name, "Name": one.service, **place}
                self.server.ok("PUT", "/v1/agent/service/register", definition)
        return found

    def cpu(self) -> float:
        """Return the seconds of CPU that it has used."""
        return cpu_of(self.server.pid)

    def open(self) -> int:
        """Return how many connections it has; each watch has one of its own."""
        return len(connections(int(self.server.url.rpartition(":")[2])))


@contextmanager
def server_of(kind: str, counts: Callable[[Consul | Etcd], Callable[[], int]]) -> Iterator[Server]:
    """Run a registry of that kind, until the block ends."""
    if kind == "consul":
        with consul_server(**COUNTED) as server:
            yield Server(kind, server, counts(server))
    else:
        with etcd_server("3.5") as node:
            yield Server(kind, node, counts(node))


def measure(server: Server, count: int, stagger: float) -> Iterator[Row]:
    """Drain a fleet, and give out what it took; at once, also how it weighs on the registry."""
    how = f"{NAMED[server.kind]}, {count} agents, {f'{1 / stagger:g}/s' if stagger else 'at once'}"
    with fleet(server.jobs(count)) as agents:
        time.sleep(SETTLED)
        idle = 0.0 if stagger else rate(server.asked) / count
        before = server.asked(), agents.cpu(), server.cpu()
        began = time.monotonic()
        with Peak(server.asked) as peak:
            times = agents.drain(stagger)
        seconds = time.monotonic() - began
        after = server.asked(), agents.cpu(), server.cpu()
        held = 0.0 if stagger else rate(server.asked) / count
        opened = server.open()
    asked, by_agents, by_server = ((b - a) / count for a, b in zip(before, after, strict=True))
    yield Row(f"{how}: until all are drained", seconds, "s")
    yield Row(f"{how}: expired instead", sum(each >= LIMIT for each in times), "")
    yield Row(f"{how}: one drain, median", median(times), "s")
    yield Row(f"{how}: one drain, 99 of 100", percentile(times, 0.99), "s")
    yield Row(f"{how}: requests for each drain", asked, "")
    yield Row(f"{how}: CPU of the agent for each drain", by_agents * 1000, "ms")
    yield Row(f"{how}: CPU of the registry for each drain", by_server * 1000, "ms")
    yield Row(f"{how}: requests a second in all, at the peak", peak.value, "/s")
    if not stagger:
        yield Row(f"{how}: connections in all, while drained", opened, "")
        yield Row(f"{how}: requests a second of each, while drained", held, "/s")
        yield Row(f"{how}: requests a second of each, while serving", idle, "/s")


def cpu_of(pid: int) -> float:
    """Return the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def rate(count: Callable[[], int]) -> float:
    """Return how many more there are in a second, over some seconds."""
    before, began = count(), time.monotonic()
    time.sleep(WATCHED)
    return (count() - before) / (time.monotonic() - began)
