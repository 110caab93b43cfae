"""What every probe promises. A new one adds one file beside the others, and its page."""

import importlib
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deregister_agent.config.backends import built_in, find
from deregister_agent.errors import ProbeError
from tests.contract import probes as worlds
from tests.contract.probes import World, wait_for

KINDS = built_in("probes")
PAGES = Path(__file__).parents[2] / "docs" / "reference" / "probes"


@pytest.fixture(params=[*KINDS, "memory"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with importlib.import_module(f"{worlds.__name__}.{request.param}").world() as made:
        yield made


class TestProbeContract:
    def test_idle(self, world: World) -> None:
        """An app with nothing in hand is idle, and every kind of work is told as 0."""
        reading = world.probe.read(0.0)
        assert reading.idle
        assert set(reading.in_flight.values()) == {0}
        assert world.kind in reading.in_flight

    def test_counts(self, world: World) -> None:
        """What is in hand is told in full, going up and going down to nothing."""
        told = []
        for count in (3, 1, 0):
            world.busy(count)
            told.append(world.probe.read(0.0).in_flight[world.kind])
        assert told == [3, 1, 0]

    def test_counts_are_whole_numbers(self, world: World) -> None:
        """Counts are int, and a mark is a string."""
        world.busy(1)
        reading = world.probe.read(0.0)
        assert {type(count) for count in reading.in_flight.values()} == {int}
        assert type(reading.mark) is str

    def test_reading_changes_nothing(self, world: World) -> None:
        """The probe's own reads are neither work in hand nor work that was started."""
        first, *others = [world.probe.read(0.0) for _ in range(5)]
        assert {(one.started, one.mark) for one in others} == {(first.started, first.mark)}
        assert {one.in_flight[world.kind] for one in others} <= world.settled(0)

    def test_unknown_is_an_error(self, world: World) -> None:
        """Not to know raises ProbeError, one line which begins with the probe's name."""
        world.probe.read(0.0)
        world.lose()
        with pytest.raises(ProbeError, match=f"^{world.probe.name}: cannot ") as caught:
            world.probe.read(0.0)
        assert caught.value.backend == world.probe.name
        assert "\n" not in str(caught.value)

    def test_tells_again_after_an_error(self, world: World) -> None:
        """The same probe tells again as soon as it can be known."""
        world.lose()
        with pytest.raises(ProbeError):
            world.probe.read(0.0)
        world.find()
        world.busy(2)
        assert world.probe.read(0.0).in_flight[world.kind] == 2

    def test_a_hanging_app_is_unknown(self, world: World) -> None:
        """An app that does not answer is given up, and is not idle."""
        if world.hang is None:
            pytest.skip("it asks nobody who could hang")
        world.hang()
        began = time.monotonic()
        with pytest.raises(ProbeError):
            world.probe.read(0.0)
        assert time.monotonic() - began < 30

    def test_unseen_work_is_counted(self, world: World) -> None:
        """Where work ever started is counted, what came and went between two reads shows."""
        before = world.probe.read(0.0).started
        if isinstance(world.serve, str):
            assert before is None, world.serve
            return
        world.serve()
        after = world.probe.read(0.0).started
        assert before is not None
        assert after == before + 1

    def test_work_that_begins_between_two_looks(self, world: World) -> None:
        """What was begun since the last look, and goes on, is told by the next, each time."""
        before = world.probe.read(0.0)
        assert before.idle
        world.busy(1)
        after = world.probe.read(0.0)
        assert after.in_flight[world.kind] == 1
        world.busy(2)
        assert world.probe.read(0.0).in_flight[world.kind] == 2
        if before.started is not None and after.started is not None:
            assert after.started > before.started

    def test_work_that_outlives_its_waiter(self, world: World) -> None:
        """It counts until it ends, whoever has left; or the reason says who counts it."""
        if isinstance(world.outlives, str):
            pytest.skip(world.outlives)
        end = world.outlives()
        assert [world.probe.read(0.0).idle for _ in range(3)] == [False] * 3
        end()
        wait_for(lambda: world.probe.read(0.0).idle, "nothing is in hand")

    def test_work_of_somebody_else_at_the_same_place(self, world: World) -> None:
        """It holds nobody up, and hides nothing of the instance's own."""
        if isinstance(world.strangers, str):
            pytest.skip(world.strangers)
        end = world.strangers()
        assert world.probe.read(0.0).idle
        world.busy(1)
        assert world.probe.read(0.0).in_flight[world.kind] == 1
        world.busy(0)
        end()
        assert world.probe.read(0.0).idle

    def test_a_wait_does_not_hold_an_idle_answer(self, world: World) -> None:
        """With a wait, the answer is the same."""
        assert world.probe.read(5.0).idle

    def test_any_thread_may_read(self, world: World) -> None:
        """Several threads at once get in no one's way."""
        world.busy(2)
        with ThreadPoolExecutor(4) as pool:
            told = [r.in_flight[world.kind] for r in pool.map(world.probe.read, [0.0] * 12)]
        assert len(told) == 12
        assert set(told) <= world.settled(2)


@pytest.mark.parametrize("kind", KINDS)
class TestEveryProbe:
    def test_every_key_is_documented(self, kind: str) -> None:
        """Each key has a description, and stands on the probe's page with an example."""
        fields = find("probes", kind).Options.model_fields
        page = (PAGES / f"{kind}.md").read_text(encoding="utf-8")
        assert [key for key, field in fields.items() if not field.description] == []
        assert [
            key for key in fields if not re.search(rf"^\| `{key}` \|", page, re.MULTILINE)
        ] == []
        assert f'kind = "{kind}"' in page
