"""A run of the tests that is killed leaves nothing behind."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_nothing_is_left_of_runs_that_are_killed() -> None:
    """No process, mount, namespace or container, at ten random moments."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.left_behind"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        timeout=890,
        check=False,
    )
    assert done.returncode == 0, done.stdout
