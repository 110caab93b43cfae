"""What a loop knows of each probe and readiness check, and when each is asked again."""

from collections.abc import Callable, Iterator
from functools import partial

from deregister_agent.engine.arrivals import Arrivals
from deregister_agent.engine.calls import Backoff, CallResult, FailureLog
from deregister_agent.engine.quiet_window import AnswerAge, QuietWindow
from deregister_agent.engine.view_context import AT_REST, ViewContext
from deregister_agent.engine.work_again import WorkAgain
from deregister_agent.errors import AgentError
from deregister_agent.model import Phase, Reading
from deregister_agent.ports import IdleProbe, ReadyCheck

READ = 0.03  # seconds between two readings of a probe while draining
READ_BEHIND = 0.2  # the same while idleness proves nothing: old routes may still send work
READ_SLOWLY, SLOWEST = 4, 1.0  # times the seconds that an answer took, and their most: _pause
READS_OF_LATE = 20  # readings, while draining, in the time by which a probe's news may be late
READ_AT_EASE = 1.0  # seconds between two readings in the other phases of a drain
_LET_GO = frozenset({Phase.SETTLING, Phase.DRAINING, Phase.DRAINED, Phase.EXPIRED})
HELD = 4.0  # seconds a probe may hold its answer while work is in flight


class ProbeView:
    """One probe: its last reading and the time it has seen the app quiet."""

    def __init__(
        self, probe: IdleProbe, heard: Callable[[Reading, float], None], shared: ViewContext
    ) -> None:
        self.probe, self._heard = probe, heard
        self._calls, self._shared = shared.calls, shared
        self.name = probe.name
        self.window = QuietWindow()
        self.work_again = WorkAgain()
        self.arrivals = Arrivals()  # since its registries let go of the app
        self.reading: Reading | None = None
        self.asked: float | None = None
        self.age = AnswerAge()  # of the last answer
        self.error: AgentError | None = None
        self._again = Backoff(READ, 1.0, shared.chance)
        self._failures = FailureLog()
        self._pace = 0.0  # seconds planned between the last reading and the next
        self._turn = 0  # counts the phases: a reading begun in an earlier one proves nothing

    @property
    def in_hand(self) -> str:
        """What the app has in hand by the last reading, in words; empty: nothing, or not known."""
        found = self.reading.in_flight.items() if self.reading is not None else ()
        return ", ".join(f"{count} {kind}" for kind, count in found if count)

    def begin(self) -> None:
        """Begin a phase: the app must be seen quiet again, in this phase."""
        self.window.broken()
        self.work_again.begin(self.reading)
        if self._shared.phase() not in _LET_GO:
            self.arrivals = Arrivals()
        self._turn += 1
        self._again.now()

    def read_at(self, moment: float) -> None:
        """Make a reading due at *moment* at the latest, unless the last was begun after it."""
        if self.asked is not None and self.asked < moment:
            self._again.due = min(self._again.due, moment)

    def look(self, now: float) -> None:
        """Begin a reading if one is due."""
        if now >= self._again.due:
            busy = self.reading is not None and not self.reading.idle
            held = HELD if busy and self._shared.phase() is Phase.DRAINING else 0.0
            then = partial(self._looked, self._turn, held)
            self._calls.start(f"{self.name} read", partial(self.probe.read, held), then)

    def _looked(self, turn: int, held: float, result: CallResult) -> None:
        self.asked, self.error, self.reading = result.asked, result.error, result.value
        self.age.answered(result.asked, result.answered)
        if self._shared.phase() is Phase.DRAINING:  # in others the app may well be away
            self._failures.note(result.error)
        if turn != self._turn:
            return  # the next reading is due already
        if result.error is not None or self.reading is None:
            self.window.broken()
            self._again.later(result.answered)
            return
        gap = self._shared.gap(self._pace)
        self.window.saw(self.reading, result.asked, result.answered, gap)
        self.work_again.saw(self.reading, result.asked, result.answered)
        if self._shared.phase() in _LET_GO:
            self.arrivals.saw(self.reading, result.asked, result.answered)
        took = 0.0 if held else result.answered - result.asked
        self._pace = self._pause(self.reading, took)
        self._again.after(self._pace, result.asked)
        self._heard(self.reading, result.answered)

    def _pause(self, reading: Reading, took: float) -> float:
        """
        Return after how many seconds the probe is read again; moments that count are read_at().

        Slow answers mean that many instances are read at once, or that the app is busy:
        then an app that counts its work, and so hides none of it, is asked less often.
        """
        match self._shared.phase():
            case Phase.SERVING:
                return AT_REST
            case Phase.DRAINING:
                often = READ if self._shared.clear() is not None else READ_BEHIND
                spared = 0.0 if reading.started is None else min(SLOWEST, READ_SLOWLY * took)
                return max(often, spared, reading.late / READS_OF_LATE)
            case _:
                return READ_AT_EASE

    def dues(self) -> Iterator[float]:
        """Yield when the next reading is due, if none is under way."""
        yield from self._calls.due(f"{self.name} read", self._again)


class ReadyView:
    """One readiness check, and how often in a row it has passed."""

    def __init__(self, check: ReadyCheck, shared: ViewContext) -> None:
        self.check, self._calls = check, shared.calls
        self.passed = 0
        self.error: AgentError | None = None
        self._again = Backoff(check.every, check.every, shared.chance)
        self._turn = 0

    def begin(self) -> None:
        """Forget earlier passes: they may have been those of another process."""
        self.passed, self.error = 0, None
        self._turn += 1
        self._again.now()

    def look(self, now: float) -> None:
        """Begin a check if one is due."""
        if now >= self._again.due:
            name = f"{self.check.name} ready"
            self._calls.start(name, self.check.ask, partial(self._looked, self._turn))

    def _looked(self, turn: int, result: CallResult) -> None:
        if turn == self._turn:
            self.error = result.error
            self.passed = self.passed + 1 if result.error is None else 0
            self._again.after(self.check.every, result.answered)

    def dues(self) -> Iterator[float]:
        """Yield when the next check is due, if none is under way."""
        yield from self._calls.due(f"{self.check.name} ready", self._again)

    @property
    def ready(self) -> bool:
        """Whether it has passed as often as it must."""
        return self.passed >= self.check.passes
