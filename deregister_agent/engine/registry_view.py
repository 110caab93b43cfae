"""What a loop knows of one registry: what it acknowledged, what it said, and when to ask again."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from deregister_agent.engine.calls import Backoff, Done, Trouble
from deregister_agent.engine.probe_view import AT_REST, WATCH_FOR, Rounds
from deregister_agent.errors import AgentError, Refused
from deregister_agent.model import Phase, Straggler
from deregister_agent.ports import Registry

POLL = 0.5  # seconds between two looks at a registry that cannot be watched

ACTING = frozenset({Phase.WITHDRAWING, Phase.EXPIRED, Phase.RESTORING})
"""The phases whose action is asked of the registries."""


@dataclass(frozen=True, slots=True)
class Word:
    """What a registry said of the instance, and when it was asked."""

    listed: bool
    stragglers: Sequence[Straggler]
    asked: float

    @property
    def awaited(self) -> list[str]:
        """The stragglers that hold up a drain."""
        return [one.what for one in self.stragglers]


class RegistryView:
    """One registry: what it acknowledged, its last word, and what went wrong last."""

    def __init__(self, registry: Registry, rounds: Rounds) -> None:
        self.registry, self._calls, self._rounds = registry, rounds.calls, rounds
        self.name = registry.name
        self.acknowledged: float | None = None  # when it took the phase's action
        self.refused: Refused | None = None
        self.error: AgentError | None = None  # of the last action
        self.word: Word | None = None
        self.look_error: AgentError | None = None
        self.clear: float | None = None  # when it had first said that it sends nothing any more
        self.others: int | None = None
        self.looked = 0.0  # when the last look that has ended was begun
        self.look_again = Backoff(0.02, 0.25, rounds.chance)
        self._wanted = 0.0  # somebody waits for a look that is begun after this
        self.keep_error: AgentError | None = None
        self._act_again = Backoff(0.1, 5.0, rounds.chance)
        self._keep_again = Backoff(0.1, 5.0, rounds.chance)
        self._watch_again = Backoff(0.5, 5.0, rounds.chance)
        self._act_trouble, self._look_trouble, self._keep_trouble = Trouble(), Trouble(), Trouble()
        self._watches = True  # until it says that it cannot
        self._cursor: str | None = None
        self._turn = 0  # counts the phases that act: late answers belong to an earlier one

    def begin(self) -> None:
        """Begin a phase that acts: what was acknowledged before is worth nothing in it."""
        self.acknowledged = self.refused = self.error = self.keep_error = self.clear = None
        self._turn += 1
        self._act_again.now()
        self._keep_again.now()

    def act(self, action: Callable[[], None], now: float) -> None:
        """Ask for the phase's action, unless it was refused, has been done or must wait."""
        if self._to_do and now >= self._act_again.due:
            self._calls.start(f"{self.name} act", action, partial(self._acted, self._turn))

    @property
    def _to_do(self) -> bool:
        """
        Whether the action must be asked for.

        An acknowledgement that its word contradicts afterwards is worth nothing: it
        did not do as it said, or somebody has registered the instance since.
        """
        if self.refused is not None:
            return False
        return self.acknowledged is None or self._contradicts(self.says(0.0))

    def _contradicts(self, word: Word | None) -> bool:
        return word is not None and word.listed is not (self._rounds.phase() is Phase.RESTORING)

    def _acted(self, turn: int, done: Done) -> None:
        if turn != self._turn:
            return
        self._act_trouble.saw(None if isinstance(done.error, Refused) else done.error)
        if done.error is None:
            self.acknowledged, self.error, self.clear = done.answered, None, None
            self.look_again.now()
            self._act_again.later(done.answered)
        elif isinstance(done.error, Refused):
            self.refused = done.error
        else:
            self.error = done.error
            self._act_again.later(done.answered)

    def keep(self, prolong: Callable[[], float], now: float) -> None:
        """
        Prolong what it restored, if that is due.

        Never beside an action: a withdraw that overtook it would be undone.
        """
        if self._to_keep and now >= self._keep_again.due:
            self._calls.start(f"{self.name} act", prolong, partial(self._kept, self._turn))

    @property
    def _to_keep(self) -> bool:
        restored = self._rounds.phase() is Phase.RESTORING and self.acknowledged is not None
        return self.registry.keeps and (self._rounds.serving or restored)

    def _kept(self, turn: int, done: Done) -> None:
        if turn != self._turn:
            return
        self.keep_error = done.error
        self._keep_trouble.saw(done.error)
        if done.error is not None:
            self._keep_again.later(done.answered)
        else:
            self._keep_again.after(done.value, done.answered)

    def look(self, now: float) -> None:
        """Begin the reads that are due."""
        if now >= self.look_again.due:
            read = partial(_ask, self.registry, count_others=self._rounds.serving)
            self._calls.start(f"{self.name} look", read, self._looked)
        if self._watching and now >= self._watch_again.due:
            watch = partial(self.registry.watch, self._cursor, WATCH_FOR)
            self._calls.start(f"{self.name} watch", watch, self._watched)

    @property
    def _watching(self) -> bool:
        return self._watches and not self._rounds.serving

    def look_anew(self, now: float) -> None:
        """Look as soon as possible, and not before *now*: one under way may have seen less."""
        self._wanted = now
        self.look_again.now()

    def look_at(self, moment: float) -> None:
        """Make sure that a look begins at *moment* or soon after: "drained" hangs on it."""
        if self.looked < moment:
            self.look_again.due = min(self.look_again.due, moment)

    def _looked(self, done: Done) -> None:
        self.looked = done.asked
        self._heard(done)
        if done.asked < self._wanted:
            self.look_again.now()

    def _heard(self, done: Done) -> None:
        self.look_error = done.error
        self._look_trouble.saw(done.error)
        if done.error is not None:
            self.word = self.clear = None
            self.look_again.later(done.answered)
            return
        listed, stragglers, others = done.value
        self.word = Word(listed, stragglers, done.asked)
        self.others = self.others if others is None else others
        phase, word = self._rounds.phase(), self.says(0.0)
        if word is None or word.listed or word.awaited:
            self.clear = None
        elif self.clear is None:
            self.clear = done.answered
        if word is not None and not self._contradicts(word):
            self._act_again.now()  # as it should be: if it changes, there is no need to wait
        if word is None:
            self.look_again.now()  # overtaken by what it acknowledged in the meantime
        elif phase is Phase.SERVING:
            self.look_again.after(AT_REST, done.answered)
        elif word.awaited or (phase in ACTING and self._contradicts(word)):
            self.look_again.later(done.answered)  # not yet what was asked for: look again soon
        else:
            self.look_again.after(WATCH_FOR if self._watches else POLL, done.answered)

    def _watched(self, done: Done) -> None:
        self._cursor = done.value
        if done.error is not None:
            self._watch_again.later(done.answered)
        elif done.value is None:
            self._watches = False
        else:
            self._watch_again.now()
            self.look_again.now()

    def says(self, since: float) -> Word | None:
        """Return its word if it was asked after *since*, and after it acknowledged the action."""
        if self.word is None or self.word.asked < max(since, self.acknowledged or 0.0):
            return None
        return self.word

    def dues(self) -> Iterator[float]:
        """Yield when each call that is not under way is due; those under way wake the loop."""
        yield from self._calls.due(f"{self.name} look", self.look_again)
        if self._watching:
            yield from self._calls.due(f"{self.name} watch", self._watch_again)

    def keep_dues(self) -> Iterator[float]:
        """Yield when what it restored must be prolonged, if that is to be done."""
        if self._to_keep:
            yield from self._calls.due(f"{self.name} act", self._keep_again)

    def act_dues(self) -> Iterator[float]:
        """Yield when the action is due, if it must be asked for and is not under way."""
        if self._to_do:
            yield from self._calls.due(f"{self.name} act", self._act_again)


def _ask(registry: Registry, *, count_others: bool) -> tuple[bool, Sequence[Straggler], int | None]:
    others = registry.others() if count_others else None
    return *registry.look(), others
