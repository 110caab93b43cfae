"""
The experiment: rolling deploys under load, ours and what people do today, in one run.

``python -m bench.rolling_deploy [--json] [--only NAME ...] [--rounds N] [--html FILE]``.
Needs real servers: ``python -m tests.servers fetch``. All of it takes about half an hour.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.alternatives import WAYS, Way
from bench.deploy import Result, roll, run
from bench.faults import FAULTS, under
from bench.pages import page
from bench.scale import growth
from bench.stack import QUIET
from bench.table import Row
from bench.thousand import thousand

HEAD = (
    f"{'':48} {'through':8} {'sent':>6} {'lost':>5} {'s/instance':>10} {'ideal':>6} "
    f"{'beyond ideal: mean, worst':>26}  lost, by cause"
)
SETTLE = {"Consul": 1.5, "etcd": 1.5, "Nginx": 0.0, "HAProxy": 0.0}
Experiment = Callable[[int], Result]


def _thousand(way: Way) -> Experiment:
    def measure(rounds: int) -> Result:
        del rounds
        result = thousand(way.slug)
        what = f"1000 of 1000: counter {result.counter} of {result.accepted}"
        return replace(result, way=replace(way, what=what))

    return measure


def _way(way: Way) -> Experiment:
    return lambda rounds: run(way, roll(way, rounds if way.ours else 1))


def experiments() -> dict[str, Experiment]:
    """Return every experiment that ends in a row of the table, by its name, in order."""
    ours = [way for way in WAYS if way.ours]
    found = {f"thousand-{way.front.lower()}": _thousand(way) for way in ours}
    found |= {way.slug: _way(way) for way in WAYS}
    return found | {f"fault-{name}": under(name) for name in FAULTS}


def line(result: Result) -> str:
    """Return the row as the table shows it."""
    way, over = result.way, result.overheads or [0.0]
    causes = ", ".join(f"{count} {cause}" for cause, count in sorted(result.lost.items()))
    causes += f"; {result.done_twice} done twice" if result.done_twice else ""
    ideal = result.seconds - sum(over) / len(over)
    notes = [causes, *result.notes, *_proxy_note(result)]
    return (
        f"{way.what:48} {way.front:8} {len(result.sent):6} {result.lost_in_all:5} "
        f"{result.seconds:10.1f} {ideal:6.1f} {sum(over) / len(over):18.2f}, {max(over):6.2f}"
        f"  {'; '.join(note for note in notes if note)}"
    )


def _proxy_note(result: Result) -> list[str]:
    """Say what is left of the overhead when old workers of Nginx count as work in hand."""
    if result.way.front != "Nginx" or not result.way.ours or not result.replaced:
        return []
    worst = max(one.beyond_proxy for one in result.replaced)
    return [f"at worst {worst:.2f} beyond what its old workers still had in hand"]


def summary(name: str, result: Result) -> dict[str, Any]:
    """Return the row for ``--json``; overheads have their goal beside them."""
    return {
        "name": name,
        "what": result.way.what,
        "through": result.way.front,
        "ours": result.way.ours,
        "sent": len(result.sent),
        "lost": dict(result.lost),
        "accepted": result.accepted,
        "counter": result.counter,
        "done_twice": result.done_twice,
        "retried_on_kept_connections": result.retried,
        "seconds": [round(one.seconds, 3) for one in result.replaced],
        "overhead": [round(one, 3) for one in result.overheads],
        "overhead_beyond_proxy": [round(one.beyond_proxy, 3) for one in result.replaced],
        "overhead_goal": SETTLE[result.way.front] + QUIET + 0.1 if result.way.ours else None,
        "notes": list(result.notes),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for; return 0 if our own rows lost nothing."""
    every = experiments()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=[*every, "scale"], help=", ".join(every)
    )
    parser.add_argument("--rounds", type=int, default=1, help="deploys of the fleet, in our rows")
    parser.add_argument("--html", type=Path, help="write plots into this file")
    options = parser.parse_args(arguments)
    chosen = options.only or [*every, "scale"]
    said = sys.stderr if options.json else sys.stdout
    if chosen != ["scale"]:
        print(HEAD, file=said)
    results: dict[str, Result] = {}
    for name in (name for name in every if name in chosen):
        results[name] = every[name](options.rounds)
        print(line(results[name]), file=said, flush=True)
    sizes: list[Row] = []
    for row in growth() if "scale" in chosen else ():
        sizes.append(row)
        print(row.line(), file=said, flush=True)
    if options.html:
        options.html.write_text(page(results))
    if options.json:
        rows = [summary(name, result) for name, result in results.items()]
        scale = [[row.what, row.value, row.unit] for row in sizes]
        print(json.dumps({"rows": rows, "scale": scale}))
    ours = [result for result in results.values() if result.way.ours]
    return 1 if any(result.lost_in_all or result.done_twice for result in ours) else 0


if __name__ == "__main__":
    sys.exit(main())
