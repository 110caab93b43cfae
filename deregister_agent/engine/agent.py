"""The agent: one loop for each instance, one outbox, one journal, and the threads they run on."""

import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence

from deregister_agent.engine.calls import Threads
from deregister_agent.engine.doctor import Doctor
from deregister_agent.engine.instance_loop import InstanceLoop
from deregister_agent.engine.knowledge import AgentContext, InstanceSetup
from deregister_agent.engine.metrics import Metrics
from deregister_agent.engine.outbox import Outbox
from deregister_agent.host.clock import Clock
from deregister_agent.journal.announcements import PendingAnnouncement
from deregister_agent.journal.journal import Decision, Journal
from deregister_agent.ports import Notifier
from deregister_agent.status import DoctorReport

log = logging.getLogger(__name__)

AFTER_A_BUG = 1.0  # seconds before a loop that failed in a way it should not goes on


class Agent:
    """All that runs on one host. start() and stop() may be called once each."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        setups: Sequence[tuple[InstanceSetup, Mapping[str, Notifier]]],
    ) -> None:
        self.journal = journal
        self._stopping = threading.Event()
        self._event = threading.Condition()
        self._last_event = journal.last_event()
        self._to_announce = threading.Event()
        threads, chance = Threads(), random.Random()  # noqa: S311 - jitter
        context = AgentContext(journal, clock, threads.submit, chance, self._written)
        self._outbox = Outbox(context, self._to_announce.set)
        self._wakes: dict[str, threading.Event] = {}
        self.instances: dict[str, InstanceLoop] = {}
        self._doctors: dict[str, Doctor] = {}
        for setup, notifiers in setups:
            name = setup.instance.name
            self._wakes[name] = threading.Event()
            self.instances[name] = InstanceLoop(setup, context, self._wakes[name].set)
            self._outbox.add(name, notifiers, self.instances[name].stands_by)
            self._doctors[name] = Doctor(setup, notifiers, threads.submit, clock)
        self._metrics = Metrics(self.instances, self._outbox.pending)
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin: each instance goes on from where the journal says that it stands."""
        for name, loop in self.instances.items():
            self._run(name, loop.tick, self._wakes[name])
        self._run("outbox", self._outbox.tick, self._to_announce)

    def stop(self) -> None:
        """Stop all loops and let everybody who waits go. What is out stays out."""
        self._stopping.set()
        for loop in self.instances.values():
            loop.close()
        for wake in (*self._wakes.values(), self._to_announce):
            wake.set()
        with self._event:
            self._event.notify_all()
        for thread in self._threads:
            thread.join()
        self.journal.close()

    def healthy(self) -> str | None:
        """Return None, or a sentence that says why this agent cannot do its work."""
        errors = (loop.known.error for loop in self.instances.values())
        return next((str(error) for error in errors if error is not None), None)

    def examine(self, name: str) -> DoctorReport:
        """Ask all of an instance's backends once, and say whether a drain could prove itself."""
        loop = self.instances[name]
        return self._doctors[name].examine(loop.drain.phase, loop.known.error)

    def unannounced(self, name: str) -> list[PendingAnnouncement]:
        """Return the announcements of an instance that its notifiers have yet to take."""
        return [one for one in self._outbox.pending() if one.event.instance.name == name]

    def metrics(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        return self._metrics.text()

    def wait_event(self, after: int, timeout: float) -> None:
        """Block until there is an event with an id above *after*, or *timeout* is over."""
        with self._event:
            self._event.wait_for(
                lambda: self._stopping.is_set() or self._last_event > after, timeout
            )

    def _written(self, decision: Decision, event: int) -> None:
        self._metrics.count(decision)
        self._to_announce.set()
        with self._event:
            self._last_event = max(self._last_event, event)
            self._event.notify_all()

    def _run(self, name: str, tick: Callable[[], float], wake: threading.Event) -> None:
        thread = threading.Thread(
            target=self._keep, args=(name, tick, wake), name=name, daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _keep(self, name: str, tick: Callable[[], float], wake: threading.Event) -> None:
        while not self._stopping.is_set():
            wake.clear()
            try:
                rest = tick()
            except Exception:  # the outermost loop: a bug must not end the guard
                log.exception("%s: failed in a way it should not; going on", name)
                rest = AFTER_A_BUG
            if not self._stopping.is_set():
                wake.wait(rest)
