"""What an agent says of a "drained" that it finds in its journal when it starts."""

from pathlib import Path

from deregister_agent.model import Announcement, Phase
from tests.unit.loop_bench import NEW, Bench


def restarted(folder: Path) -> Bench:
    """Return a bench whose agent was restarted after it had said "drained"."""
    bench = Bench(folder)
    bench.stop()
    bench.until(Phase.DRAINED)
    bench.new_life()
    return bench


def test_drained_stands_once_registries_and_process_were_seen(tmp_path: Path) -> None:
    """Neither alone is enough: who was drained may have been replaced, or listed again."""
    bench = restarted(tmp_path)
    bench.loop.tick()
    *others, look_at_process, _wait_for_its_exit = bench.calls.waiting
    bench.calls.waiting = list(others)
    bench.calls.run()
    bench.loop.tick()
    assert bench.loop.known.registries[0].word is not None
    assert not bench.loop.stands_by(Announcement.DRAINED)
    look_at_process()
    bench.loop.tick()
    assert bench.loop.stands_by(Announcement.DRAINED)
    assert bench.phase is Phase.DRAINED
    bench.journal.close()


def test_stop_traffic_after_that_is_about_the_process_that_is_there(tmp_path: Path) -> None:
    """One that has taken the place of the drained one gets a drain of its own."""
    bench = restarted(tmp_path)
    bench.finder.running = NEW
    first = bench.loop.drain.id
    while not bench.loop.is_recalled:
        bench.step(1.0)
    bench.registries[0].listed = True
    bench.stop()
    assert bench.phase is Phase.WITHDRAWING
    assert bench.loop.drain.id != first
    bench.journal.close()
