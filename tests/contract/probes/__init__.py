"""One file for each probe: how the shared suite gets one, with a real app behind it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from deregister_agent.model import Instance
from deregister_agent.ports import IdleProbe

Nothing = Callable[[], None]
Begin = Callable[[], Nothing]
"""Begins something, and returns what ends it."""


@dataclass(frozen=True)
class World:
    """
    A probe and the app behind it. Each file has ``world()``, a context manager.

    What a probe cannot meet is None: the kernel's table never hangs. What it cannot tell, or
    what cannot be arranged here, is a sentence: the reason.
    """

    probe: IdleProbe
    kind: str  # under which the work of ``busy`` is counted
    busy: Callable[[int], None]  # from now on the app has so many in hand
    lose: Nothing  # from now on it cannot be known what the app has in hand
    find: Nothing  # undoes ``lose``
    outlives: Begin | str  # one piece of work goes on, and whoever waited for it has left
    strangers: Begin | str  # somebody else has work in hand at the same place
    hang: Nothing | None = None  # from now on the app accepts and never answers
    serve: Nothing | str = "it does not tell how much has ever been started"  # one piece, unseen
    lingers: bool = False  # the probe's last question may count as one more, for a moment

    def settled(self, count: int) -> set[int]:
        """Return what may be told while *count* are in hand and the probe is asked often."""
        return {count, count + 1} if self.lingers else {count}


def orders(port: int) -> Instance:
    """Return an instance that listens on *port*."""
    return Instance("orders-1", "orders", "127.0.0.1", port)


def wait_for(condition: Callable[[], object], what: str, limit: float = 20.0) -> None:
    """Wait until *condition* holds; fail if it does not within a generous time."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.01)
