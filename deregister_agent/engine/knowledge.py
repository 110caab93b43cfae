"""What is known of one instance: where its drain stands, and what was last seen and heard."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from deregister_agent.engine.calls import Calls, Submit
from deregister_agent.engine.last_instance_guard import Guard
from deregister_agent.engine.peers_view import PeersView
from deregister_agent.engine.probe_view import ProbeView, ReadyView
from deregister_agent.engine.process_view import ProcessView
from deregister_agent.engine.quiet_window import QuietWindow
from deregister_agent.engine.registry_view import ACTING, RegistryView
from deregister_agent.engine.view_context import ViewContext
from deregister_agent.errors import AgentError
from deregister_agent.host.clock import Clock
from deregister_agent.journal.journal import Decision, Journal, new_drain_id
from deregister_agent.model import (
    GUARDED,
    Announcement,
    Drain,
    Instance,
    Listing,
    Look,
    Peer,
    Phase,
    Policy,
    Process,
    Reading,
    Snapshot,
)
from deregister_agent.ports import IdleProbe, ProcessFinder, ReadyCheck, Registry

ARRIVES = 0.2  # seconds in which the app has taken in what was sent to it


@dataclass(frozen=True, slots=True)
class InstanceSetup:
    """One instance as it is configured: its policy and its backends."""

    instance: Instance
    policy: Policy
    registries: Sequence[Registry]
    probes: Sequence[IdleProbe]
    finder: ProcessFinder
    ready: Sequence[ReadyCheck] = ()
    notifiers: Mapping[str, frozenset[Announcement]] = field(default_factory=dict)
    may_be_absent: frozenset[str] = frozenset()  # registries that need not have the instance
    identities: Mapping[str, str] = field(default_factory=dict)  # where each registry looks
    peers: Callable[[], Sequence[Peer]] | None = None  # asks who is connected to the port


@dataclass(frozen=True, slots=True)
class AgentContext:
    """What all loops of one agent share."""

    journal: Journal
    clock: Clock
    submit: Submit
    chance: random.Random
    written: Callable[[Decision, int], None]  # told of each decision on disk, and its event id
    new_id: Callable[[], str] = new_drain_id


class Knowledge:
    """
    What a loop knows of its instance.

    The loop alone writes here, and holds its lock meanwhile. Calls on other
    threads read the drain without the lock: the drain is replaced, never changed.
    """

    def __init__(self, setup: InstanceSetup, context: AgentContext, calls: Calls) -> None:
        self.instance, self.policy = setup.instance, setup.policy
        self.may_be_absent = setup.may_be_absent
        self.journal, self.clock = context.journal, context.clock
        self.guard = Guard(setup.instance, setup.policy.min_others)
        self.since = context.clock.now()  # when this phase began, in this process life
        self.drain = context.journal.current(setup.instance.name)
        self.set_back = context.journal.set_back(setup.instance.name)  # the journal; why
        if self.drain.phase is Phase.SETTLING:
            self.drain = replace(self.drain, since=self.since)  # routes may be newer than that
        shared = ViewContext(
            calls, context.chance, lambda: self.drain.phase, self.clear, setup.policy.quiet
        )
        self.registries = [RegistryView(one, shared) for one in setup.registries]
        app = self.drain.process
        for view in self.registries:
            view.identity = setup.identities.get(view.name, view.name)
            app = self._recall(view) or app
        self.probes = [ProbeView(one, self._heard, shared) for one in setup.probes]
        self.ready = [ReadyView(one, shared) for one in setup.ready]
        self.process = ProcessView(app, setup.finder, shared)
        self.peers = PeersView(setup.peers, shared)
        self._mark = ""  # what the app has last said of itself
        self.seen_out = False  # whether "drained" was decided or seen to hold in this process life
        self.is_missed = False  # whether it was said that it serves and is not listed everywhere
        self.error: AgentError | None = None

    def _heard(self, reading: Reading, answered: float) -> None:
        """
        Take in what a probe has heard: work in hand outranks an exit.

        And what the app says of itself; where nobody was seen yet, see who that is.
        """
        if not reading.idle:
            self.process.window.starts_after(answered)
        if reading.mark:
            self._is_named(reading.mark)

    def _is_named(self, mark: str) -> None:
        self.process.finder.heard(mark)
        if self.process.app is None and mark != self._mark:
            self.process.look_now()
        self._mark = mark

    def _recall(self, view: RegistryView) -> Process | None:
        """
        Let count again what a registry has shown to an earlier life of the agent.

        Seen under other options it says nothing of what these would show; but what is out
        because we took it out stays so: options that change meanwhile must not end a drain.
        Return which process was seen.
        """
        name, phase = self.instance.name, self.drain.phase
        kept = self.journal.snapshot(name, view.name)
        view.has_snapshot = kept is not None
        view.was_out = "" if kept is None else view.registry.was_out_by(kept)
        shown = self.journal.registration(name, view.name)
        if shown is None:
            return None
        view.seen_once, ours = True, shown.identity == view.identity
        view.owed = bool(self.set_back)
        taken_out = bool(shown.identity) and phase in GUARDED | {Phase.RESTORING}
        view.seen, view.out_by = ours or taken_out, shown.out_by
        view.kept = shown.snapshot if ours or view.owed else None
        return shown.process if ours and phase is Phase.SERVING else None

    def registration(self, view: RegistryView) -> Snapshot | None:
        """Return what to put back: as it was when it was taken out, else the last good one."""
        kept = self.journal.snapshot(self.instance.name, view.name)
        if kept is not None:
            return kept
        shown = self.journal.registration(self.instance.name, view.name)
        return None if shown is None else shown.snapshot

    def was_shown(self, looks: Mapping[str, Look]) -> None:
        """Remember which registries have shown the instance, whatever becomes of the request."""
        for view in self.registries:
            look = looks.get(view.name)
            view.seen_once |= look is not None and look.listing is not Listing.ABSENT

    def nothing_lost(self, looks: Mapping[str, Look]) -> None:
        """Take note that start-traffic found nothing lost by these *looks*."""
        self.was_shown(looks)
        if self.set_back and len(looks) == len(self.registries):
            self.journal.found_in_place(self.instance.name)
            self.decided(self.drain)

    def decided(self, drain: Drain) -> None:
        """Go by *drain*, which is in the journal now."""
        self.drain, self.set_back = drain, ""
        for view in self.registries:
            view.owed = False

    def follow(self, drain: Drain, *, restarted: bool) -> None:
        """Take the process that is there now for the app, whose *drain* goes on."""
        self.drain = drain
        self.process.follow()
        for probe in self.probes if restarted else ():
            probe.window.starts_after(self.clock.now())  # what was quiet before has exited

    def begin_phase(self) -> None:
        """Let every view begin the phase that has just been written down."""
        self.since = self.clock.now()
        if self.drain.phase is Phase.SERVING:
            for view in self.registries:
                view.has_snapshot = False
        for view in self.registries:
            if self.drain.phase in ACTING:
                view.begin()
            view.look_again.now()
        for probe in self.probes:
            probe.begin()
        for check in self.ready:
            check.begin()
        self.process.begin()
        self.peers.begin(self.since)
        if self.drain.phase in {Phase.DRAINED, Phase.EXPIRED}:
            self.process.app = self.drain.process  # closed, as it was written down
        elif self.drain.announced is None:
            self.process.open()

    @property
    def in_doubt(self) -> bool:
        """
        Whether "drained" was said before this agent began, and has not been seen to hold since.

        The instance may have been registered while no agent was there.
        """
        return self.drain.phase is Phase.DRAINED and not self.seen_out

    @property
    def is_ready(self) -> bool:
        """Whether the app's readiness checks pass; without any, start-traffic is believed."""
        return all(check.ready for check in self.ready)

    def quiet_views(self) -> Sequence[ProbeView | ProcessView]:
        """
        Return what shows that the app is quiet: its probes, or that there is no app any more.

        An app that has exited must stay away for as long as an app must be quiet: a
        supervisor may be about to start it again, and what it starts has not been drained.
        A probe that still has an answer then, or where nobody was ever seen, speaks of
        somebody, and must say that nothing is in hand as well. One that has none speaks of
        nobody: it was the app that answered.
        """
        nobody = self.drain.if_present and self.process.is_nobody
        if self.process.vacant or nobody:
            return [self.process, *(probe for probe in self.probes if self._answers(probe))]
        return self.probes

    def _answers(self, probe: ProbeView) -> bool:
        """Tell whether a probe has an answer, or was not asked since the app is away."""
        if probe.error is None:
            return True
        away = self.process.vacant_since
        return away is not None and (probe.asked is None or probe.asked < away)

    def quiet_windows(self) -> Sequence[QuietWindow]:
        """Return the times for which the app has been quiet."""
        return [view.window for view in self.quiet_views()]

    def clear(self) -> float | None:
        """
        Return from when on the app shows all that old routes have brought; None if not known.

        What a route brought in its last moment has yet to reach the app, and to be counted there.
        """
        vouched, since = self.drain.vouched, []
        for view in self.registries:
            believed = view.name in vouched and not view.sends
            when = view.ceased if believed else view.clear
            if when is None:
                return None
            since.append(when)
        return max(since, default=0.0) + min(ARRIVES, self.policy.quiet)
