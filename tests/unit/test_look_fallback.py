"""A third party's registry that knows only lists() and the keys of every backend."""

from pathlib import Path

import pytest

from deregister_agent.config.backends import identity
from deregister_agent.config.options import BackendOptions
from deregister_agent.model import Instance, Listing, Look, Snapshot, Straggler
from deregister_agent.ports import Registry

ORDERS = Instance("orders-1", "orders", "10.0.0.7", 8080)


class Options(BackendOptions):
    """What it takes: where its list is."""

    path: Path
    """The list."""


class ListFile(Registry):
    """A file with a name in each line."""

    def __init__(self, options: Options, instance: Instance) -> None:
        self.name, self.path, self.instance = options.label, options.path, instance

    def lists(self) -> bool:
        return self.instance.name in self.path.read_text().split()

    def snapshot(self) -> Snapshot | None:
        return None

    def withdraw(self) -> None:
        self.path.write_text("")

    def restore(self, snapshot: Snapshot | None) -> None:
        self.path.write_text(self.instance.name)


class WithOldWorkers(ListFile):
    """One that also knows what may still send work."""

    def stragglers(self) -> list[Straggler]:
        return [Straggler("worker 7")]


@pytest.fixture
def options(tmp_path: Path) -> Options:
    (tmp_path / "list").write_text("orders-1\n")
    return Options(kind="t_list", path=tmp_path / "list")


def test_it_is_listed_or_absent(options: Options) -> None:
    """A look falls back on lists() and stragglers(), and nothing looks like an absent one."""
    registry = ListFile(options, ORDERS)
    assert registry.look() == Look(Listing.LISTED)
    registry.withdraw()
    assert registry.look() == Look(Listing.ABSENT)
    assert list(registry.look_alikes()) == []
    assert WithOldWorkers(options, ORDERS).look() == Look(Listing.ABSENT, [Straggler("worker 7")])


def test_every_key_that_is_written_says_where_it_looks(options: Options) -> None:
    """It names no keys, so what was seen under other values of any proves nothing."""
    known = identity(options, ORDERS)
    assert known == identity(options.model_copy(), ORDERS)
    other = Options(kind="t_list", path=options.path.with_name("other"))
    named = Options(kind="t_list", path=options.path, name="mine")
    assert len({known, identity(other, ORDERS), identity(named, ORDERS)}) == 3
