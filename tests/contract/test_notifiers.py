"""What every notifier promises. A new one adds one file beside the others, and its page."""

import importlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deregister_agent.config.backends import built_in
from deregister_agent.errors import NotifyError
from deregister_agent.model import Announcement
from tests.contract import notifiers as worlds
from tests.contract.notifiers import World

KINDS = built_in("notifiers")
PAGES = Path(__file__).parents[2] / "docs" / "reference" / "notifiers"


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with importlib.import_module(f"{worlds.__name__}.{request.param}").world(tmp_path) as made:
        yield made


class TestNotifierContract:
    def test_returning_means_told(self, world: World) -> None:
        """When announce returns, the receiver has been told; before, it has not."""
        assert not world.told()
        world.notifier.announce(world.event)
        assert world.told()

    def test_may_be_repeated(self, world: World) -> None:
        """The same event may be announced again, and is taken again."""
        world.notifier.announce(world.event)
        world.notifier.announce(world.event)
        assert world.told()

    def test_a_refusal_is_an_error_that_says_who(self, world: World) -> None:
        """What is not taken raises NotifyError, which begins with the notifier's name."""
        refused = world.refuse()
        with pytest.raises(NotifyError, match=f"^{world.notifier.name}: cannot ") as caught:
            world.notifier.announce(refused)
        assert caught.value.backend == world.notifier.name
        assert not world.told()

    def test_an_examination_tells_nobody(self, world: World) -> None:
        """It says what could be told, and leaves the telling to the announcement."""
        said = world.notifier.examine(world.event.process)
        assert said
        assert not world.told()
        world.notifier.announce(world.event)
        assert world.told()

    def test_any_thread_may_announce(self, world: World) -> None:
        """Two threads at once get in no one's way."""
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(world.notifier.announce, [world.event] * 2)) == [None, None]
        assert world.told()

    def test_says_what_it_wants_to_be_told(self, world: World) -> None:
        """Every notifier wants at least to be told of "drained", and only of what exists."""
        assert isinstance(world.notifier.announces, frozenset)
        assert Announcement.DRAINED in world.notifier.announces
        assert world.notifier.announces <= frozenset(Announcement)


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_is_documented(kind: str) -> None:
    """Each option has a description of its own, and a line on the reference page."""
    options = importlib.import_module(f"deregister_agent.notifiers.{kind}").Options
    page = (PAGES / f"{kind}.md").read_text()
    assert f'kind = "{kind}"' in page
    for name, field in options.model_fields.items():
        assert field.description or name == "kind", f"{kind}.{name} has no description"
        assert f"`{name}`" in page, f"{kind}.md does not explain {name}"
