"""The fake registry keeps the same promises as the real ones, or tests with it prove nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.contract.registries import World
from tests.fakes import Directory, FakeRegistry


def _broken(trouble: str) -> FakeRegistry:
    return FakeRegistry(Directory(trouble=trouble), "orders-1")


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Give a directory in memory."""
    del folder
    directory = Directory({f"orders-{n}": {"port": 8000 + n} for n in (1, 2, 3)})
    yield World(
        registry=FakeRegistry(directory, "orders-1"),
        relist=lambda: directory.put("orders-1", {"port": 8001}),
        neighbours=lambda: len(directory.listed.keys() & {"orders-2", "orders-3"}),
        absent=FakeRegistry(directory, "orders-9"),
        silent=lambda _: _broken("no answer within 0.5 s"),
        refused=lambda _: _broken("connection refused"),
    )


WORLDS = {"memory": world}
