"""What can be graphed: phases, drains and how they ended, work in flight, errors."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from deregister_agent.engine.in_service import unlisted
from deregister_agent.engine.instance_loop import InstanceLoop
from deregister_agent.engine.status import in_flight
from deregister_agent.journal.announcements import PendingAnnouncement
from deregister_agent.journal.journal import Decision
from deregister_agent.model import Phase

Pending = Callable[[], Sequence[PendingAnnouncement]]
"""Returns the announcements that have yet to be taken."""

_SECONDS = (0.5, 1, 2, 5, 10, 30, 60, 120, 180, 300, 600, 1800, 3600)


class Metrics:
    """Counts what has happened; what is the case now is read from the loops when asked."""

    def __init__(self, loops: Mapping[str, InstanceLoop], pending: Pending) -> None:
        self._registry = CollectorRegistry()
        self._ended = Counter(
            "deregister_agent_drains",
            "Drains that have ended, by outcome.",
            ["instance", "outcome"],
            registry=self._registry,
        )
        self._listed_again = Counter(
            "deregister_agent_listed_again",
            "How often a registry listed an instance again during its drain.",
            ["instance"],
            registry=self._registry,
        )
        self._took = Histogram(
            "deregister_agent_drain_seconds",
            "Seconds from stop-traffic to the end of the drain.",
            ["instance", "outcome"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._registry.register(_Now(loops, pending))

    def count(self, decision: Decision) -> None:
        """Take a decision into account."""
        drain = decision.drain
        if "listed_by" in decision.detail:
            self._listed_again.labels(drain.instance).inc()
        if drain.outcome is not None and decision.ends_drain:
            self._ended.labels(drain.instance, drain.outcome).inc()
            took = max(0.0, drain.since - (drain.deadline - drain.limit))
            self._took.labels(drain.instance, drain.outcome).observe(took)

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)


class _Now:
    """The metrics that say what is the case at the moment of the scrape."""

    def __init__(self, loops: Mapping[str, InstanceLoop], pending: Pending) -> None:
        self._loops, self._pending = loops, pending

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        phase = GaugeMetricFamily(
            "deregister_agent_phase", "1 for the phase it is in.", labels=["instance", "phase"]
        )
        work = GaugeMetricFamily(
            "deregister_agent_in_flight", "Work in hand, by kind.", labels=["instance", "kind"]
        )
        listed = GaugeMetricFamily(
            "deregister_agent_listed",
            "1 if the registry lists the instance, 0 if not; absent while unknown.",
            labels=["instance", "registry"],
        )
        missing = GaugeMetricFamily(
            "deregister_agent_not_listed_in_service",
            "1 for an instance in service that some registry does not list, 0 otherwise.",
            labels=["instance"],
        )
        failing = GaugeMetricFamily(
            "deregister_agent_failing",
            "1 while the last call to a registry or probe has failed.",
            labels=["instance", "name"],
        )
        for name, loop in self._loops.items():
            for each in Phase:
                phase.add_metric([name, each], float(loop.drain.phase is each))
            for kind, count in in_flight(loop.known).items():
                work.add_metric([name, kind], count)
            missing.add_metric([name], float(bool(unlisted(loop.known))))
            for view in loop.known.registries:
                if view.word is not None:
                    listed.add_metric([name, view.name], float(view.word.listed))
                failing.add_metric([name, view.name], float(bool(view.error or view.look_error)))
            for probe in loop.known.probes:
                failing.add_metric([name, probe.name], float(probe.error is not None))
        waiting = GaugeMetricFamily(
            "deregister_agent_announcements_waiting", "Announcements yet to be taken."
        )
        waiting.add_metric([], len(self._pending()))
        return [phase, work, listed, missing, failing, waiting]
