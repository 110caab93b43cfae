"""Who keeps connections to an instance that does not become idle, and when that is looked at."""

from collections.abc import Callable, Iterator, Sequence

from deregister_agent.engine.calls import Backoff, CallResult
from deregister_agent.engine.view_context import AT_REST, ViewContext
from deregister_agent.model import Peer, Phase

FIRST = 1.0  # seconds beyond the shortest end of a drain after which it is held up by somebody
EVERY, SHARE = 1.0, 50  # seconds between two looks, or so many times what the last has taken
_CALL = "peers"


class PeersView:
    """
    The peers that keep connections to the port, by the last look; nothing is decided by them.

    They are looked for while a drain does not come to its end, and the last ones are kept.
    What cannot be seen from here (another network, no table) is not told, and no trouble.
    """

    def __init__(self, ask: Callable[[], Sequence[Peer]] | None, shared: ViewContext) -> None:
        self._ask, self._calls, self._shared = ask, shared.calls, shared
        self.found: Sequence[Peer] = ()
        self._again = Backoff(EVERY, AT_REST, shared.chance)

    def begin(self, now: float) -> None:
        """Begin a phase: an app that becomes idle as it should is held up by nobody."""
        self._again.after(self._shared.quiet + FIRST, now)

    def look(self, now: float) -> None:
        """Begin a look if one is due."""
        if self._ask is not None and self._looks and now >= self._again.due:
            self._calls.start(_CALL, self._ask, self._looked)

    @property
    def _looks(self) -> bool:
        return self._shared.phase() in {Phase.DRAINING, Phase.EXPIRED}

    def _looked(self, result: CallResult) -> None:
        if result.error is not None:
            self.found = ()
            self._again.later(result.answered)
            return
        self.found = result.value
        if self._shared.phase() is Phase.DRAINING:
            took = result.answered - result.asked
            self._again.after(max(EVERY, SHARE * took), result.answered)
        else:
            self._again.after(AT_REST, result.answered)

    def dues(self) -> Iterator[float]:
        """Yield when the next look is due, if none is under way."""
        if self._ask is not None and self._looks:
            yield from self._calls.due(_CALL, self._again)
