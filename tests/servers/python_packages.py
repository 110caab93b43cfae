"""
Other versions of Python packages than those that the tests run with, each set in a folder.

What an app under test imports need not be what the tests import: it gets the folder as
``PYTHONPATH``. ``python -m tests.servers fetch`` obtains them by pip, as any user.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.servers.apt import ROOT, FetchFailed

SETS = {
    "celery-5.3": ("celery==5.3.*", "kombu==5.3.*", "redis<5"),
    # celery-batches of today wants a Celery before 5.7; eventlet warns whoever imports it.
    "celery-5.6": ("celery==5.6.*", "celery-batches>=0.11", "eventlet", "gevent", "redis"),
    # Beside uvloop and httptools, uvicorn would take these in all tests.
    "web-servers": ("gevent", "granian", "httptools", "sanic", "uvloop"),
}
"""What is installed together, by the name of its folder."""


def folder(name: str) -> Path:
    """
    Return the folder to import that set of packages from.

    Where it is missing, the test is skipped, loudly; on CI it fails.
    """
    found = ROOT / name
    if not found.is_dir():
        missing = f"no {name} here: run 'python -m tests.servers fetch {name}'"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    return found


def fetch(name: str) -> Path:
    """Return the folder of that set; install into it if it is not there yet."""
    found = ROOT / name
    if not found.is_dir():
        ROOT.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=ROOT, prefix=".new-") as new:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", f"{new}/root"]
            done = subprocess.run(
                [*pip, *SETS[name]], capture_output=True, text=True, timeout=600, check=False
            )
            if done.returncode:
                raise FetchFailed(f"pip cannot install {', '.join(SETS[name])}: {done.stderr}")
            (Path(new) / "root").rename(found)
    return found
