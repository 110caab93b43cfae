"""What a loop knows of the process under drain, and of the one that takes its place."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from deregister_agent.engine.calls import Backoff, CallResult
from deregister_agent.engine.quiet_window import AnswerAge, QuietWindow
from deregister_agent.engine.view_context import AT_REST, WATCH_FOR, ViewContext
from deregister_agent.model import Presence, Process, Reading
from deregister_agent.ports import ProcessFinder

EVERY = 1.0  # seconds between two looks during a drain; an exit is learned of at once


class ProcessView:
    """The process that is the app: whether it has exited, and who is in its place."""

    def __init__(self, app: Process | None, finder: ProcessFinder, shared: ViewContext) -> None:
        self.app = app  # who the app was when last seen
        self.presence: Presence | None = None
        self.asked = 0.0
        self.age = AnswerAge()  # of the last answer
        self.window = QuietWindow()  # the time that nobody at all has been there
        self.vacant_since: float | None = None  # when the first look showed that, and all since
        self.finder, self._calls, self._shared = finder, shared.calls, shared
        self._about: Process | None = None  # the process that the presence speaks of
        self._again = Backoff(0.05, 1.0, shared.chance)
        self._wait_again = Backoff(0.05, 0.05, shared.chance)
        self._turn = 0  # counts the phases: a look begun in an earlier one proves nothing

    @property
    def exited(self) -> bool:
        """Whether the app is known to have exited."""
        return self.presence is not None and self.presence.exited and self._about == self.app

    @property
    def running(self) -> Process | None:
        """The process that is there, as last seen."""
        return None if self.presence is None else self.presence.running

    @property
    def successor(self) -> Process | None:
        """The process that has taken the place of the app, if the app has exited."""
        return self.presence.running if self.exited and self.presence is not None else None

    @property
    def left(self) -> str:
        """Who of the app lives on though its process has exited, in words; empty: nobody."""
        return self.presence.left if self.exited and self.presence is not None else ""

    @property
    def vacant(self) -> bool:
        """Whether the app and all of it have exited, and nobody has taken its place."""
        return self.exited and self.successor is None and not self.left

    @property
    def is_nobody(self) -> bool:
        """Whether it is certain that nobody is there, and nobody was ever seen to be."""
        return self.app is None and self.presence is not None and self.presence.nobody

    def begin(self) -> None:
        """Begin a phase: that nobody is there must be seen again, in this phase."""
        self.window.broken()
        self._turn += 1
        self._again.now()

    def read_at(self, moment: float) -> None:
        """Make a look due at *moment* at the latest, unless the last was begun after it."""
        if self.asked < moment:
            self._again.due = min(self._again.due, moment)

    def look_now(self) -> None:
        """Make the next look due at once."""
        self._again.now()

    def look(self, now: float) -> None:
        """Begin a look if one is due, and during a drain a wait for the exit."""
        if now >= self._again.due:
            about = self.app
            look = partial(self.finder.look, about)
            self._calls.start("process", look, partial(self._looked, about, self._turn))
        if self._waits and self.app is not None and now >= self._wait_again.due:
            wait = partial(self.finder.wait_exit, self.app, WATCH_FOR)
            self._calls.start("exit", wait, self._may_have_exited)

    @property
    def _waits(self) -> bool:
        return self.app is not None and not self.exited and not self._shared.serving

    def _looked(self, about: Process | None, turn: int, result: CallResult) -> None:
        if about != self.app:
            self._again.now()
            return
        self._about, self.asked = about, result.asked
        self.age.answered(result.asked, result.answered)
        if result.error is None:
            self.presence = result.value
            self._again.after(AT_REST if self._shared.serving else EVERY, result.answered)
        else:
            self.presence = Presence(exited=False, running=None, note=str(result.error))
            self._again.later(result.answered)
        if not self.vacant:
            self.vacant_since = None
        elif self.vacant_since is None:
            self.vacant_since = result.answered
        if turn != self._turn:
            self._again.now()
        elif self.vacant or self.is_nobody:
            gap = self._shared.gap(EVERY)
            self.window.saw(Reading({}), result.asked, result.answered, gap)
        else:
            self.window.broken()

    def _may_have_exited(self, result: CallResult) -> None:
        self._again.now()
        self._wait_again.later(result.answered)

    def closed(self, moment: float) -> Process | None:
        """Return the app that nobody joins from *moment* on: who begins later succeeds it."""
        return self.app and replace(self.app, closed=self.app.closed or moment)

    def open(self) -> None:
        """Let whoever comes belong to the app again: nobody has been told that it may be killed."""
        if self.app is not None:
            self.app = replace(self.app, closed=0.0)

    def follow(self) -> None:
        """Take the process that is there now for the app."""
        if self.presence is not None and self.presence.running is not None:
            self.app = self._about = self.presence.running
            self.presence = replace(self.presence, exited=False)
            self.window.broken()

    def dues(self) -> Iterator[float]:
        """Yield when the next look is due, if none is under way."""
        yield from self._calls.due("process", self._again)
        if self._waits:
            yield from self._calls.due("exit", self._wait_again)
