"""The loop of one instance: act, look, decide, write down."""

import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from deregister_agent.drain import (
    after_start,
    after_stop,
    announcements,
    moved,
    next_phase,
    overtaken,
)
from deregister_agent.engine.actions import act, action, keeping
from deregister_agent.engine.blockers import blocking
from deregister_agent.engine.calls import Calls, Submit
from deregister_agent.engine.last_instance_guard import Guard
from deregister_agent.engine.probe_view import AT_REST, ProbeView, ReadyView, Rounds
from deregister_agent.engine.process_view import ProcessView
from deregister_agent.engine.quiet_window import lateness, quiet_since
from deregister_agent.engine.registry_view import ACTING, RegistryView
from deregister_agent.engine.sighting import clear, is_ready, quiet_windows, sighting
from deregister_agent.engine.status import cursor, report
from deregister_agent.errors import AgentError, JournalError
from deregister_agent.host.clock import Clock
from deregister_agent.host.process_finder import ProcessFinder
from deregister_agent.journal.journal import Entry, Journal, new_drain_id
from deregister_agent.model import (
    UNFINISHED,
    Announcement,
    Drain,
    Instance,
    Phase,
    Policy,
    Sighting,
    StopRequest,
)
from deregister_agent.ports import IdleProbe, Registry
from deregister_agent.probes.ready_check import ReadyCheck

log = logging.getLogger(__name__)

RETRY = 1.0  # seconds before trying again when the journal could not be written


@dataclass(frozen=True, slots=True)
class Parts:
    """What one instance's loop works with."""

    instance: Instance
    policy: Policy
    registries: Sequence[Registry]
    probes: Sequence[IdleProbe]
    finder: ProcessFinder
    ready: Sequence[ReadyCheck] = ()
    notifiers: Mapping[str, frozenset[Announcement]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the loops of one agent share."""

    journal: Journal
    clock: Clock
    submit: Submit
    chance: random.Random
    told: Callable[[Entry, int], None]  # what has been written down, and its event id
    new_id: Callable[[], str] = new_drain_id


class InstanceLoop:
    """
    Takes one instance through its drains.

    tick() is safe to repeat and to interrupt anywhere: what it does follows from
    the phase in the journal and from what it sees. It never waits for the network.
    """

    def __init__(self, parts: Parts, around: Surroundings, wake: Callable[[], None]) -> None:
        self.instance, self.policy = parts.instance, parts.policy
        self.journal, self.clock, self._submit = around.journal, around.clock, around.submit
        self._told, self._new_id, self._wake = around.told, around.new_id, wake
        self._notifiers = parts.notifiers
        self.guard = Guard(parts.instance, parts.registries, parts.policy.min_others)
        self._calls = Calls(around.submit, around.clock, wake)
        self.drain = around.journal.current(parts.instance.name)
        rounds = Rounds(self._calls, around.chance, lambda: self.drain.phase, lambda: clear(self))
        self.registries = [RegistryView(one, rounds) for one in parts.registries]
        self.probes = [ProbeView(one, parts.finder.heard, rounds) for one in parts.probes]
        self.ready = [ReadyView(one, rounds) for one in parts.ready]
        self.process = ProcessView(self.drain.process, parts.finder, rounds)
        self.changed = threading.Condition()  # its lock is held over everything here but calls
        self.since = around.clock.now()  # when this phase began, in this process life
        if self.drain.phase is Phase.SETTLING:
            self.drain = replace(self.drain, since=self.since)  # routes may be newer than that
        self._seen_out = False  # whether "drained" was decided or seen to hold in this process life
        self._askers = 0  # how many wait for a registry's word: a mere look wakes nobody else
        self.error: AgentError | None = None
        self.closed = False

    # --- what others ask ---

    def stop_traffic(self, request: StopRequest) -> None:
        """Write the wish down and begin; nothing new if a drain is under way. Raises Refused."""
        if after_stop(self.drain.phase) is not self.drain.phase and not request.force:
            self.guard.ask(self._submit, self.clock)
        with self.changed:
            phase = after_stop(self.drain.phase)
            if phase is self.drain.phase:
                return
            now = self.clock.now()
            limit = self.policy.deadline if request.deadline is None else request.deadline
            drain = Drain(
                id=self._new_id(),
                instance=self.instance.name,
                phase=phase,
                since=now,
                deadline=now + limit,
                limit=limit,
                on_deadline=request.on_deadline or self.policy.on_deadline,
                reason=request.reason,
                asked_by=request.asked_by,
                forced=request.force,
                guarded=not request.force and self.policy.min_others > 0,
                process=self.process.app,
            )
            by = {"asked_by": request.asked_by, "reason": request.reason, "force": request.force}
            self._write(drain, phase, by)

    def start_traffic(self, reason: str, asked_by: str) -> None:
        """Write the wish down and begin to restore; nothing new if that is under way."""
        with self.changed:
            phase = after_start(self.drain.phase)
            if phase is not self.drain.phase:
                after = moved(self.drain, phase, Sighting(), self.clock.now())
                self._write(after, phase, {"asked_by": asked_by, "reason": reason})

    def stands_by(self, announcement: str) -> bool:
        """
        Tell whether *announcement* may be made now, if nothing has overtaken it.

        After a restart "drained" is worth nothing until the registries have been
        asked again: the instance may have been registered while no agent was there.
        """
        of_old = self.drain.phase is Phase.DRAINED and not self._seen_out
        return not (of_old and announcement == Announcement.DRAINED)

    def wait(self, final: Callable[[Drain], bool], timeout: float) -> Drain:
        """Block until *final* says so of the drain, *timeout* is over or the agent stops."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed or final(self.drain), timeout)
            return self.drain

    def look_anew(self, timeout: float) -> list[str]:
        """
        Ask every registry again, now, and wait for their words for at most *timeout* seconds.

        Return the names of those that have not answered by then.
        """
        with self.changed:
            now = self.clock.now()
            for view in self.registries:
                view.look_anew(now)
            self._wake()
            self._wait_for_words(lambda: not self._unheard(now), timeout)
            return self._unheard(now)

    def is_other(self, known: str, timeout: float) -> bool:
        """Block until the cursor of the report is not *known*, and tell; as wait() otherwise."""
        with self.changed:
            self._wait_for_words(lambda: cursor(self) != known, timeout)
            return cursor(self) != known

    def _wait_for_words(self, heard: Callable[[], bool], timeout: float) -> None:
        self._askers += 1
        try:
            self.changed.wait_for(lambda: self.closed or heard(), timeout)
        finally:
            self._askers -= 1

    def _unheard(self, since: float) -> list[str]:
        return [view.name for view in self.registries if view.looked < since]

    def report(self) -> dict[str, Any]:
        """Return all that is known of the instance, in the form that the HTTP API shows."""
        with self.changed:
            return report(self)

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
                act(self)
                self._look()
                now = self.clock.now()
                seen = sighting(self)
                if seen.withdrawn and self.process.asked >= self.since and not self._seen_out:
                    self._seen_out = True
                    self.changed.notify_all()
                phase = next_phase(self.drain, seen, self.policy, now)
                if phase is not self.drain.phase:
                    self._enter(phase, seen, now)
                elif self._overdue(now):
                    self._announce_overdue()
                self.error = None
            except JournalError as e:
                log.error("%s: %s; nothing is done until it can be written", self.instance, e)  # noqa: TRY400 - a sentence says more than a stack
                self.error = e
                return RETRY
            return self._rest()

    def _look(self) -> None:
        """Begin every reading that is due. Reads only."""
        now = self.clock.now()
        windows = quiet_windows(self)
        began = quiet_since(windows)
        if began is not None and self.drain.phase is Phase.DRAINING:
            enough = max(began + self.policy.quiet, clear(self) or 0.0)
            self.process.read_at(enough)
            for probe in self.probes:
                probe.read_at(enough + probe.window.late)
            for view in self.registries:
                view.look_at(enough + lateness(windows))
        for each in self._looking():
            each.look(now)

    def _looking(self) -> Sequence[RegistryView | ProbeView | ReadyView | ProcessView]:
        """Return what is looked at in this phase: readiness only where something hangs on it."""
        waited_for = self.drain.phase in {Phase.GONE, Phase.RESTORING}
        kept_for = self.drain.phase is Phase.SERVING and keeping(self)
        ready = self.ready if waited_for or kept_for else ()
        return (*self.registries, *self.probes, *ready, self.process)

    def _meet_process(self) -> None:
        """
        Take note of who the app is now.

        Before "drained" a restart changes nothing: the new process is drained in
        the place of the old one. After it, the one that was drained is remembered.
        """
        presence, process = self.process.presence, self.process
        if presence is None or presence.running is None or presence.running == process.app:
            return
        if process.exited and self.drain.phase in {Phase.DRAINED, Phase.EXPIRED}:
            return
        if self.drain.phase in UNFINISHED:
            drain = replace(self.drain, process=presence.running)
            if process.exited:
                self._write(drain, "app-restarted", {}, new_phase=False)
            self.drain = drain
        process.follow()

    # --- write down ---

    def _enter(self, phase: Phase, seen: Sighting, now: float) -> None:
        before = self.drain.phase
        after = moved(self.drain, phase, seen, now)
        detail: dict[str, object] = {"from": before}
        if phase in {Phase.DRAINED, Phase.EXPIRED}:
            after = replace(after, process=self.process.app)
            detail["took"] = round(now - (after.deadline - after.limit), 3)
        if phase is Phase.EXPIRED:
            detail["blocking"] = blocking(self)
        if phase is Phase.WITHDRAWING:
            words = [(view.name, view.says(0.0)) for view in self.registries]
            detail["listed_by"] = [name for name, word in words if word and word.listed]
        self._write(after, phase, detail)

    def _overdue(self, now: float) -> bool:
        drain = self.drain
        too_long = now - self.since >= self.policy.restore_deadline
        return drain.phase is Phase.RESTORING and too_long and not drain.overdue

    def _announce_overdue(self) -> None:
        drain = replace(self.drain, overdue=True)
        self._write(drain, Announcement.NOT_RESTORED, {"blocking": blocking(self)}, new_phase=False)

    def _write(
        self, drain: Drain, kind: str, detail: Mapping[str, object], *, new_phase: bool = True
    ) -> None:
        """Write a decision down; only then does it hold."""
        before, after = self.drain.phase, drain.phase
        entry = Entry(
            drain=drain,
            instance=self.instance,
            kind=kind,
            detail=detail,
            announcements=announcements(self.drain, drain) if new_phase else _only(kind),
            notifiers=self._notifiers,
            overtaken=overtaken(before, after) if new_phase else frozenset(),
            ends_drain=new_phase and self.drain.outcome is None and drain.outcome is not None,
            snapshots_of=keeping(self) if new_phase and after is Phase.SERVING else None,
        )
        event = self.journal.write(entry)
        self.drain = drain
        if new_phase:
            log.info("%s: %s -> %s %s", self.instance, before, after, _said(detail))
            self._begin()
        self._told(entry, event)
        self.changed.notify_all()
        self._wake()

    def _begin(self) -> None:
        """Begin the phase that has just been written down."""
        self.since = self.clock.now()
        for view in self.registries:
            if self.drain.phase in ACTING:
                view.begin()
            view.look_again.now()
        for probe in self.probes:
            probe.begin()
        for check in self.ready:
            check.begin()
        self.process.begin()

    def _rest(self) -> float:
        """Return how long nothing is due."""
        now, drain = self.clock.now(), self.drain
        dues = [due for view in self._looking() for due in view.dues()] + [now + AT_REST]
        if action(self) is not None:
            dues += [due for view in self.registries for due in view.act_dues()]
        if is_ready(self):
            dues += [due for view in self.registries for due in view.keep_dues()]
        if drain.phase in UNFINISHED:
            dues.append(drain.deadline)
        if drain.phase is Phase.SETTLING:
            dues.append(self.since + self.policy.settle)
        if drain.phase is Phase.RESTORING and not drain.overdue:
            dues.append(self.since + self.policy.restore_deadline)
        return max(0.0, min(dues) - now)


def _only(kind: str) -> tuple[Announcement, ...]:
    return (Announcement(kind),) if kind in set(Announcement) else ()


def _said(detail: Mapping[str, object]) -> str:
    return " ".join(f"{key}={value}" for key, value in detail.items() if value and key != "from")
