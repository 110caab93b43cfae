"""The loop of one instance: act, look, decide, write down."""

import logging
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from deregister_agent.blocking import blocking
from deregister_agent.calls import Backoff, Calls, Done, Submit
from deregister_agent.clock import Clock
from deregister_agent.drain import (
    after_start,
    after_stop,
    announcements,
    moved,
    next_phase,
    overtaken,
)
from deregister_agent.errors import AgentError, JournalError
from deregister_agent.guard import Guard
from deregister_agent.journal import Entry, Journal, new_drain_id
from deregister_agent.model import (
    UNFINISHED,
    Announcement,
    Drain,
    Instance,
    Phase,
    Policy,
    Process,
    Sighting,
    StopRequest,
)
from deregister_agent.ports import IdleProbe, Registry
from deregister_agent.process import ProcessFinder
from deregister_agent.ready import ReadyCheck
from deregister_agent.report import report
from deregister_agent.sighting import has_exited, is_ready, sighting
from deregister_agent.views import ProbeView, ProcessView, ReadyView, RegistryView

log = logging.getLogger(__name__)

AT_REST = 30.0  # seconds between two looks at an instance that is serving
WATCH_FOR = 5.0  # seconds a registry is watched before it is asked again anyway
POLL = 0.5  # seconds between two looks at a registry that cannot be watched
READ = 0.05  # seconds between two readings of a probe while draining
HELD = 4.0  # seconds a probe may hold its answer while work is in flight
PROCESS = 1.0  # seconds between two looks at the process; its exit is told of at once
RETRY = 1.0  # seconds before trying again when the journal could not be written

ACTING = frozenset({Phase.WITHDRAWING, Phase.EXPIRED, Phase.RESTORING})
"""The phases whose action is asked of the registries."""


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
        self._notifiers, self._finder = parts.notifiers, parts.finder
        self._guard = Guard(parts.instance, parts.registries, parts.policy.min_others)
        self.registries = [RegistryView(one, around.chance) for one in parts.registries]
        self.probes = [ProbeView(one, around.chance) for one in parts.probes]
        self.ready = [ReadyView(one, around.chance) for one in parts.ready]
        self.process = ProcessView(around.chance)
        self.calls = Calls(around.submit, around.clock, wake)
        self.changed = threading.Condition()  # its lock is held over everything here but calls
        self.drain = around.journal.current(parts.instance.name)
        self.app = self.drain.process  # who the app was when last seen
        self.since = around.clock.now()  # when this phase began, in this process life
        self._turn = 0  # counts the phases, so that late answers are known as such
        self.error: AgentError | None = None
        self.closed = False

    # --- what others ask ---

    def stop_traffic(self, request: StopRequest) -> None:
        """Write the wish down and begin; nothing new if a drain is under way. Raises Refused."""
        if after_stop(self.drain.phase) is not self.drain.phase and not request.force:
            self._guard.ask(self._submit, self.clock)
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
                process=self.app,
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

    def wait(self, final: Callable[[Drain], bool], timeout: float) -> Drain:
        """Block until *final* says so of the drain, *timeout* is over or the agent stops."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed or final(self.drain), timeout)
            return self.drain

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
            self.calls.collect()
            try:
                self._meet_process()
                self._act()
                self._look()
                now = self.clock.now()
                seen = sighting(self)
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

    def _act(self) -> None:
        """Ask for the phase's action wherever it has not been acknowledged."""
        phase, now = self.drain.phase, self.clock.now()
        if phase is Phase.EXPIRED and not self._held_out():
            return
        if phase is Phase.RESTORING and not is_ready(self):
            return
        if phase not in ACTING:
            return
        for view in self.registries:
            if view.acknowledged is None and view.refused is None and now >= view.act.due:
                call = self._put_back if phase is Phase.RESTORING else self._take_out
                then = partial(self._acted, view, self._turn)
                self.calls.start(f"{view.name} act", partial(call, view), then)

    def _held_out(self) -> bool:
        """
        Tell whether an expired drain may still withdraw: only from the process it was about.

        After "expired" was announced the platform may have replaced it, and then
        whoever registers is the next version.
        """
        for view in self.registries:
            word = view.word
            if word and word.listed and view.acknowledged and word.asked > view.acknowledged:
                view.begin()
        presence = self.process.presence
        return presence is not None and not presence.exited and self.process.asked >= self.since

    def _take_out(self, view: RegistryView) -> None:
        """Keep what restoring needs, then withdraw. Runs on a thread of its own."""
        registry, name = view.registry, self.instance.name
        if self.drain.guarded:
            self._guard.check(registry)
        if self.journal.snapshot(name, view.name) is None or _surely_lists(registry):
            snapshot = registry.snapshot()
            if snapshot is not None:
                self.journal.keep_snapshot(name, view.name, snapshot)
        registry.withdraw()

    def _put_back(self, view: RegistryView) -> None:
        """Restore from what was kept. Runs on a thread of its own."""
        view.registry.restore(self.journal.snapshot(self.instance.name, view.name))

    def _acted(self, view: RegistryView, turn: int, done: Done) -> None:
        if turn != self._turn:
            return  # the answer to an action of an earlier phase
        view.acted(done)
        if done.error is not None:
            log.warning("%s: will try again: %s", self.instance, done.error)

    def _look(self) -> None:
        """Begin every reading that is due. Reads only."""
        now, phase = self.clock.now(), self.drain.phase
        for view in self.registries:
            self._look_at(view, now)
        for probe in self.probes:
            if now >= probe.look.due:
                held = HELD if phase is Phase.DRAINING and probe.busy else 0.0
                then = partial(self._read, probe)
                self.calls.start(f"{probe.name} read", partial(probe.probe.read, held), then)
        if phase in {Phase.GONE, Phase.RESTORING}:
            for check in self.ready:
                if now >= check.look.due:
                    then = partial(self._checked, check, self._turn)
                    self.calls.start(f"{check.check.name} ready", check.check.ask, then)
        if now >= self.process.look.due:
            about = self.app
            then = partial(self._met, about)
            self.calls.start("process", partial(self._finder.look, about), then)
        if phase is not Phase.SERVING and self.app and not has_exited(self):
            self._wait_exit(self.app, now)

    def _wait_exit(self, app: Process, now: float) -> None:
        if now >= self.process.exit.due:
            exit_of = partial(self._finder.wait_exit, app, WATCH_FOR)
            self.calls.start("exit", exit_of, self.process.may_have_exited)

    def _look_at(self, view: RegistryView, now: float) -> None:
        registry = view.registry
        if now >= view.look.due:
            with_others = self.drain.phase is Phase.SERVING
            call = partial(_ask, registry, with_others=with_others)
            self.calls.start(f"{view.name} look", call, partial(self._looked, view))
        if self.drain.phase is not Phase.SERVING and view.watches and now >= view.watch.due:
            watch = partial(registry.watch, view.cursor, WATCH_FOR)
            self.calls.start(f"{view.name} watch", watch, view.watched)

    def _looked(self, view: RegistryView, done: Done) -> None:
        every = WATCH_FOR if view.watches else POLL
        wanted = None
        if self.drain.phase is Phase.SERVING:
            every = AT_REST
        elif self.drain.phase in ACTING:
            wanted = self.drain.phase is Phase.RESTORING
        if done.error is None:
            *word, others = done.value
            view.others = view.others if others is None else others
            done = replace(done, value=tuple(word))
        view.looked(done, every, wanted)

    def _read(self, probe: ProbeView, done: Done) -> None:
        every = READ if self.drain.phase is Phase.DRAINING else PROCESS
        probe.looked(done, AT_REST if self.drain.phase is Phase.SERVING else every)
        if probe.reading is not None and probe.reading.mark:
            self._finder.heard(probe.reading.mark)

    def _checked(self, check: ReadyView, turn: int, done: Done) -> None:
        if turn == self._turn:
            check.looked(done)

    def _met(self, about: object, done: Done) -> None:
        if about == self.app:
            serving = self.drain.phase is Phase.SERVING
            self.process.looked(done, self.app, AT_REST if serving else PROCESS)
        else:
            self.process.look.now()

    def _meet_process(self) -> None:
        """
        Take note of who the app is now.

        Before "drained" a restart changes nothing: the new process is drained in
        the place of the old one. After it, the one that was drained is remembered.
        """
        presence = self.process.presence
        if presence is None or presence.running is None or presence.running == self.app:
            return
        if presence.exited and self.drain.phase in {Phase.DRAINED, Phase.EXPIRED}:
            return
        if self.drain.phase in UNFINISHED:
            drain = replace(self.drain, process=presence.running)
            if presence.exited:
                self._write(drain, "app-restarted", {}, new_phase=False)
            self.drain = drain
        self.app = self.process.about = presence.running
        self.process.presence = replace(presence, exited=False)

    # --- write down ---

    def _enter(self, phase: Phase, seen: Sighting, now: float) -> None:
        before = self.drain.phase
        after = moved(self.drain, phase, seen, now)
        detail: dict[str, object] = {"from": before}
        if phase in {Phase.DRAINED, Phase.EXPIRED}:
            after = replace(after, process=self.app)
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
            announcements=announcements(before, drain) if new_phase else _only(kind),
            notifiers=self._notifiers,
            overtaken=overtaken(before, after) if new_phase else frozenset(),
            ends_drain=new_phase and self.drain.outcome is None and drain.outcome is not None,
            forget_snapshots=new_phase and after is Phase.SERVING,
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
        self._turn += 1
        for view in self.registries:
            if self.drain.phase in ACTING:
                view.begin()
            view.look.now()
        for probe in self.probes:
            probe.window.broken()
            probe.look.now()
        for check in self.ready:
            check.begin()
        self.process.look.now()

    def _rest(self) -> float:
        """Return how long nothing is due."""
        now, drain = self.clock.now(), self.drain
        dues = [now + AT_REST, *self._dues()]
        if drain.phase in UNFINISHED:
            dues.append(drain.deadline)
        if drain.phase is Phase.SETTLING:
            dues.append(self.since + self.policy.settle)
        if drain.phase is Phase.RESTORING and not drain.overdue:
            dues.append(self.since + self.policy.restore_deadline)
        return max(0.0, min(dues) - now)

    def _dues(self) -> Iterator[float]:
        """Yield when each call that is not under way is due; those that are wake the loop."""
        phase = self.drain.phase
        for view in self.registries:
            yield from self._due(f"{view.name} look", view.look)
            if phase is not Phase.SERVING and view.watches:
                yield from self._due(f"{view.name} watch", view.watch)
            if phase in ACTING and view.acknowledged is None and view.refused is None:
                yield from self._due(f"{view.name} act", view.act)
        for probe in self.probes:
            yield from self._due(f"{probe.name} read", probe.look)
        if phase in {Phase.GONE, Phase.RESTORING}:
            for check in self.ready:
                yield from self._due(f"{check.check.name} ready", check.look)
        yield from self._due("process", self.process.look)

    def _due(self, name: str, backoff: Backoff) -> Iterator[float]:
        if not self.calls.busy(name):
            yield backoff.due


def _only(kind: str) -> tuple[Announcement, ...]:
    return (Announcement(kind),) if kind in set(Announcement) else ()


def _said(detail: Mapping[str, object]) -> str:
    return " ".join(f"{key}={value}" for key, value in detail.items() if value and key != "from")


def _ask(registry: Registry, *, with_others: bool) -> tuple[bool, Sequence[str], int | None]:
    others = registry.others() if with_others else None
    return registry.lists(), registry.stragglers(), others


def _surely_lists(registry: Registry) -> bool:
    """Tell whether it lists the instance; a registry that cannot say must not hold up withdraw."""
    try:
        return registry.lists()
    except AgentError:
        return False
