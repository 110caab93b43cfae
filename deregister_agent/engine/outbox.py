"""Announcements on their way: at least once each, in order, and never one that no longer holds."""

import logging
from collections.abc import Callable, Mapping
from functools import partial

from deregister_agent.engine.calls import Backoff, CallResult, Calls
from deregister_agent.engine.knowledge import AgentContext
from deregister_agent.errors import JournalError
from deregister_agent.journal.announcements import PendingAnnouncement
from deregister_agent.ports import Notifier

log = logging.getLogger(__name__)

AT_REST = 30.0  # seconds between two looks at an outbox that nobody has put anything in
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds between two tries


class Outbox:
    """
    Delivers what the journal holds to the notifiers of each instance.

    One announcement at a time to each notifier, oldest first. A notifier that does
    not take an announcement gets it again, with the same id, until the notifier
    takes it or the announcement no longer holds.
    """

    def __init__(self, context: AgentContext, wake: Callable[[], None]) -> None:
        self._journal, self._clock = context.journal, context.clock
        self._chance = context.chance
        self._calls = Calls(context.submit, context.clock, wake)
        self._notifiers: dict[tuple[str, str], Notifier] = {}
        self._backoff: dict[tuple[str, str], Backoff] = {}
        self._stands_by: dict[str, Callable[[str], bool]] = {}

    def add(
        self, instance: str, notifiers: Mapping[str, Notifier], stands_by: Callable[[str], bool]
    ) -> None:
        """Deliver the announcements of *instance* that it *stands_by* to *notifiers*."""
        self._stands_by[instance] = stands_by
        for label, notifier in notifiers.items():
            self._notifiers[instance, label] = notifier
            self._backoff[instance, label] = Backoff(FIRST_WAIT, LONGEST_WAIT, self._chance)

    def pending(self) -> list[PendingAnnouncement]:
        """
        Return what has yet to be taken by a notifier that is configured.

        What is for another stays in the journal, and is not waited for.
        """
        pending = self._journal.pending_announcements()
        return [one for one in pending if _receiver(one) in self._notifiers]

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
        for announcement in self.pending():
            to = _receiver(announcement)
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
            if not self._stands_by[to[0]](announcement.event.kind):
                rest = min(rest, FIRST_WAIT)
                continue
            call = partial(self._announce, self._notifiers[to], announcement)
            self._calls.start(name, call, partial(self._answered, to, announcement))
        return rest

    def _announce(self, notifier: Notifier, announcement: PendingAnnouncement) -> bool:
        """Tell the notifier if the announcement still holds; return whether it did. On a thread."""
        holds = self._journal.still_holds(announcement)
        if holds:
            notifier.announce(announcement.event)
        return holds

    def _answered(
        self, to: tuple[str, str], announcement: PendingAnnouncement, result: CallResult
    ) -> None:
        event = announcement.event
        self._backoff[to].later(result.answered)  # also where the journal cannot take what follows
        if result.error is not None:
            self._journal.not_delivered(announcement, str(result.error))
            log.warning("%s: will announce %s again: %s", event.instance, event.kind, result.error)
            return
        if result.value:  # otherwise it was overtaken, and nobody was told
            self._journal.delivered(announcement)
            log.info("%s: announced %s to %s", event.instance, event.kind, announcement.notifier)
        self._backoff[to].now()


def _receiver(announcement: PendingAnnouncement) -> tuple[str, str]:
    """Return the names of the instance and of the notifier that is told."""
    return announcement.event.instance.name, announcement.notifier
