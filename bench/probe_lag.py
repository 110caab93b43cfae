"""
How soon a drain ends after the end of the work, with each probe and its real source.

    python -m bench.probe_lag [--json]

From the end of the last piece of work to "drained", without settle (0), quiet, the time by
which the probe is configured to distrust its source (``lag``, ``still``), and the time by which
the source itself was behind: it is asked directly, again and again, in the same run. When the
work ends, relative to the readings, is random and seeded.
"""

import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.table import Row, percentile, report
from deregister_agent.cli.client import AgentClient
from deregister_agent.demo.stage import running_agent
from tests.held_work import Opened, Stand, stands

RUNS = 40
FEWER = 12  # runs where one takes many seconds, because the source is late
QUIET = 0.2
SPREAD = 0.1  # seconds within which the work ends, by chance: some readings
PAUSE = 0.003  # between two questions to the source
GOAL = 150.0  # ms

_CONFIG = """
[agent]
journal = "{folder}/journal.db"
[server]
listen = ["unix:{folder}/agent.sock"]
[[instance]]
name = "web"
service = "web"
port = {port}
quiet = {quiet}
min_others = 0
process = {{ by = "probe" }}
[[instance.registry]]
kind = "file"
path = "{folder}/targets.json"
[[instance.probe]]
{probe}
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One drain: what is left after everything that has to be waited for, and the source's lag."""

    beyond: float  # seconds
    behind: float


def written(value: Any) -> str:
    """Return *value* as TOML in one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {written(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(written, value)) + "]"
    return json.dumps(value)


@contextmanager
def stage(open_stand: Callable[[Path], Opened]) -> Iterator[tuple[AgentClient, Stand]]:
    """Run an agent beside one stand."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        (folder / "app").mkdir()
        with open_stand(folder / "app") as stand:
            targets = [{"targets": [f"127.0.0.1:{stand.port}"]}]
            (folder / "targets.json").write_text(json.dumps(targets))
            table = "\n".join(f"{key} = {written(value)}" for key, value in stand.table.items())
            text = _CONFIG.format(folder=folder, port=stand.port, quiet=QUIET, probe=table)
            with running_agent(folder, text) as agent:
                yield agent, stand


def runs(agent: AgentClient, stand: Stand) -> list[Run]:
    """Drain again and again."""
    chance = random.Random(1)
    count = FEWER if stand.late else RUNS
    return [_drain(agent, stand, chance.uniform(0, SPREAD)) for _ in range(count)]


def _drain(agent: AgentClient, stand: Stand, pause: float) -> Run:
    stand.begin()
    agent.post("/stop-traffic", {})
    held = [f"{count} {kind}" for kind, count in stand.in_hand.items() if count]
    _until(lambda: ", ".join(held) in str(agent.get("/traffic-drained").body.get("blocking")))
    time.sleep(pause)
    drained: list[float] = []
    waiting = threading.Thread(target=_wait, args=(agent, drained))
    waiting.start()
    asked: list[float] = []
    asking = threading.Thread(target=_ask, args=(stand, asked))
    asking.start()
    ended = stand.end()
    asking.join()
    waiting.join()
    agent.post("/start-traffic", {})
    agent.get("/traffic-started", wait=30)
    behind = max(0.0, asked[0] - ended)
    return Run(drained[0] - ended - QUIET - stand.late - behind, behind)


def _wait(agent: AgentClient, drained: list[float]) -> None:
    answer = agent.get("/traffic-drained", wait=60)
    drained.append(time.monotonic())
    if answer.status != 200:
        raise RuntimeError(f"not drained: {answer.body}")


def _ask(stand: Stand, asked: list[float]) -> None:
    """Ask the source itself until it tells of nothing; keep when it was asked that time."""
    while True:
        at = time.monotonic()
        if not any(stand.counts().values()):
            asked.append(at)
            return
        time.sleep(PAUSE)


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError("the drain was not held by the work")
        time.sleep(0.005)


def measure() -> list[Row]:
    """Measure each probe in turn."""
    rows = []
    for name, open_stand in stands().items():
        with stage(open_stand) as (agent, stand):
            found = runs(agent, stand)
        beyond = [run.beyond * 1000 for run in found]
        behind = statistics.median(run.behind for run in found) * 1000
        rows += [
            Row(f"{name}: median of {len(found)}", statistics.median(beyond), "ms"),
            Row(f"{name}: p99", percentile(beyond, 0.99), "ms", GOAL),
            Row(f"{name}: subtracted as the source's own, median", behind, "ms"),
        ]
    return rows


if __name__ == "__main__":
    report(measure)
