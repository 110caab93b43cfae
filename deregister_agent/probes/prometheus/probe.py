"""What the app has in hand, by the metrics on its page for Prometheus."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deregister_agent.config.options import Seconds
from deregister_agent.errors import AgentError, ProbeError, excerpt
from deregister_agent.model import Instance, Reading
from deregister_agent.net.fetcher import Answer
from deregister_agent.ports import IdleProbe
from deregister_agent.probes.counting import (
    ReadLock,
    StartedCounter,
    Unclear,
    WorkKind,
    above_baseline,
    must_cover,
)
from deregister_agent.probes.http_endpoint import (
    CountsPageOptions,
    PolledPage,
    Url,
    bearer_headers,
    media_type,
    tells_its_length,
)
from deregister_agent.probes.prometheus.absent_names import absent_names
from deregister_agent.probes.prometheus.samples import (
    MetricsPage,
    NotMetricsError,
    Selector,
    read_metrics,
)
from deregister_agent.probes.prometheus.terms import (
    BLIND,
    Alternatives,
    Metric,
    MetricPreset,
    Term,
    Terms,
    metrics_in,
    terms_by_kind,
)
from deregister_agent.probes.prometheus.totals import Totals
from deregister_agent.probes.prometheus.worker_files import must_add_up

OPENMETRICS = "application/openmetrics-text"
ACCEPT = f"text/plain;version=0.0.4, {OPENMETRICS};version=1.0.0;q=0.5"


class Options(CountsPageOptions):
    """An app that serves metrics for Prometheus."""

    url: Url
    """Where: ``http://``, ``https://`` or ``http+unix://%2Frun%2Fapp.sock/metrics``."""
    in_flight: Mapping[WorkKind, Metric | Term | Terms] = {}
    """For each kind of work (requests, tasks, messages) its metric, or a list, whose sums are
    added."""
    presets: tuple[MetricPreset, ...] = ()
    """Metrics of well-known software, added to ``in_flight``."""
    labels: Mapping[str, str] = {}
    """Labels that every metric must have: for a page that shows more than this instance."""
    started: Metric | Alternatives = ()
    """Counters of all work ever started: work too short to be seen in flight still ends the quiet
    window. Metrics with a ``minus`` that end in ``_total`` are added to these."""
    mark: Metric | None = None
    """The metric that names the process: ``process_start_time_seconds``. Exactly one sample."""
    lag: Seconds = 0.0
    """How old the numbers may be, in seconds, where the page shows those of a while ago: the app
    must be seen idle for so much longer."""
    multiprocess_dir: Path | None = None
    """What ``PROMETHEUS_MULTIPROC_DIR`` is for an app in Python with several workers: only there
    it is to be seen whether its gauges count every worker."""


class PrometheusProbe(IdleProbe):
    """Reads one page of metrics; what is not exactly as expected is not known."""

    def __init__(self, options: Options, page: PolledPage) -> None:
        self.name = options.label
        self._options, self._page = options, page
        self._terms = terms_by_kind(options.presets, options.in_flight)
        self._counters = tuple(_counters(options))
        names = {Selector.of(text).name for text in self._mentioned()}
        buckets = {f"{name.removesuffix('_count')}_bucket" for name in names if "_count" in name}
        self._wanted = names | buckets
        self._starts, self._reads = StartedCounter(options.own_starts), ReadLock()

    def _mentioned(self) -> Iterator[str]:
        for terms in self._terms.values():
            for term in terms:
                yield from metrics_in(term.metric)
                yield from metrics_in(term.minus)
        yield from self._counters
        yield from metrics_in(self._options.mark)

    def read(self, wait: float) -> Reading:
        """Return the counts in the metrics. Raises ProbeError unless each is plain."""
        del wait
        try:
            with self._reads.held(self._options.timeout) as left:
                return self._reading(self._metrics(left))
        except (AgentError, ValueError) as e:
            doing = f"tell what is in flight from {self._options.url}"
            raise ProbeError(self.name, doing, e) from e

    def absent_now(self) -> Sequence[str]:
        """Say which metrics that may be absent the page does not show. Raises ProbeError."""
        every = [term for terms in self._terms.values() for term in terms]
        if all(term.absent == "unknown" for term in every):
            return ()
        try:
            metrics = self._metrics(self._options.timeout)
        except (AgentError, ValueError) as e:
            doing = f"look on {self._options.url} for the metrics that may be absent"
            raise ProbeError(self.name, doing, e) from e
        return tuple(absent_names(metrics, every, self._options.labels))

    def _metrics(self, limit: float) -> MetricsPage:
        answer = self._page.get(limit, accept=ACCEPT, lag=self._options.lag)
        if self._options.multiprocess_dir is not None:
            must_add_up(self._options.multiprocess_dir, self._wanted)
        return _metrics(answer, self._wanted)

    def _reading(self, metrics: MetricsPage) -> Reading:
        options, totals = self._options, Totals(metrics, self._options.labels)
        in_flight = {
            kind: above_baseline(
                kind, sum(totals.term(term) for term in terms), options.baseline.get(kind, 0)
            )
            for kind, terms in self._terms.items()
        }
        mark = "" if options.mark is None else totals.only(options.mark)
        started = None
        if self._counters:
            counters = totals.counters(self._counters)
            if options.started:
                must_cover(sum(counters.values()), in_flight)
            started = self._starts.count(counters, mark)
        return Reading(in_flight, started, mark, options.lag)


def _counters(options: Options) -> Iterator[str]:
    """Give each counter of started work once: those named, and those with a ``minus``."""
    seen = set(metrics_in(options.started))
    yield from seen
    for terms in terms_by_kind(options.presets, options.in_flight).values():
        for term in terms:
            for text in metrics_in(term.metric) if term.minus is not None else ():
                if Selector.of(text).name.endswith("_total") and text not in seen:
                    seen.add(text)
                    yield text


def _metrics(answer: Answer, wanted: set[str]) -> MetricsPage:
    """Return the metrics in *answer*. Raises Unclear unless all is metrics, and whole."""
    kind = media_type(answer)
    if kind not in ("text/plain", OPENMETRICS):
        raise Unclear(
            f"the answer is no metrics but {kind or 'of no type'}: {excerpt(answer.text, 240)!r}"
        )
    try:
        metrics = read_metrics(answer.body.decode(), wanted)
    except (NotMetricsError, UnicodeDecodeError) as e:
        raise Unclear(f"the answer is no valid metrics: {e}") from e
    if kind == OPENMETRICS and not metrics.ended:
        raise Unclear("the answer breaks off: it does not end with # EOF")
    if not (metrics.ended or tells_its_length(answer)):
        raise Unclear("the answer may break off: the app does not tell how long it is")
    if not metrics.lines:
        raise Unclear("there is not one sample in the answer")
    return metrics


def build(options: Options, instance: Instance) -> PrometheusProbe:
    """Return the probe. Raises ConfigError if the options contradict each other."""
    del instance
    terms = terms_by_kind(options.presets, options.in_flight)
    mistakes = options.contradictions(terms, started=any(_counters(options)))
    if not terms:
        mistakes.append("in_flight: give it, or presets")
    return PrometheusProbe(options, PolledPage(options, bearer_headers(options.token), mistakes))


def warnings(options: Options, instance: Instance) -> Sequence[str]:
    """
    Say what each preset does not see, and which metrics that may be absent are.

    Raises ProbeError where these cannot be looked for.
    """
    blind = [f"preset {preset!r} {BLIND[preset]}" for preset in options.presets]
    return [*blind, *build(options, instance).absent_now()]
