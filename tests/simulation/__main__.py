"""``python -m tests.simulation``: run many worlds, or one of them and follow it."""

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.world import run

AT_ONCE = 50  # seeds that a worker takes at a time


def broken_seeds(seeds: range) -> list[tuple[int, list[str]]]:
    """Run these worlds one after another; return those in which something was broken."""
    found = []
    for seed in seeds:
        try:
            broken = run(seed)
        except Exception as e:  # noqa: BLE001 - a crash of the agent's code is a finding too
            broken = [f"{type(e).__name__}: {e}"]
        if broken:
            found.append((seed, broken))
    return found


def run_many(first: int, many: int, jobs: int) -> Iterator[tuple[int, list[str]]]:
    """Run *many* worlds on *jobs* processes; yield the broken ones as they are found."""
    end = first + many
    pieces = [range(at, min(at + AT_ONCE, end)) for at in range(first, end, AT_ONCE)]
    with ProcessPoolExecutor(jobs) as pool:
        for found in pool.map(broken_seeds, pieces):
            yield from found


def how_to_replay(seed: int) -> str:
    """Return the command that shows what happened in that world."""
    return f"python -m tests.simulation --seed {seed} --trace"


def main() -> int:
    """Run what the arguments ask for; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many worlds")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="how many processes")
    parser.add_argument("--seed", type=int, help="only this world")
    parser.add_argument("--trace", action="store_true", help="tell what happens in it")
    asked = parser.parse_args()
    began = time.monotonic()
    if asked.seed is not None:
        broken = run(asked.seed, print if asked.trace else None)
        found = iter([(asked.seed, broken)] if broken else [])
        many = 1
    else:
        found, many = run_many(asked.first, asked.seeds, asked.jobs), asked.seeds
    bad = 0
    for bad, (seed, broken) in enumerate(found, start=1):  # noqa: B007 - counts them
        print(f"seed {seed}: {'; '.join(broken)}\n    {how_to_replay(seed)}", flush=True)
    took = time.monotonic() - began
    print(f"{many} worlds, {bad} broken, {took:.1f} s ({took / many * 1000:.1f} ms each)")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
