"""What the app has in hand, by the metrics on its page for Prometheus."""

from collections.abc import Iterator, Mapping, Sequence

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
)
from deregister_agent.probes.http_endpoint import (
    CountsPageOptions,
    PolledPage,
    Url,
    bearer_headers,
    media_type,
)
from deregister_agent.probes.prometheus.samples import (
    MetricsPage,
    NotMetricsError,
    Sample,
    Selector,
    read_metrics,
)
from deregister_agent.probes.prometheus.terms import (
    UNPROVEN,
    Alternatives,
    Metric,
    MetricPreset,
    Term,
    Terms,
    metrics_in,
    terms_by_kind,
)

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


class PrometheusProbe(IdleProbe):
    """Reads one page of metrics; what is not exactly as expected is not known."""

    def __init__(self, options: Options, page: PolledPage) -> None:
        self.name = options.label
        self._options, self._page = options, page
        self._terms = terms_by_kind(options.presets, options.in_flight)
        self._counters = tuple(_counters(options))
        self._wanted = {Selector.of(text).name for text in self._mentioned()}
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

    def _metrics(self, limit: float) -> MetricsPage:
        answer = self._page.get(limit, accept=ACCEPT, lag=self._options.lag)
        return _metrics(answer, self._wanted)

    def _reading(self, metrics: MetricsPage) -> Reading:
        options = self._options
        in_flight = {
            kind: above_baseline(
                kind, sum(self._term(metrics, t) for t in terms), options.baseline.get(kind, 0)
            )
            for kind, terms in self._terms.items()
        }
        started = None
        if self._counters:
            sums = [self._sum(metrics, (text,), absent="unknown") for text in self._counters]
            started = self._starts.count(sum(sums))
        return Reading(in_flight, started, self._mark(metrics), options.lag)

    def _term(self, metrics: MetricsPage, term: Term) -> int:
        names = metrics_in(term.metric)
        total = self._sum(metrics, names, absent=term.absent)
        if term.minus is None:
            for name in (Selector.of(text).name for text in names):
                if metrics.counts_up(name):
                    raise Unclear(f"{name} is a counter, which never falls: give its minus")
            return total
        less = self._sum(metrics, (term.minus,), absent=term.absent)
        if less > total:
            raise Unclear(f"{term.metric} are {total}, fewer than {term.minus}, which are {less}")
        return total - less

    def _sum(self, metrics: MetricsPage, names: Sequence[str], *, absent: str) -> int:
        """Add up the samples of whichever of *names* is there."""
        found = [samples for text in names if (samples := self._samples(metrics, text))]
        if len(found) > 1:
            raise Unclear(f"there is more than one of {', '.join(names)}")
        if not found and absent == "unknown":
            raise Unclear(f"there is no sample of {' or '.join(self._shown(names))}")
        return sum(sample.count() for samples in found for sample in samples)

    def _samples(self, metrics: MetricsPage, text: str) -> Sequence[Sample]:
        selector = Selector.of(text).also(self._options.labels)
        found = [sample for sample in metrics.samples if selector.fits(sample)]
        for sample in found:
            if sample.dated:
                raise Unclear(f"{sample} has a time of its own: it may be old")
        return found

    def _shown(self, names: Sequence[str]) -> list[str]:
        return [Selector.of(text).also(self._options.labels).text for text in names]

    def _mark(self, metrics: MetricsPage) -> str:
        if self._options.mark is None:
            return ""
        found = self._samples(metrics, self._options.mark)
        if len(found) != 1:
            raise Unclear(
                f"there are {len(found)} samples of the mark {self._options.mark}, not one"
            )
        return found[0].value


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
    chunked = answer.headers.get("Transfer-Encoding", "").lower() == "chunked"
    if kind == OPENMETRICS and not metrics.ended:
        raise Unclear("the answer breaks off: it does not end with # EOF")
    if not (metrics.ended or chunked or "Content-Length" in answer.headers):
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
    """Name the presets that no test has run against the real product."""
    del instance
    return [
        f"preset {preset!r} is unproven: compare it with the app's own count while work is in hand"
        for preset in sorted(UNPROVEN.intersection(options.presets))
    ]
