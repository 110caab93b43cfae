"""What a page of metrics adds up to: each series a plain count, and no sum that hides one."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from deregister_agent.probes.counting import MOST_IN_HAND, MOST_STARTED, Unclear, a_count
from deregister_agent.probes.prometheus.samples import MetricsPage, Sample, Selector
from deregister_agent.probes.prometheus.terms import Term, metrics_in

ACTIVE_REQUESTS = "http_server_active_requests"
SCOPE = "otel_scope_name"
PYTHON_SCOPES = "opentelemetry.instrumentation."
TO_THE_END = {f"{PYTHON_SCOPES}{name}" for name in ("asgi", "fastapi", "starlette")}
"""What counts a request in OpenTelemetry's metric of active requests until the app has ended it:
tests/integration/test_metric_presets.py. Those for WSGI end when the app has returned the body,
before the first byte of it is sent (opentelemetry/instrumentation/wsgi/__init__.py)."""
WITHOUT_TASKS = frozenset({"fastapi", "starlette"})
"""What these frameworks count by themselves: background tasks run on after the request has ended
there (fastapi/telemetry/_asgi.py, starlette/middleware/opentelemetry.py)."""

Labels = frozenset[tuple[str, str]]


class Totals:
    """The sums over one page. All raise Unclear, or ValueError, for what is no plain count."""

    def __init__(self, metrics: MetricsPage, labels: Mapping[str, str]) -> None:
        self._metrics, self._labels = metrics, labels
        self._last_buckets = _last_buckets(metrics.samples)

    def term(self, term: Term) -> int:
        """Return what *term* adds up to, less what it subtracts."""
        names = metrics_in(term.metric)
        found = self._of(names, absent=term.absent)
        most = MOST_IN_HAND if term.minus is None else MOST_STARTED
        total = sum(a_count(sample.count(), str(sample), most=most) for sample in found)
        if term.minus is None:
            for name in (Selector.of(text).name for text in names):
                if self._metrics.counts_up(name):
                    raise Unclear(f"{name} is a counter, which never falls: give its minus")
            return total
        return _difference(found, self._of((term.minus,), absent=term.absent), term)

    def counters(self, names: Sequence[str]) -> Mapping[str, int]:
        """Return each series of the counters *names*."""
        found = [sample for text in names for sample in self._of((text,), absent="unknown")]
        return {str(sample): sample.count() for sample in found}

    def only(self, text: str) -> str:
        """Return the value of the only sample of *text*, as it is written."""
        found = self._samples(text)
        if len(found) != 1:
            raise Unclear(f"there are {len(found)} samples of the mark {text}, not one")
        return found[0].value

    def _of(self, names: Sequence[str], *, absent: str) -> Sequence[Sample]:
        """Return the samples of whichever of *names* is there."""
        found = [samples for text in names if (samples := self._samples(text))]
        if len(found) > 1:
            raise Unclear(f"there is more than one of {', '.join(names)}")
        if not found and absent == "unknown":
            shown = [Selector.of(text).also(self._labels).text for text in names]
            raise Unclear(f"there is no sample of {' or '.join(shown)}")
        return found[0] if found else ()

    def _samples(self, text: str) -> Sequence[Sample]:
        selector = Selector.of(text).also(self._labels)
        found = [sample for sample in self._metrics.samples if selector.fits(sample)]
        for sample in found:
            if sample.dated:
                raise Unclear(f"{sample} has a time of its own: it may be old")
            _must_count_to_the_end(sample, selector)
            self._must_have_all_buckets(sample)
        return found

    def _must_have_all_buckets(self, count: Sample) -> None:
        """Raise Unclear if the count of a histogram is not what its last bucket holds."""
        name = count.name.removesuffix("_count")
        last = self._last_buckets.get((f"{name}_bucket", frozenset(count.labels.items())))
        if last is not None and last.count() != count.count():
            raise Unclear(
                f"{count} is {count.value}, and its last bucket {last.value}: "
                "the two were read at different moments"
            )


def _last_buckets(samples: Iterable[Sample]) -> Mapping[tuple[str, Labels], Sample]:
    """Return each histogram's bucket without a limit, by its name and its other labels."""
    return {
        (sample.name, frozenset(item for item in sample.labels.items() if item[0] != "le")): sample
        for sample in samples
        if sample.name.endswith("_bucket") and sample.labels.get("le", "").lstrip("+") == "Inf"
    }


def _must_count_to_the_end(sample: Sample, selector: Selector) -> None:
    """Raise Unclear for active requests of OpenTelemetry that are not known to be active."""
    scope = sample.labels.get(SCOPE, "")
    if sample.name != ACTIVE_REQUESTS or scope in TO_THE_END:
        return
    if scope.startswith(PYTHON_SCOPES) or scope in WITHOUT_TASKS:
        raise Unclear(
            f"{sample.name} of {scope} is not known to count a request until its body is sent and "
            "its background tasks have ended: count the work in the app, and use the probe "
            "http_json"
        )
    if not any(matcher.label == SCOPE for matcher in selector.matchers):
        raise Unclear(
            f"{sample.name} of {scope or 'no named library'} may end before the request does: hold "
            "a streamed answer open, and see that it counts; then write "
            f'{sample.name}{{{SCOPE}="{scope}"}} for the metric'
        )


def _difference(started: Sequence[Sample], ended: Sequence[Sample], term: Term) -> int:
    """
    Return how many more have *started* than *ended*.

    They are compared for each set of values of the labels that both have: where one set has
    more that ended than started, the sum over all sets would hide what another has in hand.
    """
    every = [sample.labels.keys() for sample in (*started, *ended)]
    shared = sorted(frozenset[str].intersection(*map(frozenset, every))) if every else []
    begun, over = _by_labels(started, shared), _by_labels(ended, shared)
    for values in over:
        if over[values] > begun[values]:
            where = ", ".join(f"{k}={v!r}" for k, v in zip(shared, values, strict=True))
            raise Unclear(
                f"{term.metric} are {begun[values]}, fewer than {term.minus}, "
                f"which are {over[values]}{where and f', where {where}'}"
            )
    return a_count(begun.total() - over.total(), f"{term.metric} less {term.minus}")


def _by_labels(samples: Sequence[Sample], labels: Sequence[str]) -> Counter[tuple[str, ...]]:
    found = Counter[tuple[str, ...]]()
    for sample in samples:
        number = a_count(sample.count(), str(sample), most=MOST_STARTED)
        found[tuple(sample.labels[label] for label in labels)] += number
    return found
