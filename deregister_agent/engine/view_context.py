"""What the views of one instance share, and how often they look where nothing is going on."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from deregister_agent.engine.calls import Calls
from deregister_agent.model import Phase

AT_REST = 30.0  # seconds between two looks at an instance that is serving
FRESH = 2.0  # seconds after which an answer is too old for "drained" to rest on it
SHORTEST_GAP = 0.5  # seconds without a reading that always pass for a busy host
WATCH_FOR = 5.0  # seconds for which a registry or an exit is watched before the next look


@dataclass(frozen=True, slots=True)
class ViewContext:
    """What all views of one loop share: its calls, its jitter, and the phase it is in now."""

    calls: Calls
    chance: random.Random
    phase: Callable[[], Phase]
    clear: Callable[[], float | None]  # from when on old routes bring nothing; None: not known
    quiet: float = 0.0  # seconds for which an app must be seen quiet

    @property
    def serving(self) -> bool:
        """Whether no drain is under way."""
        return self.phase() is Phase.SERVING

    def gap(self, pace: float) -> float:
        """
        Return for how many seconds a look may be missing from a quiet time, at that *pace*.

        The pace is the planned time between two looks. On a busy host each look may be
        late by a multiple of it; more than that, and nobody knows what was in between.
        """
        return max(SHORTEST_GAP, self.quiet / 4, 3 * pace)
