"""A word that is asked for after somebody wants to know."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deregister_agent.model import Instance, Snapshot
from deregister_agent.ports import Registry
from tests.loops import agent_of, eventually


class Slow(Registry):
    """Answers once its gate is open, and counts how often it was asked."""

    name = "slow"

    def __init__(self) -> None:
        self.gate, self.asked = threading.Event(), 0

    def lists(self) -> bool:
        self.asked += 1
        self.gate.wait(60)
        return True

    def snapshot(self) -> Snapshot | None:
        return None

    def withdraw(self) -> None:
        """Do nothing."""

    def restore(self, snapshot: Snapshot | None) -> None:
        """Do nothing."""


def test_a_look_under_way_is_not_a_new_one(tmp_path: Path) -> None:
    """It may have seen less than there is to see: the registry is asked once more, at once."""
    slow = Slow()
    instance = Instance("orders-1", "orders", "127.0.0.1", 8080)
    with ThreadPoolExecutor(1) as pool:
        try:
            with agent_of(tmp_path, instance, [slow]) as running:
                eventually(lambda: slow.asked == 1, "it looks for the first time")
                assert running.loop.look_anew(0.05) == ["slow"]
                looking = pool.submit(running.loop.look_anew, 60)
                slow.gate.set()
                assert looking.result(60) == []
                assert slow.asked >= 2
                before = slow.asked
                assert running.loop.look_anew(60) == []
                assert slow.asked > before
        finally:
            slow.gate.set()
