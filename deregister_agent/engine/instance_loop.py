"""The loop of one instance: act, look, decide, write down."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

from deregister_agent.drain import (
    after_start,
    after_stop,
    announcements,
    moved,
    next_phase,
    overtaken,
)
from deregister_agent.engine.actions import act, keeping
from deregister_agent.engine.blockers import blocking
from deregister_agent.engine.calls import Calls
from deregister_agent.engine.knowledge import AgentContext, InstanceSetup, Knowledge
from deregister_agent.engine.schedule import begin_looks, rest
from deregister_agent.engine.sighting import sighting
from deregister_agent.engine.standing import doubts, refresh
from deregister_agent.engine.status import cursor, status_of
from deregister_agent.errors import JournalError
from deregister_agent.journal.journal import Decision
from deregister_agent.model import UNFINISHED, Announcement, Drain, Phase, Sighting, StopRequest
from deregister_agent.status import Status

log = logging.getLogger(__name__)

RETRY = 1.0  # seconds before trying again when the journal could not be written


class InstanceLoop:
    """
    Takes one instance through its drains.

    tick() is safe to repeat and to interrupt anywhere: what it does follows from
    the phase in the journal and from what it sees. It never waits for the network.
    """

    def __init__(
        self, setup: InstanceSetup, context: AgentContext, wake: Callable[[], None]
    ) -> None:
        self.instance = setup.instance
        self._submit, self._wake = context.submit, wake
        self._written, self._new_id = context.written, context.new_id
        self._notifiers = setup.notifiers
        self._calls = Calls(context.submit, context.clock, wake)
        self.known = Knowledge(setup, context, self._calls)
        self.changed = threading.Condition()  # its lock is held over all that is known
        self._askers = 0  # how many wait for a registry's word: a mere look wakes nobody else
        self._is_doubted = False  # somebody was told that "drained" does not stand
        self.closed = False

    @property
    def drain(self) -> Drain:
        """The drain as it was last written down."""
        return self.known.drain

    # --- what others ask ---

    def stop_traffic(self, request: StopRequest) -> None:
        """Write the wish down and begin; nothing new if a drain is under way. Raises Refused."""
        known = self.known
        if after_stop(self.drain.phase) is not self.drain.phase and not request.force:
            known.guard.ask(self._submit, known.clock)
        with self.changed:
            phase = after_stop(self.drain.phase)
            if phase is self.drain.phase:
                return
            by = {"asked_by": request.asked_by, "reason": request.reason, "force": request.force}
            self._write(self._new_drain(request, phase), phase, by)

    def _new_drain(self, request: StopRequest, phase: Phase) -> Drain:
        now, policy = self.known.clock.now(), self.known.policy
        limit = policy.deadline if request.deadline is None else request.deadline
        return Drain(
            id=self._new_id(),
            instance=self.instance.name,
            phase=phase,
            since=now,
            deadline=now + limit,
            limit=limit,
            on_deadline=request.on_deadline or policy.on_deadline,
            reason=request.reason,
            asked_by=request.asked_by,
            forced=request.force,
            guarded=not request.force and policy.min_others > 0,
            process=self.known.process.app,
        )

    def start_traffic(self, reason: str, asked_by: str) -> None:
        """Write the wish down and begin to restore; nothing new if that is under way."""
        with self.changed:
            phase = after_start(self.drain.phase)
            if phase is not self.drain.phase:
                after = moved(self.drain, phase, Sighting(), self.known.clock.now())
                self._write(after, phase, {"asked_by": asked_by, "reason": reason})

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

    @property
    def is_recalled(self) -> bool:
        """Whether a "drained" of before the agent's restart is seen to hold, or not to."""
        return not self.known.in_doubt

    @property
    def has_looked(self) -> bool:
        """Whether the process has been looked at since this agent began."""
        return self.known.process.presence is not None

    def wait(self, final: Callable[[Drain], bool], timeout: float) -> Drain:
        """Block until *final* says so of the drain, *timeout* is over or the agent stops."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed or final(self.drain), timeout)
            return self.drain

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
            self._wait_for_words(lambda: not self._unheard(now), timeout)
            return self._unheard(now)

    def has_changed(self, cursor_before: str, timeout: float) -> bool:
        """Block as wait() does until the status has another cursor; tell whether it has."""
        with self.changed:
            self._wait_for_words(lambda: cursor(self.known) != cursor_before, timeout)
            return cursor(self.known) != cursor_before

    def _wait_for_words(self, heard: Callable[[], bool], timeout: float) -> None:
        self._askers += 1
        try:
            self.changed.wait_for(lambda: self.closed or heard(), timeout)
        finally:
            self._askers -= 1

    def _unheard(self, since: float) -> list[str]:
        return [view.name for view in self.known.registries if view.looked < since]

    def status(self) -> Status:
        """Return all that is known of the instance, in the form that the HTTP API shows."""
        with self.changed:
            return status_of(self.known)

    def close(self) -> None:
        """Let everybody who waits go."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    # --- the loop ---

    def tick(self) -> float:
        """Act, look, decide, write down. Return in how many seconds to be called again."""
        with self.changed:
            self._calls.collect()
            if self._askers:
                self.changed.notify_all()
            try:
                self._meet_process()
                act(self.known)
                begin_looks(self.known)
                self._decide()
                self.known.error = None
            except JournalError as e:
                log.error("%s: %s; nothing is done until it can be written", self.instance, e)  # noqa: TRY400 - a sentence says more than a stack
                self.known.error = e
                return RETRY
            return rest(self.known)

    def _meet_process(self) -> None:
        """
        Take note of who the app is now.

        Before "drained" a restart changes nothing: the new process is drained in
        the place of the old one. After it, the process that was drained is remembered.
        """
        process, phase = self.known.process, self.drain.phase
        presence = process.presence
        if presence is None or presence.running is None or presence.running == process.app:
            return
        if process.exited and phase in {Phase.DRAINED, Phase.EXPIRED}:
            return
        if process.exited and phase in UNFINISHED and self.drain.announced is not None:
            return  # killed by the word that was taken back: this is the next version
        if phase in UNFINISHED:
            drain = replace(self.drain, process=presence.running)
            if process.exited:
                self._write(drain, "app-restarted", {}, new_phase=False)
            self.known.drain = drain
        process.follow()

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
        elif self._overdue(now):
            drain, kind = replace(self.drain, overdue=True), Announcement.NOT_RESTORED
            self._write(drain, kind, {"blocking": blocking(known)}, new_phase=False)

    def _overdue(self, now: float) -> bool:
        too_long = now - self.known.since >= self.known.policy.restore_deadline
        return self.drain.phase is Phase.RESTORING and too_long and not self.drain.overdue

    # --- write down ---

    def _enter(self, phase: Phase, seen: Sighting, now: float) -> None:
        views = self.known.registries
        after = moved(self.drain, phase, seen, now)
        detail: dict[str, object] = {"from": self.drain.phase}
        if phase in {Phase.DRAINED, Phase.EXPIRED}:
            after = replace(after, process=self.known.process.app)
            detail["took"] = round(now - (after.deadline - after.limit), 3)
        if phase is Phase.EXPIRED:
            detail["blocking"] = blocking(self.known)
        if phase is Phase.DRAINING and self.drain.phase is Phase.DRAINED:
            detail["work"] = doubts(self.known)
        if phase is Phase.WITHDRAWING:
            words = [(view.name, view.says(0.0)) for view in views]
            detail["listed_by"] = [name for name, word in words if word and word.listed]
        self._write(after, phase, detail)

    def _write(
        self, drain: Drain, kind: str, detail: Mapping[str, object], *, new_phase: bool = True
    ) -> None:
        """Write a decision down; only then does it hold."""
        before, after = self.drain.phase, drain.phase
        decision = Decision(
            drain=drain,
            instance=self.instance,
            kind=kind,
            detail=detail,
            announcements=announcements(self.drain, drain) if new_phase else _only(kind),
            notifiers=self._notifiers,
            overtaken=overtaken(before, after) if new_phase else frozenset(),
            ends_drain=new_phase and self.drain.outcome is None and drain.outcome is not None,
            snapshots_of=keeping(self.known) if new_phase and after is Phase.SERVING else None,
        )
        event = self.known.journal.write(decision)
        self.known.drain = drain
        if new_phase:
            log.info("%s: %s -> %s %s", self.instance, before, after, _said(detail))
            self.known.begin_phase()
        self._written(decision, event)
        self.changed.notify_all()
        self._wake()


def _only(kind: str) -> tuple[Announcement, ...]:
    return (Announcement(kind),) if kind in set(Announcement) else ()


def _said(detail: Mapping[str, object]) -> str:
    return " ".join(f"{key}={value}" for key, value in detail.items() if value and key != "from")
