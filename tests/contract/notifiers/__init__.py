"""One file for each notifier: how the shared suite gets one, with a real receiver behind it."""

from collections.abc import Callable
from dataclasses import dataclass

from deregister_agent.model import Event
from deregister_agent.ports import Notifier


@dataclass(frozen=True)
class World:
    """A notifier and what is behind it. Each file has ``world(folder)``, a context manager."""

    notifier: Notifier
    event: Event  # one that it takes
    told: Callable[[], bool]  # whether the receiver has been told of the event
    refuse: Callable[[], Event]  # from now on it is not taken; returns the event to try it with
