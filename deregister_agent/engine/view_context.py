"""What the views of one instance share, and how often they look where nothing is going on."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from deregister_agent.engine.calls import Calls
from deregister_agent.model import Phase

AT_REST = 30.0  # seconds between two looks at an instance that is serving
WATCH_FOR = 5.0  # seconds for which a registry or an exit is watched before the next look


@dataclass(frozen=True, slots=True)
class ViewContext:
    """What all views of one loop share: its calls, its jitter, and the phase it is in now."""

    calls: Calls
    chance: random.Random
    phase: Callable[[], Phase]
    clear: Callable[[], float | None]  # from when on old routes bring nothing; None: not known

    @property
    def serving(self) -> bool:
        """Whether no drain is under way."""
        return self.phase() is Phase.SERVING
