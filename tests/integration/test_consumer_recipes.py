"""The programs of the how-tos for consumers, each against the real broker, stopped under load."""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.apps.recipe import Recipe, in_hand, program
from tests.integration.consumer_brokers import Broker, jetstream, rabbitmq
from tests.servers.child import wait_until

RABBIT, NATS = "rabbitmq-consumers.md", "nats-consumers.md"
PROGRAMS = [
    (RABBIT, "pika, in one thread"),
    (RABBIT, "pika, with a pool of threads"),
    (RABBIT, "aio-pika"),
    (NATS, "A subscription with a callback"),
    (NATS, "A pull subscription"),
]
ORDERS = 60


BROKERS = {RABBIT: rabbitmq, NATS: jetstream}


class Deploys:
    """One program at its broker, whose process is replaced or goes on after each stop."""

    def __init__(self, folder: Path, source: str, broker: Broker) -> None:
        folder.mkdir()
        self._folder, self._source, self._broker = folder, source, broker
        self.published = 0
        self.replace()

    def replace(self) -> None:
        """Start the program."""
        self.recipe = Recipe(self._folder, self._source, self._broker.environment)

    def close(self) -> None:
        """End the process that runs now."""
        self.recipe.close()

    def publish(self, count: int) -> None:
        """Publish so many orders more."""
        self._broker.publish(range(self.published, self.published + count))
        self.published += count

    def stop(self) -> None:
        """
        Have it stop. From its answer on it must be given nothing, though there is more to do.

        What waits in the app itself may still begin, and counts already.
        """
        wait_until(lambda: self.recipe.ask("stop") == 200, "it has stopped")
        report = self.recipe.report()
        assert report["stopped"] is True
        begun = len(self.recipe.record())
        self.publish(10)
        wait_until(lambda: self._broker.waiting() >= 10, "more are waiting")
        wait_until(self._is_idle, "it has nothing in hand")
        after = [line for line in self.recipe.record()[begun:] if line.startswith("begin")]
        assert len(after) <= sum(report["in_flight"].values())
        assert not in_hand(self.recipe.record())

    def handled(self) -> int:
        """Return how many orders were handled, after a look at what it tells."""
        self.recipe.must_tell_the_truth()
        return len(self.recipe.handled())

    def _is_idle(self) -> bool:
        self.recipe.must_tell_the_truth()
        return not any(self.recipe.report()["in_flight"].values())


@pytest.mark.parametrize(("page", "heading"), PROGRAMS, ids=[name for _, name in PROGRAMS])
def test_stopped_and_idle_is_safe_to_kill(tmp_path: Path, page: str, heading: str) -> None:
    """
    Every message counts while it is handled, and none is begun after "stopped".

    Killed when it is stopped and idle, it leaves nothing undone and nothing to do twice, also
    where handling has failed at first.
    """
    with BROKERS[page](tmp_path) as broker, ExitStack() as stack:
        app = Deploys(tmp_path / "app", program(page, heading), broker)
        stack.callback(app.close)
        for killed in (True, False, True):
            for part in (ORDERS // 2, ORDERS):  # so that there is much to do when it is stopped
                before = app.handled()
                app.publish(part)
                wait_until(lambda b=before: app.handled() > b, "it is in the midst of them")  # type: ignore[misc]
            app.stop()
            if killed:
                app.recipe.kill()
                app.replace()
            else:
                assert app.recipe.ask("start") == 200
        wait_until(lambda: app.handled() == app.published, "all are handled", limit=40.0)
        app.stop()
        app.recipe.ask("start")
        wait_until(lambda: app.handled() == app.published, "the last are handled")
        ends = Counter(line.split()[1] for line in app.recipe.record() if line.startswith("end"))
        assert set(ends.values()) == {1}
