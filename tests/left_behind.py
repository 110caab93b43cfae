"""
Kills a run of the tests at random moments, and looks for what it leaves behind.

``python -m tests.left_behind [--times N] [--seed N]``: what is killed is pytest as the shell
sees it, the process that runs the tests, a worker, a guard, or pytest and all workers at once.
Every orphan comes to this process (man 2const PR_SET_CHILD_SUBREAPER), so none is overlooked.
"""

import argparse
import ctypes
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests import guard

SUBSET = (
    "tests/integration/test_etcd_cluster.py",  # network namespaces
    "tests/integration/test_nginx_disk.py",  # mounts
    "tests/integration/test_app_servers.py",  # forks
    "tests/e2e/test_thousand.py",  # the whole stack, under load
)
RUN = (sys.executable, "-m", "pytest", "-n", "3", "-p", "no:cacheprovider", *SUBSET)
EARLIEST, LATEST = 2.0, 40.0  # seconds after the start of a run, at which it is killed
END = 30.0  # seconds in which all must be gone
Tree = Mapping[int, Sequence[str]]
"""The processes below this one, oldest first, by pid: how each was started."""


def tree() -> Tree:
    """Return every process below this one that is not a zombie."""
    found: dict[int, Sequence[str]] = {}
    waiting = [os.getpid()]
    while waiting:
        with suppress(OSError):
            for children in Path(f"/proc/{waiting.pop(0)}/task").glob("*/children"):
                for pid in map(int, children.read_text().split()):
                    waiting.append(pid)
                    if line := Path(f"/proc/{pid}/cmdline").read_bytes():
                        found[pid] = line.decode(errors="replace").rstrip("\0").split("\0")
    return found


def _is_guard(line: Sequence[str]) -> bool:
    return guard.__file__ in line


def _runs_tests(line: Sequence[str]) -> bool:
    return not _is_guard(line) and ("pytest" in line or "import sys;exec" in " ".join(line))


def _of(kind: Callable[[Sequence[str]], bool], chosen: slice) -> Callable[[Tree], Sequence[int]]:
    return lambda all_of_it: [pid for pid, line in all_of_it.items() if kind(line)][chosen]


VICTIMS: Mapping[str, Callable[[Tree], Sequence[int]]] = {
    "pytest as the shell sees it": _of(_runs_tests, slice(1)),
    "the process that runs the tests": _of(_runs_tests, slice(1, 2)),
    "a worker": _of(_runs_tests, slice(2, 3)),
    "pytest and its workers": _of(_runs_tests, slice(None)),
    "the first guard": _of(_is_guard, slice(1)),
}


def outside() -> set[str]:
    """Return what a run might leave that is no process: mounts, namespaces and containers."""
    mounts = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    spaces = {str(path) for path in Path("/run/netns").glob("*")}
    containers: set[str] = set()
    with suppress(OSError):
        ps = ["docker", "ps", "--all", "--quiet"]
        containers = set(subprocess.run(ps, capture_output=True, text=True, check=False).stdout)
    return mounts | spaces | containers


def attempt(chance: random.Random, log: Path) -> Tree:
    """Start a run, kill it, and return what has not gone in END seconds; end that too."""
    environment = {name: value for name, value in os.environ.items() if name != guard.UNDO}
    with log.open("wb") as output:
        run = subprocess.Popen(
            RUN, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
        )
    moment, victim = chance.uniform(EARLIEST, LATEST), chance.choice(list(VICTIMS))
    time.sleep(moment)
    before = tree()
    for pid in VICTIMS[victim](before) or [run.pid]:  # it may have just begun
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if victim == "a worker":  # the others go on: xdist puts another one in its place
        run.kill()
    print(f"{victim}, after {moment:.1f} s, with {len(before)} processes", flush=True)
    end = time.monotonic() + END
    while (left := tree()) and time.monotonic() < end:
        time.sleep(0.1)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        while True:
            os.wait()
    return left


def main() -> int:
    """Try as often as the arguments say; return 1 if anything was left behind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given = parser.parse_args()
    print(f"seed {given.seed}")
    chance = random.Random(given.seed)
    ctypes.CDLL(None).prctl(guard.SUBREAPER, 1, 0, 0, 0)
    before, bad = outside(), 0
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.times):
            for pid, line in attempt(chance, Path(folder, "log")).items():
                bad += 1
                print(f"    left behind: {pid} {' '.join(line)[:200]}")
    for what in outside() - before:
        bad += 1
        print(f"left behind: {what}")
    print(f"{given.times} times, {bad} left behind")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
