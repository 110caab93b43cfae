"""Who keeps connections to an instance that does not become idle, and when that is looked at."""

from collections.abc import Callable, Iterator, Sequence

from deregister_agent.engine.calls import Backoff, CallResult
from deregister_agent.engine.view_context import ViewContext
from deregister_agent.model import Peer

FIRST = 1.0  # seconds for which an app may go on with its work before anybody asks for whom
EVERY, SHARE = 1.0, 50  # seconds between two looks, or so many times what the last has taken
_CALL = "peers"


class PeersView:
    """
    The peers that keep connections to the port, by the last look; nothing is decided by them.

    They are looked for while a drain does not come to its end, and the last ones are kept.
    What cannot be seen from here (another network, no table) is not told, and no trouble.
    """

    def __init__(self, ask: Callable[[], Sequence[Peer]] | None, shared: ViewContext) -> None:
        self._ask, self._calls = ask, shared.calls
        self.found: Sequence[Peer] = ()
        self._again = Backoff(EVERY, 30.0, shared.chance)

    def begin(self, now: float) -> None:
        """Begin a phase: give the app some time before anybody is looked for."""
        self._again.after(FIRST, now)

    def look(self, now: float) -> None:
        """Begin a look if one is due."""
        if self._ask is not None and now >= self._again.due:
            self._calls.start(_CALL, self._ask, self._looked)

    def _looked(self, result: CallResult) -> None:
        self.found = () if result.error is not None else result.value
        if result.error is not None:
            self._again.later(result.answered)
        else:
            took = result.answered - result.asked
            self._again.after(max(EVERY, SHARE * took), result.answered)

    def dues(self) -> Iterator[float]:
        """Yield when the next look is due, if none is under way."""
        if self._ask is not None:
            yield from self._calls.due(_CALL, self._again)
