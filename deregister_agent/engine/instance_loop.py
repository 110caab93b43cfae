"""The loop of one instance: act, look, decide, write down."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from deregister_agent.drain import (
    after_start,
    after_stop,
    announcements,
    moved,
    next_phase,
    overtaken,
)
from deregister_agent.engine.actions import act, keep
from deregister_agent.engine.blockers import blocking
from deregister_agent.engine.calls import Calls
from deregister_agent.engine.decision_detail import announced_alone, detail, in_words, refusal
from deregister_agent.engine.first_look import ask_all, look_first, take_in
from deregister_agent.engine.in_service import (
    is_served,
    lost,
    outdated,
    refuse_to_restore,
    restore_detail,
    watch_over,
)
from deregister_agent.engine.knowledge import AgentContext, InstanceSetup, Knowledge
from deregister_agent.engine.new_record import (
    StartRequest,
    asked_detail,
    is_cut_short,
    new_drain,
    new_restore,
)
from deregister_agent.engine.newcomer import meet
from deregister_agent.engine.presence import counts_from, let_count
from deregister_agent.engine.registry_view import RegistryView
from deregister_agent.engine.schedule import begin_looks, rest, restore_due
from deregister_agent.engine.sighting import sighting
from deregister_agent.engine.standing import doubts, refresh
from deregister_agent.engine.status import cursor, status_of
from deregister_agent.engine.waiters import Waiters
from deregister_agent.errors import JournalError
from deregister_agent.journal.journal import Decision
from deregister_agent.model import Announcement, Drain, Outcome, Phase, Sighting, StopRequest
from deregister_agent.status import Status

log = logging.getLogger(__name__)

LOST_WAIT = 2.0  # seconds that start-traffic waits to be told what was lost in service
RETRY = 1.0  # seconds before trying again when the journal could not be written


class InstanceLoop(Waiters):
    """
    Takes one instance through its drains.

    tick() is safe to repeat and to interrupt anywhere: what it does follows from
    the phase in the journal and from what it sees. It never waits for the network.
    """

    def __init__(
        self, setup: InstanceSetup, context: AgentContext, wake: Callable[[], None]
    ) -> None:
        super().__init__()
        self.instance = setup.instance
        self._submit, self._wake = context.submit, wake
        self._written, self._new_id = context.written, context.new_id
        self._notifiers = setup.notifiers
        self._calls = Calls(context.submit, context.clock, wake)
        self.known = Knowledge(setup, context, self._calls)
        self._is_doubted = False  # somebody was told that "drained" does not stand

    @property
    def drain(self) -> Drain:
        """The drain as it was last written down."""
        return self.known.drain

    # --- what others ask ---

    def stop_traffic(self, request: StopRequest) -> None:
        """Write the wish down and begin; nothing new if a drain is under way. Raises Refused."""
        if after_stop(self.drain.phase) is self.drain.phase:
            return
        found = look_first(self.known, self._submit, request)
        with self.changed:
            phase = after_stop(self.drain.phase)
            if phase is self.drain.phase:
                return
            take_in(self.known, found)
            if is_cut_short(self.drain):
                ended = replace(self.drain, outcome=Outcome.CANCELLED)
                self._write(ended, Outcome.CANCELLED, {}, new_phase=False)
            wish = replace(request, if_present=found.nobody)
            self._write(new_drain(self.known, self._new_id(), wish), phase, asked_detail(wish))

    def start_traffic(self, reason: str, asked_by: str, *, anyway: bool = False) -> None:
        """Begin to restore; in service, put back what was lost. Raises CannotRestore."""
        if self.drain.phase is Phase.SERVING:
            request = StartRequest(reason, asked_by, anyway)
            looks = ask_all(self.known, self._submit, LOST_WAIT)
            with self.changed:
                self._put_back(lost(self.known, looks), request)
                self.known.nothing_lost(looks)
            return
        with self.changed:
            phase = after_start(self.drain.phase)
            if phase is not self.drain.phase:
                after = moved(self.drain, phase, Sighting(), self.known.clock.now())
                self._write(after, phase, {"asked_by": asked_by, "reason": reason})

    def _put_back(self, views: Sequence[RegistryView], request: StartRequest) -> None:
        if views and self.drain.phase is Phase.SERVING:
            refuse_to_restore(self.known, views, anyway=request.anyway)
            record = new_restore(self.known, self._new_id(), request)
            self._write(record, record.phase, restore_detail(self.known, views, request))

    def ask_if_serving(self, timeout: float) -> float:
        """
        Ask the registries about an instance in service, until all have told of late.

        At most *timeout* seconds. Return from when on their words count.
        """
        with self.changed:
            if self.drain.phase is not Phase.SERVING:
                return 0.0
            since = self.known.clock.now()
            for view in self.known.registries:
                view.look_after(since)
            self._wake()
            self.wait_for_words(partial(self._is_heard, since), timeout)
            return since

    def _is_heard(self, since: float) -> bool:
        late, now = outdated(self.known, since), self.known.clock.now()
        for view in late:
            if view.look_again.due > now:  # else it is asked already: to wake the loop would spin
                view.look_again.now()
                self._wake()
        return not late

    def stands_by(self, announcement: str) -> bool:
        """
        Tell whether *announcement* may be made now, if nothing has overtaken it.

        "Drained" rests on what was seen a moment ago; where that is older, everything is
        asked again, and whoever waits is woken once the word stands.
        """
        if announcement != Announcement.DRAINED:
            return True
        with self.changed:
            stands = not self.known.in_doubt and not doubts(self.known)
            if not stands:
                self._is_doubted = True
                refresh(self.known)
                self._wake()
            return stands

    def is_served(self, since: float) -> bool | None:
        """
        Tell whether an instance in service is listed everywhere, by words from after *since*.

        None where that is not known, or may yet come; False where others have it out.
        """
        with self.changed:
            return is_served(self.known, since)

    @property
    def is_recalled(self) -> bool:
        """Whether a "drained" of before the agent's restart is seen to hold, or not to."""
        return not self.known.in_doubt

    @property
    def has_looked(self) -> bool:
        """Whether the process has been looked at since this agent began."""
        return self.known.process.presence is not None

    def ask_registries(self, timeout: float) -> list[str]:
        """
        Ask every registry now, and wait for their words for at most *timeout* seconds.

        Return the names of those that have not answered by then.
        """
        with self.changed:
            now = self.known.clock.now()
            for view in self.known.registries:
                view.look_after(now)
            self._wake()
            self.wait_for_words(lambda: not self._unheard(now), timeout)
            return self._unheard(now)

    def has_changed(self, cursor_before: str, timeout: float) -> bool:
        """Block as wait() does until the status has another cursor; tell whether it has."""
        with self.changed:
            self.wait_for_words(lambda: cursor(self.known) != cursor_before, timeout)
            return cursor(self.known) != cursor_before

    def _unheard(self, since: float) -> list[str]:
        return [view.name for view in self.known.registries if view.looked < since]

    def status(self) -> Status:
        """Return all that is known of the instance, in the form that the HTTP API shows."""
        with self.changed:
            return status_of(self.known)

    # --- the loop ---

    def tick(self) -> float:
        """Act, look, decide, write down. Return in how many seconds to be called again."""
        with self.changed:
            self._calls.collect()
            self.tell_askers()
            try:
                self._meet_process()
                watch_over(self.known)
                act(self.known)
                begin_looks(self.known)
                self._decide()
                self.known.error = None
            except JournalError as e:
                return self._wait_for_journal(e)
            return rest(self.known)

    def _wait_for_journal(self, error: JournalError) -> float:
        """
        Decide nothing while that cannot be written down, and go on with what needs no decision.

        The leases of an instance in service would run out, and what is known would grow old.
        """
        if self.known.error is None:
            log.error("%s: %s; nothing is decided until it can be written", self.instance, error)
        self.known.error = error
        keep(self.known)
        begin_looks(self.known)
        return RETRY

    def _meet_process(self) -> None:
        """Take note of who the app is now, and write it down where that changes what is drained."""
        newcomer = meet(self.known)
        if newcomer is None:
            return
        if newcomer.restarted:
            self._write(newcomer.drain, "app-restarted", {}, new_phase=False)
        self.known.follow(newcomer.drain, restarted=newcomer.restarted)

    def _decide(self) -> None:
        """Decide where the drain goes by what is known now, and write that down."""
        known = self.known
        now, seen = known.clock.now(), sighting(known)
        if seen.withdrawn and known.process.asked >= known.since and not known.seen_out:
            known.seen_out = True
            self.changed.notify_all()
        if self._is_doubted and not doubts(known):
            self._is_doubted = False
            self.changed.notify_all()
        phase = next_phase(self.drain, seen, known.policy, now)
        if phase is not self.drain.phase:
            self._enter(phase, seen, now)
        elif now >= restore_due(known):
            drain, kind = replace(self.drain, overdue=True), Announcement.NOT_RESTORED
            self._write(drain, kind, {"blocking": blocking(known)}, new_phase=False)

    # --- write down ---

    def _enter(self, phase: Phase, seen: Sighting, now: float) -> None:
        after = moved(self.drain, phase, seen, now)
        if phase in {Phase.DRAINED, Phase.EXPIRED}:
            after = replace(after, process=self.known.process.closed(now))
        if after.outcome is Outcome.REFUSED and self.drain.outcome is None:
            after = replace(after, refusal=refusal(self.known))
        self._write(after, phase, detail(self.known, after))

    def _write(
        self, drain: Drain, kind: str, said: Mapping[str, object], *, new_phase: bool = True
    ) -> None:
        """Write a decision down; only then does it hold."""
        before, after = self.drain.phase, drain.phase
        decision = Decision(
            drain=drain,
            instance=self.instance,
            kind=kind,
            detail=said,
            announcements=announcements(self.drain, drain) if new_phase else announced_alone(kind),
            notifiers=self._notifiers,
            overtaken=overtaken(before, after) if new_phase else frozenset(),
            ends_drain=new_phase and self.drain.outcome is None and drain.outcome is not None,
            shown=counts_from(self.known, after if new_phase else None),
        )
        event = self.known.journal.write(decision)
        self.known.decided(drain)
        if new_phase:
            log.info("%s: %s -> %s %s", self.instance, before, after, in_words(said))
            let_count(self.known, after)
            self.known.begin_phase()
        self._written(decision, event)
        self.changed.notify_all()
        self._wake()
