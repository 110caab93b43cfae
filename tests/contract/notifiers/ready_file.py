"""The ready_file notifier, with a folder behind it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deregister_agent.model import Event
from deregister_agent.notifiers.ready_file import Options, build
from tests.apps.receivers import ORDERS, event

from . import World


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Give a ready file whose folder can go away."""
    place = folder / "run"
    place.mkdir()
    options = Options(kind="ready_file", path=place / "drained")

    def refuse() -> Event:
        shutil.rmtree(place)
        return event()

    yield World(build(options, ORDERS), event(), (place / "drained").exists, refuse)
