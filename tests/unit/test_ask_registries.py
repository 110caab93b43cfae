"""A word that is asked for after somebody wants to know, or is waited for."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.errors import RegistryError
from deregister_agent.model import Instance, Phase, Snapshot, Straggler
from deregister_agent.ports import Registry
from tests.loops import LIMIT, Running, agent_of, eventually, made_of

INSTANCE = Instance("orders-1", "orders", "127.0.0.1", 8080)


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
    with ThreadPoolExecutor(1) as pool:
        try:
            with agent_of(tmp_path, INSTANCE, [slow]) as running:
                eventually(lambda: slow.asked == 1, "it looks for the first time")
                assert running.loop.ask_registries(0.05) == ["slow"]
                looking = pool.submit(running.loop.ask_registries, 60)
                slow.gate.set()
                assert looking.result(60) == []
                assert slow.asked >= 2
                before = slow.asked
                assert running.loop.ask_registries(60) == []
                assert slow.asked > before
        finally:
            slow.gate.set()


class Plain(Registry):
    """Says what the test has it say; looked at often, as it cannot be watched."""

    name = "plain"

    def __init__(self) -> None:
        self.listed, self.old, self.ages = True, 0, 0
        self.trouble = False

    def lists(self) -> bool:
        if self.trouble:
            raise RegistryError(self.name, "look", "gone")
        return self.listed

    def stragglers(self) -> Sequence[Straggler]:
        self.ages += 1
        return [Straggler(f"worker {n}, {self.ages} s old") for n in range(self.old)]

    def snapshot(self) -> Snapshot | None:
        return None

    def withdraw(self) -> None:
        self.listed = False

    def restore(self, snapshot: Snapshot | None) -> None:
        self.listed = True


def test_a_cursor_is_of_the_phase_and_of_what_is_said(tmp_path: Path) -> None:
    """Whoever waits is told of each change that matters, and of none that does not."""
    plain = Plain()
    plain.old = 2
    with agent_of(tmp_path, INSTANCE, [plain]) as running:
        loop = running.loop
        loop.ask_registries(LIMIT)
        known = loop.status().cursor

        def told_of(change: Callable[[], object]) -> None:
            nonlocal known
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(loop.has_changed, known, LIMIT)
                eventually(lambda: loop._askers, "it waits")
                change()
                loop.ask_registries(LIMIT)
                assert waiting.result(LIMIT)
            known = loop.status().cursor

        before = loop.status().registries[0].stragglers
        loop.ask_registries(LIMIT)
        assert loop.status().registries[0].stragglers != before
        assert not loop.has_changed(known, 0.0)  # they are older, and that is all
        told_of(lambda: setattr(plain, "old", 1))
        told_of(lambda: setattr(plain, "old", 0))
        told_of(lambda: setattr(plain, "listed", False))
        told_of(lambda: setattr(plain, "trouble", True))
        plain.trouble = False
        told_of(partial(restored, running))


def restored(running: Running) -> None:
    running.loop.start_traffic("", "", anyway=True)
    running.until(Phase.SERVING)


@pytest.mark.parametrize("change", [{"id": "d-2"}, {"since": 9.0}, {"phase": Phase.SETTLING}])
def test_a_cursor_is_of_one_phase_of_one_drain(change: dict[str, Any], tmp_path: Path) -> None:
    """Who was drained, restored and drained again between two looks is seen to have been."""
    loop = made_of(tmp_path, INSTANCE, [Plain()]).loop
    known = loop.status().cursor
    assert not loop.has_changed(known, 0.0)
    loop.known.drain = replace(loop.drain, **change)
    assert loop.has_changed(known, 0.0)


def test_a_cursor_that_is_waited_for_in_vain(tmp_path: Path) -> None:
    """Nobody is held when the agent ends."""
    with agent_of(tmp_path, INSTANCE, [Plain()]) as running, ThreadPoolExecutor(1) as pool:
        loop = running.loop
        loop.ask_registries(LIMIT)
        waiting = pool.submit(loop.has_changed, loop.status().cursor, LIMIT)
        eventually(lambda: loop._askers, "it waits")
        loop.close()
        assert not waiting.result(LIMIT)
