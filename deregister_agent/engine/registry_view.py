"""What a loop knows of one registry: what it acknowledged and said, and when to ask again."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from deregister_agent.engine.calls import Backoff, CallResult, FailureLog
from deregister_agent.engine.quiet_window import AnswerAge
from deregister_agent.engine.view_context import AT_REST, WATCH_FOR, ViewContext
from deregister_agent.errors import AgentError, Refused
from deregister_agent.model import Listing, Look, Phase, Snapshot
from deregister_agent.ports import Registry

POLL = 0.5  # seconds between two looks at a registry that cannot be watched

ACTING = frozenset({Phase.WITHDRAWING, Phase.EXPIRED, Phase.RESTORING})
"""The phases whose action is asked of the registries."""


@dataclass(frozen=True, slots=True)
class RegistryWord:
    """What a registry said of the instance, and when it was asked."""

    look: Look
    asked: float

    @property
    def listed(self) -> bool:
        """Whether it would send work to the instance."""
        return self.look.listed

    @property
    def sends(self) -> bool:
        """Whether it would send work, or may still do so along old routes."""
        return self.listed or bool(self.look.stragglers)

    @property
    def awaited(self) -> list[str]:
        """The stragglers that hold up a drain."""
        return [one.what for one in self.look.stragglers]


class RegistryView:
    """One registry: what it acknowledged, its last word, and what went wrong last."""

    def __init__(self, registry: Registry, shared: ViewContext) -> None:
        self.registry, self._calls, self._shared = registry, shared.calls, shared
        self.name = registry.name
        self.acknowledged: float | None = None  # when it took the phase's action
        self.refused: Refused | None = None
        self.error: AgentError | None = None  # of the last action
        self.word: RegistryWord | None = None
        self.look_error: AgentError | None = None
        self.clear: float | None = None  # when it had first said that it sends nothing any more
        self.others: int | None = None
        self.identity = registry.name  # where and as what the instance is looked for
        self.seen = False  # whether it has shown the process that is there now
        self.seen_once = False  # whether it has ever shown it, be it another process
        self.seen_from = 0.0  # words of before say nothing about that process
        self.is_alone = False  # whether nothing else there was found to send it work, in this drain
        self.out_by = ""  # by what somebody else had it out before it was withdrawn
        self.was_out = ""  # the same by its snapshot, where its looks cannot tell
        self.has_snapshot = False  # whether it was withdrawn, and not put back yet
        self.owed = False  # an older journal has what start-traffic may put back there
        self.good: Snapshot | None = None  # the registration as last read while it serves
        self.kept: Snapshot | None = None  # the same, as the journal has it
        self.looked = 0.0  # when the last look that has ended was begun
        self.age = AnswerAge()  # of the last answer
        self.look_again = Backoff(0.02, 0.25, shared.chance)
        self._wanted = 0.0  # somebody waits for a look that is begun after this
        self.keep_error: AgentError | None = None
        self._act_again = Backoff(0.1, 5.0, shared.chance)
        self._keep_again = Backoff(0.1, 5.0, shared.chance)
        self._watch_again = Backoff(0.5, 5.0, shared.chance)
        self._act_failures, self._look_failures = FailureLog(), FailureLog()
        self._keep_failures = FailureLog()
        self._watches = True  # until it says that it cannot
        self._cursor: str | None = None
        self._sent = False  # whether it sends work, by its last answer in this drain
        self.ceased = 0.0  # when it was first heard that it does no more; 0: it never did
        self._turn = 0  # counts the phases that act: late answers belong to an earlier one

    def begin(self) -> None:
        """Begin a phase that acts: what was acknowledged before is worth nothing in it."""
        self.acknowledged = self.refused = self.error = self.keep_error = self.clear = None
        self._turn += 1
        self._act_again.now()
        self._keep_again.now()

    def begin_drain(self, *, is_alone: bool) -> None:
        """Begin a drain; *is_alone*: nothing else in the registry was found to send it work."""
        self.is_alone, self._sent, self.ceased = is_alone, False, 0.0

    def forget(self, now: float) -> None:
        """Forget that it has shown the instance: what counts is seen from *now* on."""
        self.seen_once |= self.seen
        self.seen, self.seen_from, self.kept = False, now, None
        self.look_again.now()

    @property
    def sends(self) -> bool:
        """
        Whether its last word, of whatever age, was that it sends work, if by old routes only.

        A look that fails takes nothing back of what it has said in this drain.
        """
        return self._sent if self.word is None else self.word.sends

    def act(self, action: Callable[[], None], now: float) -> None:
        """Ask for the phase's action, unless it was refused, has been done or must wait."""
        if self._to_do and now >= self._act_again.due:
            self._calls.start(f"{self.name} act", action, partial(self._acted, self._turn))

    @property
    def _to_do(self) -> bool:
        """
        Whether the action must be asked for.

        An acknowledgement that the registry's word contradicts is worth nothing: the
        registry did not do as it said, or somebody has registered the instance since.
        """
        if self.refused is not None:
            return False
        return self.acknowledged is None or self._contradicts(self.says(0.0))

    def _contradicts(self, word: RegistryWord | None) -> bool:
        return word is not None and word.listed is not (self._shared.phase() is Phase.RESTORING)

    def _acted(self, turn: int, result: CallResult) -> None:
        if turn != self._turn:
            return
        self._act_failures.note(None if isinstance(result.error, Refused) else result.error)
        if result.error is None:
            self.acknowledged, self.error, self.clear = result.answered, None, None
            self.look_again.now()
            self._act_again.later(result.answered)
        elif isinstance(result.error, Refused) and self._shared.phase() is Phase.WITHDRAWING:
            self.refused = result.error
        else:
            self.error = result.error
            self._act_again.later(result.answered)

    def keep(self, prolong: Callable[[], float], now: float) -> None:
        """
        Prolong what the registry restored, if that is due.

        Never beside an action: a withdraw that overtook the call would be undone.
        """
        if self._to_keep and now >= self._keep_again.due:
            self._calls.start(f"{self.name} act", prolong, partial(self._kept, self._turn))

    @property
    def _to_keep(self) -> bool:
        restored = self._shared.phase() is Phase.RESTORING and self.acknowledged is not None
        return self.registry.keeps and (self._shared.serving or restored)

    def _kept(self, turn: int, result: CallResult) -> None:
        if turn != self._turn:
            return
        self.keep_error = result.error
        self._keep_failures.note(result.error)
        if result.error is not None:
            self._keep_again.later(result.answered)
        else:
            self._keep_again.after(result.value, result.answered)

    def look(self, now: float) -> None:
        """Begin the reads that are due."""
        if now >= self.look_again.due:
            read = partial(_ask, self.registry, serving=self._shared.serving)
            self._calls.start(f"{self.name} look", read, self._looked)
        if self._watching and now >= self._watch_again.due:
            watch = partial(self.registry.watch, self._cursor, WATCH_FOR)
            self._calls.start(f"{self.name} watch", watch, self._watched)

    @property
    def _watching(self) -> bool:
        return self._watches and not self._shared.serving

    def look_after(self, moment: float) -> None:
        """Look as soon as possible, and after *moment*: a look under way may have seen less."""
        self._wanted = moment
        self.look_again.now()

    def look_at(self, moment: float) -> None:
        """Make a look due at *moment* at the latest, unless the last was begun after it."""
        if self.looked < moment:
            self.look_again.due = min(self.look_again.due, moment)

    def _looked(self, result: CallResult) -> None:
        self.looked = result.asked
        self.age.answered(result.asked, result.answered)
        self._heard(result)
        if result.asked < self._wanted:
            self.look_again.now()

    def _heard(self, result: CallResult) -> None:
        self.look_error = result.error
        self._look_failures.note(result.error)
        if result.error is not None:
            self.word = self.clear = None
            self.look_again.later(result.answered)
            return
        look, others, self.good = result.value
        self.seen_once |= look.listed
        self.word = RegistryWord(self._told_apart(look), result.asked)
        if self._sent and not self.word.sends:
            self.ceased = result.answered
        self._sent = self.word.sends
        self.others = self.others if others is None else others
        phase, word = self._shared.phase(), self.says(0.0)
        if word is None or word.listed or word.awaited:
            self.clear = None
        elif self.clear is None:
            self.clear = result.answered
        if word is not None and not self._contradicts(word):
            self._act_again.now()  # as it should be: if it changes, there is no need to wait
        if word is None:
            self.look_again.now()  # overtaken by what it acknowledged in the meantime
        elif phase is Phase.SERVING:
            self.look_again.after(AT_REST, result.answered)
        elif word.awaited or (phase in ACTING and self._contradicts(word)):
            self.look_again.later(result.answered)  # not yet what was asked for: look again soon
        else:
            self.look_again.after(WATCH_FOR if self._watches else POLL, result.answered)

    def _told_apart(self, look: Look) -> Look:
        """Return a *look* that tells by what the instance is out, if its snapshot has told."""
        if look.listed:
            self.was_out = ""
        is_theirs = look.listing is Listing.OUT and not look.out_by and self.was_out
        return replace(look, out_by=self.was_out) if is_theirs else look

    def _watched(self, result: CallResult) -> None:
        self._cursor = result.value
        if result.error is not None:
            self._watch_again.later(result.answered)
        elif result.value is None:
            self._watches = False
        else:
            self._watch_again.now()
            self.look_again.now()

    def says(self, since: float) -> RegistryWord | None:
        """Return the last word if asked for after *since* and after the acknowledgement."""
        if self.word is None or self.word.asked < max(since, self.acknowledged or 0.0):
            return None
        return self.word

    def dues(self) -> Iterator[float]:
        """Yield when each call that is not under way is due; calls under way wake the loop."""
        yield from self._calls.due(f"{self.name} look", self.look_again)
        if self._watching:
            yield from self._calls.due(f"{self.name} watch", self._watch_again)

    def keep_dues(self) -> Iterator[float]:
        """Yield when what was restored must be prolonged, if it must."""
        if self._to_keep:
            yield from self._calls.due(f"{self.name} act", self._keep_again)

    def act_dues(self) -> Iterator[float]:
        """Yield when the action is due, if it must be asked for and is not under way."""
        if self._to_do:
            yield from self._calls.due(f"{self.name} act", self._act_again)


def _ask(registry: Registry, *, serving: bool) -> tuple[Look, int | None, Snapshot | None]:
    """Ask for a word; while the instance serves, for the others and the registration, too."""
    others = registry.others() if serving else None
    look = registry.look()
    return look, others, _registration(registry) if serving and look.listed else None


def _registration(registry: Registry) -> Snapshot | None:
    """Return the registration as it is; that it cannot be read says nothing about the word."""
    try:
        return registry.snapshot()
    except AgentError:
        return None
