"""What every registry promises. A new one adds one file in ``registries``, and its page."""

import importlib
import json
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import tests.contract.registries as worlds
from deregister_agent.errors import RegistryError, UnrecognisedError
from deregister_agent.model import Listing
from deregister_agent.ports import Registry
from tests.contract.registries import World, WorldMaker, refusing_port, silent_server

KINDS = sorted(module.name for module in pkgutil.iter_modules(worlds.__path__))
PAGES = Path(__file__).parents[2] / "docs" / "reference" / "registries"


def _makers() -> Iterator[tuple[str, WorldMaker]]:
    for kind in KINDS:
        module = importlib.import_module(f"{worlds.__name__}.{kind}")
        for name, maker in module.WORLDS.items():
            yield (kind if name == kind else f"{kind}-{name}"), maker


MAKERS = dict(_makers())


@pytest.fixture(params=MAKERS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with MAKERS[request.param](tmp_path) as made:
        yield made


def _told_of(registry: Registry) -> Sequence[str]:
    """Return what is told of others: some cannot be told from the instance once it is out."""
    try:
        registry.look()
    except UnrecognisedError as e:
        return [str(e)]
    return registry.other_registrations()


class TestRegistryContract:
    def test_withdraw_and_restore(self, world: World) -> None:
        """Listed, withdrawn, listed again: lists() tells each."""
        assert world.registry.lists()
        before = world.registry.snapshot()
        world.registry.withdraw()
        assert not world.registry.lists()
        world.registry.restore(before)
        assert world.registry.lists()

    def test_a_look_tells_of_both(self, world: World) -> None:
        """look() says what lists() and stragglers() say, in service and out of it."""
        look = world.registry.look()
        assert (look.listing, look.stragglers) == (Listing.LISTED, world.registry.stragglers())
        world.registry.withdraw()
        look = world.registry.look()
        assert not look.listed
        names = [one.what.split(",")[0] for one in look.stragglers]
        assert names == [one.what.split(",")[0] for one in world.registry.stragglers()]

    def test_twice_is_the_same_as_once(self, world: World) -> None:
        """Withdraw and restore may be repeated, and the same is there again in the end."""
        before = world.registry.snapshot()
        world.registry.withdraw()
        world.registry.withdraw()
        assert not world.registry.lists()
        world.registry.restore(before)
        world.registry.restore(before)
        assert world.registry.lists()
        assert world.registry.snapshot() == before

    def test_a_restore_that_was_not_needed_changes_nothing(self, world: World) -> None:
        """Restoring what is listed already leaves it as it is."""
        before = world.registry.snapshot()
        world.registry.restore(before)
        assert world.registry.snapshot() == before

    def test_a_snapshot_survives_the_journal(self, world: World) -> None:
        """A snapshot is plain JSON, and restores as well after a round trip."""
        before = world.registry.snapshot()
        world.registry.withdraw()
        world.registry.restore(json.loads(json.dumps(before)))
        assert world.registry.snapshot() == before

    def test_a_snapshot_changes_nothing(self, world: World) -> None:
        """To take a snapshot is to read."""
        assert world.registry.snapshot() == world.registry.snapshot()
        assert world.registry.lists()

    def test_what_is_not_there_is_no_error(self, world: World) -> None:
        """An instance that the registry has never heard of is not listed, and can be withdrawn."""
        assert world.absent.snapshot() is None
        assert not world.absent.lists()
        world.absent.withdraw()
        assert not world.absent.lists()

    def test_never_seen(self, world: World) -> None:
        """What was never there is absent, and not out: only what is recognised can be out."""
        assert world.absent.look().listing is Listing.ABSENT
        assert all(isinstance(each, str) for each in world.absent.look_alikes())

    def test_seen_and_gone(self, world: World) -> None:
        """What was withdrawn is out or absent, and listed again by others it is listed."""
        world.registry.withdraw()
        assert world.registry.look().listing in (Listing.OUT, Listing.ABSENT)
        world.relist()
        assert world.registry.look().listing is Listing.LISTED

    def test_recognised_and_out(self, world: World) -> None:
        """What another hand has put out is there, gets no work, and whose hand it was is told."""
        if world.out is None:
            pytest.skip("what is out is not there")
        world.out()
        look = world.registry.look()
        assert look.listing is Listing.OUT
        assert world.out_by in look.out_by
        assert not world.registry.lists()

    def test_a_slip_in_the_options(self, world: World) -> None:
        """The instance itself is named to whoever looks for it a little beside it."""
        if world.alike is None:
            pytest.skip("there is no way to be a little beside it")
        try:
            assert world.alike.look().listing is Listing.ABSENT
            named = world.alike.look_alikes()
        except UnrecognisedError as e:
            named = [str(e)]
        assert any(world.alike_named in each for each in named), named
        assert len(named) <= 5

    def test_what_else_leads_to_it(self, world: World) -> None:
        """It is named, in service and out of it, until it is left out; then it is left alone."""
        registry = world.registry
        assert list(registry.other_registrations()) == []
        if world.add_other is None or world.leaving_out is None:
            assert type(registry).other_registrations is Registry.other_registrations
            pytest.skip("it does not look for anything else")
        name = world.add_other()
        (sentence,) = registry.other_registrations()
        assert name in sentence
        assert f"not_ours = {json.dumps([name])}" in sentence
        assert registry.lists()
        told = world.leaving_out(name)
        assert list(told.other_registrations()) == []
        told.withdraw()
        assert not told.lists()
        assert any(name in each for each in _told_of(registry))

    def test_neighbours_are_left_alone(self, world: World) -> None:
        """Other instances stay listed whatever happens to this one."""
        before = world.registry.snapshot()
        assert world.neighbours() == 2
        world.registry.withdraw()
        assert world.neighbours() == 2
        world.registry.restore(before)
        assert world.neighbours() == 2

    def test_others_are_counted_without_this_one(self, world: World) -> None:
        """The two others are counted, this one listed or not; None where it cannot tell."""
        expected = 2 if world.counts else None
        assert world.registry.others() == expected
        world.registry.withdraw()
        assert world.registry.others() == expected

    def test_listed_again_by_somebody_else(self, world: World) -> None:
        """What others list again is listed, and can be withdrawn again."""
        world.registry.withdraw()
        world.relist()
        assert world.registry.lists()
        world.registry.withdraw()
        assert not world.registry.lists()

    def test_watch_returns_when_it_may_have_changed(self, world: World) -> None:
        """A watch ends as soon as somebody lists the instance again, long before its timeout."""
        if not world.watches:
            assert world.registry.watch(None, 60) is None
            return
        world.registry.withdraw()
        cursor = world.registry.watch(None, 60)
        assert cursor is not None
        assert not world.registry.lists()
        with ThreadPoolExecutor(1) as pool:
            watch = pool.submit(_watch_until_listed, world.registry, cursor)
            world.relist()
            assert watch.result(timeout=30)

    def test_watch_returns_when_its_time_is_over(self, world: World) -> None:
        """A watch ends by itself when nothing changes, and gives a cursor to go on from."""
        cursor = world.registry.watch(None, 60)
        for _ in range(2):
            cursor = world.registry.watch(cursor, 0.3)
            assert (cursor is not None) == world.watches

    def test_a_registry_that_never_answers(self, world: World) -> None:
        """No answer is an error, not an answer, for each method; and it ends."""
        if world.silent is None:
            pytest.skip("it waits for nobody")
        with silent_server() as port:
            _each_method_raises(world.silent(port))

    def test_a_registry_that_refuses(self, world: World) -> None:
        """A refused connection is an error, and does not mean that the instance is not listed."""
        if world.refused is None:
            pytest.skip("it connects to nobody")
        with refusing_port() as port:
            _each_method_raises(world.refused(port))

    def test_any_thread_may_call(self, world: World) -> None:
        """Threads that call at once get in no one's way."""
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda _: world.registry.lists(), range(8))) == [True] * 8


def _watch_until_listed(registry: Registry, cursor: str) -> bool:
    """Watch as the agent does: a watch may end without a change, but misses none."""
    going_on: str | None = cursor
    while not registry.lists():
        going_on = registry.watch(going_on, 60)
    return True


def _each_method_raises(registry: Registry) -> None:
    calls: dict[str, Callable[[], object]] = {
        "lists": registry.lists,
        "snapshot": registry.snapshot,
        "withdraw": registry.withdraw,
        "restore": lambda: registry.restore({}),
    }
    if type(registry).other_registrations is not Registry.other_registrations:
        calls["other_registrations"] = registry.other_registrations
    for name, call in calls.items():
        with pytest.raises(RegistryError, match=f"^{registry.name}: cannot ") as caught:
            call()
        assert caught.value.backend == registry.name, name


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"memory"}))
def test_every_option_is_documented(kind: str) -> None:
    """Each option has a description of its own, and a line on the reference page."""
    options = importlib.import_module(f"deregister_agent.registries.{kind}").Options
    page = (PAGES / f"{kind}.md").read_text()
    assert f'kind = "{kind}"' in page
    for name, option in options.model_fields.items():
        assert option.description or name == "kind", f"{kind}.{name} has no description"
        assert f"`{name}`" in page, f"{kind}.md does not explain {name}"
