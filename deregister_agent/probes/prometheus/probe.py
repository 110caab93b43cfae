"""What the app has in hand, by the metrics that it serves for Prometheus."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

from pydantic import Field

from deregister_agent.config.options import Seconds, Secret
from deregister_agent.errors import ProbeError
from deregister_agent.model import Instance, Reading
from deregister_agent.net.fetcher import Answer, FetchError
from deregister_agent.ports import IdleProbe
from deregister_agent.probes.counting import Doubt, Starts, Turn, above
from deregister_agent.probes.http_endpoint import Page, Served, Url, bearer, start_of
from deregister_agent.probes.prometheus.samples import Metrics, NotMetrics, Sample, Selector, read
from deregister_agent.probes.prometheus.terms import (
    OF_MANY,
    Alternatives,
    Kind,
    Metric,
    Preset,
    Term,
    Terms,
    added_up,
    each,
)

OPENMETRICS = "application/openmetrics-text"
ACCEPT = f"text/plain;version=0.0.4, {OPENMETRICS};version=1.0.0;q=0.5"


Count = Annotated[int, Field(ge=0)]


class Options(Served):
    """An app that serves metrics for Prometheus."""

    url: Url
    """Where: ``http://``, ``https://`` or ``http+unix://%2Frun%2Fapp.sock/metrics``."""
    in_flight: Mapping[Kind, Metric | Term | Terms] = {}
    """For each kind of work (requests, tasks, messages) its metric, or a list, whose sums are
    added."""
    presets: tuple[Preset, ...] = ()
    """Metrics of well-known software, added to ``in_flight``."""
    labels: Mapping[str, str] = {}
    """Labels that every metric must have: for an exporter that tells of more than this instance."""
    baseline: Mapping[Kind, Count] = {}
    """What each kind's sum shows when the app is idle, because it counts the scrape itself; it is
    subtracted. A sum below it is an error: then the baseline is wrong."""
    started: Metric | Alternatives = ()
    """Counters of all work ever started: work too short to be seen in flight still ends the quiet
    window. Those from which something is subtracted and that end in ``_total`` are added."""
    own_starts: Count = 0
    """How much each scrape adds to ``started`` by itself; it is subtracted."""
    mark: Metric | None = None
    """What names the process: ``process_start_time_seconds``. Exactly one sample."""
    lag: Seconds = 0.0
    """How old the numbers may be, in seconds, where the endpoint serves those of a while ago: the
    app must be seen idle for so much longer."""
    token: Secret | None = None
    """A bearer token, sent as ``Authorization``."""


class PrometheusProbe(IdleProbe):
    """Reads one page of metrics; whatever is not exactly as expected is not known."""

    def __init__(self, options: Options, page: Page) -> None:
        self.name = options.label
        self._options, self._page = options, page
        self._terms = added_up(options.presets, options.in_flight)
        self._counters = tuple(_counters(options))
        self._wanted = {Selector.of(text).name for text in self._mentioned()}
        self._starts, self._turn = Starts(options.own_starts), Turn()

    def _mentioned(self) -> Iterator[str]:
        for terms in self._terms.values():
            for term in terms:
                yield from each(term.metric)
                yield from each(term.minus)
        yield from self._counters
        yield from each(self._options.mark)

    def read(self, wait: float) -> Reading:
        """Tell what the metrics say. Raises ProbeError unless they say it plainly."""
        del wait
        try:
            with self._turn.taken(self._options.timeout) as left:
                return self._reading(self._metrics(left))
        except (FetchError, Doubt, ValueError) as e:
            doing = f"tell what is in flight from {self._options.url}"
            raise ProbeError(self.name, doing, e) from e

    def _metrics(self, limit: float) -> Metrics:
        answer = self._page.get(limit, accept=ACCEPT, lag=self._options.lag)
        return _metrics(answer, self._wanted)

    def _reading(self, metrics: Metrics) -> Reading:
        options = self._options
        in_flight = {
            kind: above(
                kind, sum(self._term(metrics, t) for t in terms), options.baseline.get(kind, 0)
            )
            for kind, terms in self._terms.items()
        }
        started = None
        if self._counters:
            sums = [self._sum(metrics, (text,), absent="unknown") for text in self._counters]
            started = self._starts.count(sum(sums))
        return Reading(in_flight, started, self._mark(metrics), options.lag)

    def _term(self, metrics: Metrics, term: Term) -> int:
        names = each(term.metric)
        total = self._sum(metrics, names, absent=term.absent)
        if term.minus is None:
            for name in (Selector.of(text).name for text in names):
                if metrics.counts_up(name):
                    raise Doubt(f"{name} is a counter, which never falls: give its minus")
            return total
        less = self._sum(metrics, (term.minus,), absent=term.absent)
        if less > total:
            raise Doubt(f"{term.metric} are {total}, fewer than {term.minus}, which are {less}")
        return total - less

    def _sum(self, metrics: Metrics, names: Sequence[str], *, absent: str) -> int:
        """Add up the samples of the one of *names* that is there."""
        found = [samples for text in names if (samples := self._samples(metrics, text))]
        if len(found) > 1:
            raise Doubt(f"there is more than one of {', '.join(names)}")
        if not found and absent == "unknown":
            raise Doubt(f"there is no sample of {' or '.join(self._shown(names))}")
        return sum(sample.count() for samples in found for sample in samples)

    def _samples(self, metrics: Metrics, text: str) -> Sequence[Sample]:
        selector = Selector.of(text).also(self._options.labels)
        found = [sample for sample in metrics.samples if selector.fits(sample)]
        for sample in found:
            if sample.dated:
                raise Doubt(f"{sample} has a time of its own: it may be old")
        return found

    def _shown(self, names: Sequence[str]) -> list[str]:
        return [Selector.of(text).also(self._options.labels).text for text in names]

    def _mark(self, metrics: Metrics) -> str:
        if self._options.mark is None:
            return ""
        found = self._samples(metrics, self._options.mark)
        if len(found) != 1:
            raise Doubt(f"there are {len(found)} samples of the mark {self._options.mark}, not one")
        return found[0].value


def _counters(options: Options) -> Iterator[str]:
    """Give each counter of started work once: those named, and those that finished ones follow."""
    seen = set(each(options.started))
    yield from seen
    for terms in added_up(options.presets, options.in_flight).values():
        for term in terms:
            for text in each(term.metric) if term.minus is not None else ():
                if Selector.of(text).name.endswith("_total") and text not in seen:
                    seen.add(text)
                    yield text


def _metrics(answer: Answer, wanted: set[str]) -> Metrics:
    """Return the metrics of *answer*. Raises Doubt unless they are that, and whole."""
    start = start_of(answer)
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind not in ("text/plain", OPENMETRICS):
        raise Doubt(f"the answer is no metrics but {kind or 'of no type'}: {start}")
    try:
        metrics = read(answer.body.decode(), wanted)
    except (NotMetrics, UnicodeDecodeError) as e:
        raise Doubt(f"the answer is no valid metrics: {e}") from e
    chunked = answer.headers.get("Transfer-Encoding", "").lower() == "chunked"
    if kind == OPENMETRICS and not metrics.ended:
        raise Doubt("the answer breaks off: it does not end with # EOF")
    if not (metrics.ended or chunked or "Content-Length" in answer.headers):
        raise Doubt("the answer may break off: the app does not tell how long it is")
    if not metrics.lines:
        raise Doubt("there is not one sample in the answer")
    return metrics


def build(options: Options, instance: Instance) -> PrometheusProbe:
    """Return the probe. Raises ConfigError if the options contradict each other."""
    del instance
    terms = added_up(options.presets, options.in_flight)
    stray = sorted(options.baseline.keys() - terms.keys())
    mistakes = [f"baseline.{kind}: there is no such kind in in_flight" for kind in stray]
    if not terms:
        mistakes.append("in_flight: give it, or presets")
    for preset in sorted(OF_MANY.intersection(options.presets)):
        if not options.labels:
            mistakes.append(f"labels: needed with {preset}, which tells of every worker")
        if not options.lag:
            mistakes.append(f"lag: needed with {preset}, which knows only what it last heard")
    if options.own_starts and not tuple(_counters(options)):
        mistakes.append("own_starts: says nothing without started")
    return PrometheusProbe(options, Page(options, bearer(options.token), mistakes))
