"""
``python -m tests.run PYTEST-ARGUMENTS``: run the tests, and what failed once more, alone.

Some thousands of tests with some hundred servers share two cores. What fails there and passes
alone is a race, or a test that expects too much of its machine: it is named at the end and has
to be mended, but it does not stop a change that has nothing to do with it. More than a FEW
failures are no accident, and neither is one that fails alone as well.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

FEW = 5
"""How many tests are run again at most."""


def run(arguments: Sequence[str]) -> int:
    """Run pytest in the present folder; return its exit status, or that of the second run."""
    with tempfile.TemporaryDirectory(prefix="tests-run-") as cache:
        first = _pytest("-o", f"cache_dir={cache}", *arguments)
        if first != pytest.ExitCode.TESTS_FAILED:
            return first
        failed = sorted(json.loads(Path(cache, "v/cache/lastfailed").read_text(encoding="utf-8")))
    if not 0 < len(failed) <= FEW:
        return first
    _say("failed beside all others, and run again alone", failed)
    second = _pytest("-n", "0", *failed)
    if second == pytest.ExitCode.OK:
        _say("FAILED BESIDE OTHERS AND PASSED ALONE: to be mended", failed)
    return second


def _pytest(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode


def _say(what: str, tests: Sequence[str]) -> None:
    print(f"\n{what}:", *tests, sep="\n  ", flush=True)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
