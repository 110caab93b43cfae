"""A service in etcd, and an agent with real loops over it, for the tests of the etcd registry."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deregister_agent.demo.stage import free_ports
from deregister_agent.engine.agent import Agent
from deregister_agent.engine.instance_loop import InstanceLoop
from deregister_agent.engine.knowledge import InstanceSetup
from deregister_agent.host.clock import SystemClock
from deregister_agent.host.process_finder import ProbeMark
from deregister_agent.journal.journal import Journal
from deregister_agent.model import Instance, Phase, Policy, StopRequest
from deregister_agent.ports import Notifier, ReadyCheck, Registry
from deregister_agent.registries.etcd.registry import Etcd as EtcdRegistry
from deregister_agent.registries.etcd.registry import Options, build
from tests.fakes import FakeProbe
from tests.servers.etcd import Etcd

POLICY = Policy(deadline=90.0, quiet=0.05, restore_deadline=90.0, min_others=0)


def registry(endpoints: Sequence[str], port: int, **options: Any) -> EtcdRegistry:
    """Return the registry of the instance at 127.0.0.1:*port*, as a configuration would."""
    given = {"kind": "etcd", "endpoints": list(endpoints)} | options
    instance = Instance(f"orders-{port}", "orders", "127.0.0.1", port)
    return build(Options.model_validate_json(json.dumps(given)), instance)


class Orders:
    """A service with instances that write plain addresses below a prefix of its own."""

    def __init__(self, node: Etcd, count: int = 1) -> None:
        self.node = node
        self.ports = free_ports(count)
        self.prefix = f"orders-{self.ports[0]}.rpc"
        self.lease = node.grant(600)

    def key(self, n: int = 0) -> str:
        """Return the key of instance *n*."""
        return f"{self.prefix}/{self.ports[n]}"

    def register(self, n: int = 0, *, lease: str | None = None, at: Etcd | None = None) -> None:
        """Write its key, as its app would."""
        (at or self.node).put(
            self.key(n), f"127.0.0.1:{self.ports[n]}", self.lease if lease is None else lease
        )

    def registry(self, n: int = 0, **options: Any) -> EtcdRegistry:
        """Return the registry for instance *n*."""
        endpoints = options.pop("endpoints", [self.node.url])
        return registry(endpoints, self.ports[n], **({"prefix": self.prefix} | options))


class Loop:
    """One instance of a running agent, and its app's probe."""

    def __init__(self, loop: InstanceLoop, probe: FakeProbe) -> None:
        self.loop, self.probe = loop, probe

    def stop_traffic(self) -> None:
        """Ask for a drain."""
        self.loop.stop_traffic(StopRequest(reason="test", asked_by="test"))

    def reaches(self, *phases: Phase, limit: float = 90.0) -> Phase:
        """Wait until the drain is in one of the phases."""
        drain = self.loop.wait(lambda drain: drain.phase in phases, limit)
        assert drain.phase in phases, self.loop.status()
        return drain.phase

    def says(self, part: str, limit: float = 60.0) -> None:
        """Wait until what is in the way has *part* in it."""
        end = time.monotonic() + limit
        while part not in "\n".join(self.loop.status().blocking):
            assert time.monotonic() < end, self.loop.status()
            time.sleep(0.02)


@contextmanager
def agent(
    folder: Path,
    registries: Sequence[Registry],
    policy: Policy = POLICY,
    ready: Sequence[ReadyCheck] = (),
) -> Iterator[list[Loop]]:
    """Run an agent with an instance for each registry, until the block ends."""
    clock = SystemClock()
    probes = [FakeProbe() for _ in registries]
    setups: list[tuple[InstanceSetup, Mapping[str, Notifier]]] = []
    for n, (one, probe) in enumerate(zip(registries, probes, strict=True)):
        probe.mark = f"process-{n}"
        instance = Instance(f"orders-{n}", "orders", "127.0.0.1", 1 + n)
        setup = InstanceSetup(instance, policy, [one], [probe], ProbeMark(clock), ready)
        setups.append((setup, {}))
    made = Agent(Journal(folder / "journal.db", clock), clock, setups)
    made.start()
    try:
        yield [Loop(made.instances[f"orders-{n}"], probe) for n, probe in enumerate(probes)]
    finally:
        made.stop()


def until(condition: Callable[[], object], what: str, limit: float = 30.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"never came true: {what}"
        time.sleep(0.01)
