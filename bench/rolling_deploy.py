"""
The experiment: rolling deploys under load, ours and what people do today, in one run.

``python -m bench.rolling_deploy [--json] [--only NAME ...] [--rounds N] [--html FILE]``, or
``--soak REQUESTS [--rate N] [--through NAME]``: deploys until so many have been sent.
Needs real servers: ``python -m tests.servers fetch``. All of it takes about forty minutes.
"""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.faults import FAULTS, under
from bench.pages import page
from bench.scale import growth
from bench.soak import Loss, soak
from bench.table import Row
from bench.thousand import thousand
from compose.alternatives import WAYS, Way
from compose.places import QUIET, Place
from compose.rollout import Result, Took, roll, run
from compose.stack import EVERY, PARTS

HEAD = (
    f"{'':48} {'through':9} {'sent':>6} {'lost':>5} {'s/instance':>10} {'ideal':>6} "
    f"{'beyond ideal: mean, worst':>26}  lost, by cause"
)
Experiment = Callable[[int], Result]


def _thousand(way: Way) -> Experiment:
    def measure(rounds: int) -> Result:
        del rounds
        result = thousand(way.slug)
        what = f"1000 of 1000: counter {result.counter} of {result.accepted}"
        return replace(result, way=replace(way, what=what))

    return measure


def _way(way: Way) -> Experiment:
    return lambda rounds: run(way, roll(way, rounds))


def experiments() -> dict[str, Experiment]:
    """Return every experiment that ends in a row of the table, by its name, in order."""
    ours = [way for way in WAYS if way.ours]
    found = {f"thousand-{way.slug.removeprefix('ours-')}": _thousand(way) for way in ours}
    found |= {way.slug: _way(way) for way in WAYS}
    return found | {f"fault-{name}": under(name) for name in FAULTS}


def line(result: Result) -> str:
    """Return the row as the table shows it."""
    way, over = result.way, result.overheads or [0.0]
    causes = [f"{count} {cause}" for cause, count in sorted(result.lost.items()) if count]
    twice = {"done twice": result.done_twice, "begun twice": result.begun_twice}
    more = [f"{count} {what}" for what, count in twice.items() if count]
    if result.retried:
        more.append(f"{result.retried} GETs sent again on a new connection")
    ideal = result.seconds - sum(over) / len(over)
    notes = [", ".join(causes), *more, *result.notes, *_proxy_note(result)]
    return (
        f"{way.what:48} {way.front:9} {len(result.sent):6} {result.lost_in_all:5} "
        f"{result.seconds:10.1f} {ideal:6.1f} {sum(over) / len(over):18.2f}, {max(over):6.2f}"
        f"  {'; '.join(note for note in notes if note)}"
    )


def _proxy_note(result: Result) -> list[str]:
    """Say what is left of the overhead when old workers of Nginx count as work in hand."""
    if result.way.front not in ("Nginx", EVERY) or not result.way.ours or not result.replaced:
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
        "begun_twice": result.begun_twice,
        "retried_on_kept_connections": result.retried,
        "slowest_answer_beyond_its_work": round(result.slowest, 3),
        "sender_behind_its_plan": round(result.late, 3),
        "seconds": [round(one.seconds, 3) for one in result.replaced],
        "overhead": [round(one, 3) for one in result.overheads],
        "overhead_beyond_proxy": [round(one.beyond_proxy, 3) for one in result.replaced],
        "overhead_goal": _goal(result.way) if result.way.ours else None,
        "drains": [_drain(one) for one in result.replaced],
        "notes": list(result.notes),
    }


def _goal(way: Way) -> float:
    return Place("", parts=PARTS[way.front]).settle + QUIET + 0.1


def _drain(one: Took) -> dict[str, Any]:
    """Return when what happened, in seconds after the first command."""
    times = {"app idle": one.idle, "proxy clear": one.clear, "dead": one.ended}
    times |= {kind: at for at, kind in one.marks}
    return {"name": one.name, **{what: round(at - one.began, 3) for what, at in times.items()}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for; return 0 if our own rows lost nothing."""
    every = experiments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends all that was started
    options = _parser([*every, "scale"]).parse_args(arguments)
    if options.soak:
        return _soak(options)
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
        print(json.dumps({"rows": rows, "scale": _triples(sizes)}))
    ours = [result for result in results.values() if result.way.ours]
    return 0 if all(result.is_whole for result in ours) else 1


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=1, help="deploys of the fleet in each row")
    parser.add_argument("--html", type=Path, help="write plots into this file")
    parser.add_argument("--soak", type=int, metavar="REQUESTS", help="deploy until so many")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second, with --soak")
    ours = [way.slug for way in WAYS if way.ours]
    parser.add_argument("--through", choices=ours, default="ours-every", help="with --soak")
    return parser


def _soak(options: argparse.Namespace) -> int:
    """Run until something is lost, or nothing was."""
    try:
        rows = soak(options.soak, rate=options.rate, through=options.through).rows()
    except Loss as e:
        print(e, file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({"soak": _triples(rows)}))
    else:
        print("\n".join(row.line() for row in rows))
    return 0


def _triples(rows: Sequence[Row]) -> list[list[str | float]]:
    return [[row.what, row.value, row.unit] for row in rows]


if __name__ == "__main__":
    sys.exit(main())
