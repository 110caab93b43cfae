"""The process notifier, with a child process behind it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deregister_agent.notifiers.process import Options, build
from tests.apps.receivers import ORDERS, event, identity

from . import World


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Give the end of a child that would go on for long."""
    with subprocess.Popen(["sleep", "600"], cwd=folder) as child:
        try:
            yield World(
                build(Options(kind="process"), ORDERS),
                event(process=identity(child.pid)),
                lambda: child.poll() is not None,
                event,
            )
        finally:
            child.kill()
