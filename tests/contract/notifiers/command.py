"""The command notifier, with a shell script behind it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deregister_agent.model import Event
from deregister_agent.notifiers.command import Options, build
from tests.apps.receivers import ORDERS, event

from . import World


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Give a command that writes down what it was told."""
    told, refusing = folder / "told", folder / "refusing"
    script = f'test ! -e "{refusing}" && echo "$DEREGISTER_ID" >> "{told}"'
    options = Options(kind="command", command=("/bin/sh", "-c", script))

    def refuse() -> Event:
        refusing.touch()
        return event()

    yield World(
        build(options, ORDERS),
        event(),
        lambda: told.exists() and "evt-1" in told.read_text(),
        refuse,
    )
