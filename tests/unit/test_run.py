"""How the whole suite is run: what fails beside others gets one chance alone, and is named."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SUITE = """
import os, pytest
from pathlib import Path

def test_good():
    pass

@pytest.mark.parametrize("n", range({flaky}))
def test_flaky(n):
    before = Path(f"ran-{{n}}")
    assert before.exists() or before.touch()

@pytest.mark.parametrize("n", range({bad}))
def test_bad(n):
    assert Path(f"never-{{n}}").exists()
"""


def run(folder: Path, *arguments: str, flaky: int = 0, bad: int = 0) -> tuple[int, str]:
    (folder / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (folder / "test_it.py").write_text(SUITE.format(flaky=flaky, bad=bad))
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.run import run; "
    done = subprocess.run(
        [sys.executable, "-c", program + "sys.exit(run(sys.argv[1:]))", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout


def test_what_passes_is_run_once(tmp_path: Path) -> None:
    """And what was to be left out is."""
    status, said = run(tmp_path, "-k", "good", bad=1)
    assert (status, "again" in said, "1 passed" in said) == (0, False, True)


def test_what_passes_alone_is_named(tmp_path: Path) -> None:
    status, said = run(tmp_path, "-n", "2", flaky=2)
    assert status == 0
    last = said.rpartition("PASSED ALONE: to be mended:")[2].split()
    assert last == ["test_it.py::test_flaky[0]", "test_it.py::test_flaky[1]"]


@pytest.mark.parametrize(("flaky", "bad"), [(0, 1), (1, 1), (6, 0), (3, 3)])
def test_what_fails_alone_or_too_often_stops_a_change(tmp_path: Path, flaky: int, bad: int) -> None:
    status, said = run(tmp_path, flaky=flaky, bad=bad)
    assert (status, "PASSED ALONE" in said) == (1, False)
    assert ("again alone" in said) is (flaky + bad <= 5)


def test_a_run_that_was_no_run_is_not_excused(tmp_path: Path) -> None:
    """What pytest could not even collect was not run."""
    (tmp_path / "test_broken.py").write_text("import nothing_of_that_name\n")
    status, said = run(tmp_path, flaky=1)
    assert (status, "again alone" in said) == (2, False)
