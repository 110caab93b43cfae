"""A real agent in the test's own process: real loop, journal and threads; the rest as given."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from deregister_agent.engine.agent import Agent
from deregister_agent.engine.instance_loop import InstanceLoop
from deregister_agent.engine.knowledge import InstanceSetup
from deregister_agent.host.clock import Clock, SystemClock
from deregister_agent.host.process_finder import ProbeMark
from deregister_agent.journal.history import TimelineEvent
from deregister_agent.journal.journal import Journal
from deregister_agent.model import Drain, Instance, Outcome, Phase, Policy
from deregister_agent.ports import IdleProbe, Notifier, Registry
from tests.fakes import FakeNotifier, FakeProbe

LIMIT = 60.0  # seconds that a test waits for anything
POLICY = Policy(deadline=LIMIT, quiet=0.1, min_others=0)


class Running:
    """One instance under a running agent."""

    def __init__(self, agent: Agent, name: str, probe: FakeProbe, notifier: FakeNotifier) -> None:
        self.agent, self.loop = agent, agent.instances[name]
        self.probe, self.notifier = probe, notifier

    def until(self, *phases: Phase) -> Drain:
        """Wait for one of these phases."""
        return until(self.loop, lambda drain: drain.phase in phases, f"{phases}")

    def outcome(self) -> Outcome | None:
        """Wait for the drain's outcome."""
        return until(self.loop, lambda drain: drain.outcome is not None, "an outcome").outcome

    def phases(self) -> list[str]:
        """Return the timeline of the drain."""
        return [event.kind for event in self._timeline()]

    def events(self, kind: str) -> list[Mapping[str, object]]:
        """Return what the timeline says of each event of that kind."""
        return [event.detail for event in self._timeline() if event.kind == kind]

    def _timeline(self) -> list[TimelineEvent]:
        found = self.agent.journal.drain(self.loop.instance.name, self.loop.drain.id)
        assert found is not None
        return found[1]


def until(
    loop: InstanceLoop, final: Callable[[Drain], bool], what: str, *, limit: float = LIMIT
) -> Drain:
    """Wait until *final* says so of the drain; fail with what blocks it."""
    drain = loop.wait(final, limit)
    assert final(drain), f"never came: {what}; {drain.phase}: {loop.status().blocking}"
    return drain


@contextmanager
def agent_of(
    folder: Path,
    instance: Instance,
    registries: Sequence[Registry],
    policy: Policy = POLICY,
    more: Sequence[Notifier] = (),
) -> Iterator[Running]:
    """Run an agent with one instance, a probe that the test sets and a notifier that listens."""
    running = made_of(folder, instance, registries, policy, more)
    running.agent.start()
    try:
        yield running
    finally:
        running.agent.stop()


@contextmanager
def running_loop(
    folder: Path,
    instance: Instance,
    registries: Sequence[Registry],
    probes: Sequence[IdleProbe],
    policy: Policy = POLICY,
) -> Iterator[InstanceLoop]:
    """Run an agent with one instance and nothing faked but what is given; give its loop."""
    clock = SystemClock()
    setup = InstanceSetup(instance, policy, registries, probes, ProbeMark(clock))
    agent = Agent(Journal(folder / "journal.db", clock), clock, [(setup, {})])
    agent.start()
    try:
        yield agent.instances[instance.name]
    finally:
        agent.stop()


def made_of(
    folder: Path,
    instance: Instance,
    registries: Sequence[Registry],
    policy: Policy = POLICY,
    more: Sequence[Notifier] = (),
    *,
    clock: Clock | None = None,
) -> Running:
    """Make the agent that agent_of() runs."""
    clock, probe, notifier = clock or SystemClock(), FakeProbe(), FakeNotifier()
    notifiers = {each.name: each for each in (notifier, *more)}
    setup = InstanceSetup(
        instance=instance,
        policy=policy,
        registries=registries,
        probes=[probe],
        finder=ProbeMark(clock),
        notifiers={name: each.announces for name, each in notifiers.items()},
    )
    agent = Agent(Journal(folder / "journal.db", clock), clock, [(setup, notifiers)])
    return Running(agent, instance.name, probe, notifier)


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait for *condition*, for LIMIT seconds at most."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, f"never came: {what}"
        time.sleep(0.01)
