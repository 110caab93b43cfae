"""A whole drain with each probe and its real source: held by exactly the work that is in hand."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deregister_agent.config.backends import find
from deregister_agent.engine.agent import Agent
from deregister_agent.engine.instance_loop import InstanceLoop
from deregister_agent.engine.knowledge import InstanceSetup
from deregister_agent.host.clock import SystemClock
from deregister_agent.host.process_finder import ProbeMark
from deregister_agent.journal.journal import Journal
from deregister_agent.model import Instance, Outcome, Phase, Policy, Reading, StopRequest
from deregister_agent.ports import IdleProbe
from deregister_agent.probes import tcp
from deregister_agent.registries import file
from tests.held_work import Stand, stands
from tests.loops import LIMIT, eventually, until

QUIET = 0.2
READINGS = 8  # that must be made while the work is held


class Remembering(IdleProbe):
    """Passes on what a probe says, and remembers it with the moment of the answer."""

    def __init__(self, probe: IdleProbe) -> None:
        self.name, self._probe = probe.name, probe
        self.said: list[tuple[float, Reading]] = []

    def read(self, wait: float) -> Reading:
        """Ask the probe."""
        reading = self._probe.read(wait)
        self.said.append((time.monotonic(), reading))
        return reading


@contextmanager
def draining(folder: Path, stand: Stand) -> Iterator[tuple[InstanceLoop, Remembering, Agent]]:
    """Run an agent with the stand's probe and a file that lists the instance."""
    instance = Instance("web", "web", "127.0.0.1", stand.port)
    backend = find("probes", stand.table["kind"])
    options = backend.Options.model_validate_json(json.dumps(stand.table))
    probe = Remembering(backend.build(options, instance))
    path = folder / "targets.json"
    path.write_text(json.dumps([{"targets": [f"127.0.0.1:{stand.port}"]}]))
    listed = file.build(file.Options(kind="file", path=path), instance)
    policy, clock = Policy(deadline=LIMIT, quiet=QUIET, min_others=0), SystemClock()
    setup = InstanceSetup(instance, policy, [listed], [probe], ProbeMark(clock))
    agent = Agent(Journal(folder / "journal.db", clock), clock, [(setup, {})])
    agent.start()
    try:
        yield agent.instances["web"], probe, agent
    finally:
        agent.stop()


@pytest.fixture(autouse=True)
def _clients_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the app in this process for one of others: the tcp probe leaves out its own."""
    monkeypatch.setattr(tcp, "own_sockets", frozenset)


@pytest.mark.parametrize("name", stands())
def test_the_drain_is_held_by_what_is_in_hand(tmp_path: Path, name: str) -> None:
    """It names exactly the work, goes on as long as there is any, and ends after its end."""
    (tmp_path / "app").mkdir()
    with (
        stands()[name](tmp_path / "app") as stand,
        draining(tmp_path, stand) as (loop, probe, agent),
    ):
        stand.begin()
        busy = ", ".join(f"{count} {kind}" for kind, count in stand.in_hand.items() if count)
        loop.stop_traffic(StopRequest())
        until(loop, lambda drain: drain.phase is Phase.DRAINING, "draining")
        held = f"{busy} in flight ({probe.name})"
        eventually(lambda: loop.status().blocking == (held,), held)
        met = len(probe.said)
        eventually(lambda: len(probe.said) >= met + READINGS, "more readings")
        assert loop.drain.phase is Phase.DRAINING
        assert {tuple(r.in_flight.items()) for _, r in probe.said[met:]} == {
            tuple(stand.in_hand.items())
        }
        released = time.monotonic()
        ended = stand.end()
        drain = until(loop, lambda drain: drain.outcome is not None, "an outcome")
        assert drain.outcome is Outcome.DRAINED
        found = agent.journal.drain("web", drain.id)
        assert found is not None
        phases = ["withdrawing", "settling", "draining", "drained"]
        assert [event.kind for event in found[1]] == phases
        said = probe.said[met:]
        assert not [r for at, r in said if at < min(released, ended) and r.idle]
        idle_for = [at for at, r in said if r.idle]
        assert idle_for[-1] - idle_for[0] >= QUIET
        assert idle_for[-1] - ended >= QUIET + stand.late
