"""Announcements on their way: at least once each, in order, and never one that no longer holds."""

import logging
import random
from collections.abc import Callable, Mapping
from functools import partial

from deregister_agent.engine.calls import Backoff, Calls, Done, Submit
from deregister_agent.errors import JournalError
from deregister_agent.host.clock import Clock
from deregister_agent.journal.announcements import Letter
from deregister_agent.journal.journal import Journal
from deregister_agent.ports import Notifier

log = logging.getLogger(__name__)

AT_REST = 30.0  # seconds between two looks at an outbox that nobody has put anything in
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds between two tries


class Outbox:
    """
    Delivers what the journal holds to the notifiers of each instance.

    One announcement at a time to each notifier, oldest first. A notifier that
    does not take it gets it again, with the same id, until it does or until the
    announcement no longer holds.
    """

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        submit: Submit,
        chance: random.Random,
        wake: Callable[[], None],
    ) -> None:
        self._journal, self._clock, self._chance = journal, clock, chance
        self._calls = Calls(submit, clock, wake)
        self._notifiers: dict[tuple[str, str], Notifier] = {}
        self._backoff: dict[tuple[str, str], Backoff] = {}
        self._stands_by: dict[str, Callable[[str], bool]] = {}

    def add(
        self, instance: str, notifiers: Mapping[str, Notifier], stands_by: Callable[[str], bool]
    ) -> None:
        """Deliver the announcements of *instance* to these, while it *stands_by* their kind."""
        self._stands_by[instance] = stands_by
        for label, notifier in notifiers.items():
            self._notifiers[instance, label] = notifier
            self._backoff[instance, label] = Backoff(FIRST_WAIT, LONGEST_WAIT, self._chance)

    def waiting(self) -> list[Letter]:
        """
        Return what has yet to be taken by a notifier that is here.

        What is for one that is configured no more stays in the journal, and is not waited for.
        """
        letters = self._journal.letters()
        return [one for one in letters if _to(one) in self._notifiers]

    def tick(self) -> float:
        """Deliver what is due. Return in how many seconds to be called again."""
        try:
            self._calls.collect()
            return self._deliver()
        except JournalError as e:
            log.error("announcements wait: %s", e)  # noqa: TRY400 - a sentence says more
            return FIRST_WAIT

    def _deliver(self) -> float:
        now, rest, seen = self._clock.now(), AT_REST, set()
        for letter in self.waiting():
            to = _to(letter)
            if to in seen:
                continue  # waits behind an older one
            seen.add(to)
            name = f"{to[0]} {to[1]}"
            if self._calls.busy(name):
                continue
            wait = self._backoff[to].due - now
            if wait > 0:
                rest = min(rest, wait)
                continue
            if not self._stands_by[to[0]](letter.event.kind):
                rest = min(rest, FIRST_WAIT)
                continue
            call = partial(self._announce, self._notifiers[to], letter)
            self._calls.start(name, call, partial(self._answered, to, letter))
        return rest

    def _announce(self, notifier: Notifier, letter: Letter) -> bool:
        """Tell the notifier, if that is still true, and return whether it was. On a thread."""
        holds = self._journal.still_holds(letter)
        if holds:
            notifier.announce(letter.event)
        return holds

    def _answered(self, to: tuple[str, str], letter: Letter, done: Done) -> None:
        event = letter.event
        self._backoff[to].later(done.answered)  # also where the journal cannot take what follows
        if done.error is not None:
            self._journal.not_delivered(letter, str(done.error))
            log.warning("%s: will announce %s again: %s", event.instance, event.kind, done.error)
            return
        if done.value:  # otherwise it was overtaken, and nobody was told
            self._journal.delivered(letter)
            log.info("%s: announced %s to %s", event.instance, event.kind, letter.notifier)
        self._backoff[to].now()


def _to(letter: Letter) -> tuple[str, str]:
    """Return the instance and the notifier of a letter."""
    return letter.event.instance.name, letter.notifier
