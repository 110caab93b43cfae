"""
Real servers for tests: where they are (find), and how they are run (child, consul, ...).

``python -m tests.servers fetch`` obtains those that are not on PATH, into ``.servers``.
"""

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.servers.apt import ROOT
from tests.servers.table import SERVERS, Server


def find(name: str) -> list[str]:
    """
    Return the start of the command that runs server *name*.

    Where the server is missing, the test is skipped, loudly; on CI it fails.
    """
    command = locate(SERVERS[name])
    if command is None:
        missing = f"no {name} here: run 'python -m tests.servers fetch {name}'"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    return list(command)


@functools.cache
def locate(server: Server) -> tuple[str, ...] | None:
    """Return the start of a command that runs *server*, from PATH or unpacked; None: neither."""
    folder = ROOT / server.name
    on_path = shutil.which(Path(server.program).name)
    ways: list[tuple[str, ...]] = [(on_path,)] if on_path else []
    ways.append((str(folder / server.program),))
    ways += [(*loader, str(folder / server.program)) for loader in _loaders(folder, server.program)]
    return next((way for way in ways if _works(server, way)), None)


def _loaders(folder: Path, program: str) -> list[tuple[str, ...]]:
    """Return what runs a program that needs a newer libc than the machine's: its own loader."""
    libraries = sorted({str(p.parent) for p in folder.glob("**/lib*.so*") if p.is_file()})
    own = ["--library-path", ":".join(libraries), "--argv0", Path(program).name]
    loaders = sorted(p for p in folder.glob("**/ld-linux*.so.*") if p.is_file())
    return [(str(loader), *own) for loader in loaders]


def _works(server: Server, way: tuple[str, ...]) -> bool:
    try:
        done = subprocess.run(
            [*way, server.version], capture_output=True, text=True, timeout=30, check=False
        )
    except OSError:
        return False
    return done.returncode == 0 and bool(
        re.search(re.escape(server.says), done.stdout + done.stderr)
    )
