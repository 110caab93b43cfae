"""``deregister-agent demo``: run the demonstration and show its progress."""

import json
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import click

from deregister_agent.cli.client import AgentClient
from deregister_agent.demo.load import Load, LoadTally
from deregister_agent.demo.rollout import replace_one
from deregister_agent.demo.stage import (
    Apps,
    config_text,
    list_in_file,
    running_agent,
    targets_in_file,
)
from deregister_agent.errors import AgentError

NAMES = ("shop-1", "shop-2", "shop-3")
QUIET = 1.0
LEAD = 2.0  # seconds of load before the rolling restart, and after


def main(*, as_json: bool) -> int:
    """Run the demonstration. Return 0 if not one request was lost."""
    with tempfile.TemporaryDirectory(prefix="deregister-demo-") as name:
        result = run(Path(name), live=not as_json)
    click.echo(json.dumps(result) if as_json else summary(result))
    return 0 if result["lost"] == 0 else 1


def run(folder: Path, *, live: bool) -> dict[str, Any]:
    """Replace three apps one after the other under load; return the counts and the drains."""
    apps = Apps(NAMES)
    listed = folder / "shop.json"
    try:
        for name in NAMES:
            apps.start(name)
        registries = list_in_file(listed, apps)
        with running_agent(folder, config_text(folder, apps, registries, QUIET)) as agent:
            return _rolling_restart(agent, apps, listed, live=live)
    finally:
        apps.close()


def _rolling_restart(agent: AgentClient, apps: Apps, listed: Path, *, live: bool) -> dict[str, Any]:
    load = Load(partial(targets_in_file, listed))
    began = time.monotonic()
    with DemoView(agent, load.tally, live=live):
        load.start()
        time.sleep(LEAD)
        drains = [replace_one(agent, name, apps.replace) for name in apps.ports]
        time.sleep(LEAD)
        tally = load.stop()
    return {
        "sent": tally.sent,
        "answered": tally.answered,
        "lost": tally.sent - tally.answered,
        "seconds": round(time.monotonic() - began, 1),
        "drains": drains,
        "losses": [
            {"at": lost.at, "target": lost.target, "cause": lost.cause} for lost in tally.lost
        ],
    }


class DemoView:
    """A view of the instances and the load: redrawn on a terminal, else a line per change."""

    def __init__(self, agent: AgentClient, tally: LoadTally, *, live: bool) -> None:
        self._agent, self._tally, self._live = agent, tally, live
        self._redraw = sys.stdout.isatty()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._phases: dict[str, str] = {}
        self._drawn = 0

    def __enter__(self) -> None:
        if self._live:
            click.echo(
                "Three copies of one service, a client that keeps them busy, a rolling restart."
            )
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._stopping.set()
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(0.1):
            try:
                instances = self._agent.get("/v1/instances").body["instances"]
            except AgentError as e:
                click.echo(e)
                continue
            if self._redraw:
                self._draw(instances)
            else:
                self._tell(instances)

    def _tell(self, instances: list[dict[str, Any]]) -> None:
        for one in instances:
            name, phase = one["instance"]["name"], one["phase"]
            if self._phases.get(name, "serving") != phase:
                click.echo(
                    f"{name}: {self._phases.get(name, 'serving')} -> {phase}   {self._counts()}"
                )
            self._phases[name] = phase

    def _draw(self, instances: list[dict[str, Any]]) -> None:
        lines = [_row(one) for one in instances] + [self._counts()]
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        click.echo(up + "".join(f"\x1b[2K{line}\n" for line in lines), nl=False)
        self._drawn = len(lines)

    def _counts(self) -> str:
        tally = self._tally
        return f"sent {tally.sent}  in flight {tally.in_flight}  lost {len(tally.lost)}"


def _row(one: dict[str, Any]) -> str:
    work = sum(one["in_flight"].values())
    blocking = "; ".join(one["blocking"])[:60]
    return f"  {one['instance']['name']:8} {one['phase']:12} {work:3} in flight  {blocking}"


def summary(result: dict[str, Any]) -> str:
    """Return the result as lines for a person."""
    lines = [f"\nsent {result['sent']}  answered {result['answered']}  lost {result['lost']}"]
    for drain in result["drains"]:
        lines.append(f"\n{drain['instance']}  {drain['outcome']}")
        lines += [f"  {event['at'][11:23]}  {event['kind']}" for event in drain["events"]]
    lines += [
        f"lost at {loss['at']} s on {loss['target']}: {loss['cause']}" for loss in result["losses"]
    ]
    return "\n".join(lines)
