"""What a loop knows of each registry, probe and process, and when it will ask again."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from deregister_agent.calls import Backoff, Done
from deregister_agent.errors import AgentError, Refused
from deregister_agent.model import Presence, Process, Reading
from deregister_agent.ports import IdleProbe, Registry
from deregister_agent.quiet import QuietWindow
from deregister_agent.ready import ReadyCheck


@dataclass(frozen=True, slots=True)
class Word:
    """What a registry said of the instance, and when it was asked."""

    listed: bool
    stragglers: Sequence[str]
    asked: float


class RegistryView:
    """One registry: what it acknowledged, its last word, and what went wrong last."""

    def __init__(self, registry: Registry, chance: random.Random) -> None:
        self.registry = registry
        self.name = registry.name
        self.acknowledged: float | None = None  # when it took the phase's action
        self.word: Word | None = None
        self.others: int | None = None
        self.refused: Refused | None = None
        self.error: AgentError | None = None  # of the last action
        self.look_error: AgentError | None = None
        self.cursor: str | None = None
        self.watches = True  # until it says that it cannot
        self.act = Backoff(0.1, 5.0, chance)
        self.look = Backoff(0.02, 1.0, chance)
        self.watch = Backoff(0.5, 5.0, chance)

    def begin(self) -> None:
        """Begin a phase that acts: what was acknowledged before is worth nothing in it."""
        self.acknowledged = self.refused = self.error = None
        self.act.now()
        self.look.now()

    def acted(self, done: Done) -> None:
        """Take in how the phase's action went."""
        if done.error is None:
            self.acknowledged, self.error = done.answered, None
            self.look.now()
        elif isinstance(done.error, Refused):
            self.refused = done.error
        else:
            self.error = done.error
            self.act.later(done.answered)

    def looked(self, done: Done, every: float, wanted: bool | None) -> None:
        """
        Take in the registry's word.

        Ask again after *every* seconds at the latest, and sooner while its answer
        is not the *wanted* one (None: any will do).
        """
        self.look_error = done.error
        if done.error is not None:
            self.word = None
            self.look.later(done.answered)
            return
        listed, stragglers = done.value
        self.word = Word(listed, stragglers, done.asked)
        if wanted in {None, listed} and not stragglers:
            self.look.after(every, done.answered)
        else:
            self.look.later(done.answered)

    def watched(self, done: Done) -> None:
        """Take in that the registry's word may have changed, or that it cannot be watched."""
        self.cursor = done.value
        if done.error is not None:
            self.watch.later(done.answered)
        elif done.value is None:
            self.watches = False
        else:
            self.watch.now()
            self.look.now()

    def says(self, since: float) -> Word | None:
        """Return its word if it was asked after *since*, and after it acknowledged the action."""
        if self.word is None or self.word.asked < max(since, self.acknowledged or 0.0):
            return None
        return self.word


class ProbeView:
    """One probe: its last reading and the time it has seen the app quiet."""

    def __init__(self, probe: IdleProbe, chance: random.Random) -> None:
        self.probe = probe
        self.name = probe.name
        self.window = QuietWindow()
        self.reading: Reading | None = None
        self.asked: float | None = None
        self.error: AgentError | None = None
        self.look = Backoff(0.05, 1.0, chance)

    def looked(self, done: Done, every: float) -> None:
        """Take in a reading; the next one begins *every* seconds after this one began."""
        self.asked, self.error = done.asked, done.error
        if done.error is None:
            self.reading = done.value
            self.window.saw(done.value, done.asked, done.answered)
            self.look.after(every, done.asked)
        else:
            self.reading = None
            self.window.broken()
            self.look.later(done.answered)

    @property
    def busy(self) -> bool:
        """Whether the last reading showed work in flight."""
        return self.reading is not None and not self.reading.idle


class ProcessView:
    """The process under drain: whether it has exited, and who is in its place."""

    def __init__(self, chance: random.Random) -> None:
        self.presence: Presence | None = None
        self.asked = 0.0
        self.about: Process | None = None  # the process that the presence speaks of
        self.look = Backoff(0.05, 1.0, chance)
        self.exit = Backoff(0.05, 0.05, chance)

    def may_have_exited(self, done: Done) -> None:
        """Look again at once: a wait for its exit has ended."""
        self.look.now()
        self.exit.later(done.answered)

    def looked(self, done: Done, about: Process | None, every: float) -> None:
        """Take in what was seen of *about*."""
        self.about, self.asked = about, done.asked
        if done.error is None:
            self.presence = done.value
            self.look.after(every, done.answered)
        else:
            self.presence = Presence(exited=False, running=None, note=str(done.error))
            self.look.later(done.answered)


class ReadyView:
    """One readiness check, and how often in a row it has passed."""

    def __init__(self, check: ReadyCheck, chance: random.Random) -> None:
        self.check = check
        self.passed = 0
        self.error: AgentError | None = None
        self.look = Backoff(check.every, check.every, chance)

    def begin(self) -> None:
        """Forget earlier passes: they may have been those of another process."""
        self.passed = 0
        self.look.now()

    def looked(self, done: Done) -> None:
        """Take in one check."""
        self.error = done.error
        self.passed = self.passed + 1 if done.error is None else 0
        self.look.after(self.check.every, done.answered)

    @property
    def ready(self) -> bool:
        """Whether it has passed as often as it must."""
        return self.passed >= self.check.passes
