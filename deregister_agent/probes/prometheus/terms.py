"""Which metrics add up to the work in hand: those that the operator names, and the presets."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from deregister_agent.config.options import Table
from deregister_agent.probes.counting import WorkKind
from deregister_agent.probes.prometheus.samples import Selector

SCRAPES = re.compile(r"promhttp_metric_handler_.*|exposer_.*|(.*_)?scrapes?(_.*)?")
"""Metrics in which client libraries count the scrapes: never 0 while somebody reads them."""


def _metric(text: str) -> str:
    name = Selector.of(text).name
    if SCRAPES.fullmatch(name):
        raise ValueError(f"{name} counts the scrapes themselves, not the work of the app")
    return text


Metric = Annotated[str, AfterValidator(_metric)]
Alternatives = Annotated[tuple[Metric, ...], Field(min_length=1)]
PresetName = Literal["fastapi"]

GONE = {
    "grpc": (
        "py-grpc-prometheus ends no stream and does not count those of both sides; use the probe "
        'grpc, or in_flight = { calls = { metric = "grpc_server_started_total", '
        'minus = "grpc_server_handled_total" } } where the library of the app counts both'
    ),
    "opentelemetry": (
        "under Flask and WSGI a request is no longer active while its body is sent; count the work "
        "in the app, and use the probe http_json"
    ),
    "php-fpm": 'in_flight = { requests = ["phpfpm_active_processes", "phpfpm_listen_queue"] }',
    "puma": 'in_flight = { requests = ["puma_busy_threads", "puma_backlog"] }',
    "spring-boot": (
        'in_flight = { requests = { metric = ["http_server_requests_active_seconds_active_count", '
        '"http_server_requests_active_seconds_count", "http_server_requests_active_seconds_gcount"]'
        " } }"
    ),
    "spring-executors": (
        'in_flight = { tasks = ["executor_active_threads", "executor_queued_tasks"] }'
    ),
    "tomcat": 'in_flight = { threads = "tomcat_threads_busy_threads" }',
}
"""Presets of earlier versions, and what to write instead: no test has seen the real product
count every request until its end, or one has seen that it does not."""


def _still_there(name: object) -> object:
    if isinstance(name, str) and name in GONE:
        raise ValueError(f"preset {name!r} is not proven and was taken out; instead: {GONE[name]}")
    return name


MetricPreset = Annotated[PresetName, BeforeValidator(_still_there)]


def metrics_in(given: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the metrics in a value of the configuration: one, several, or none."""
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else given


class Term(Table):
    """One number: the sum of a metric's samples, less the sum of another's."""

    metric: Metric | Alternatives
    """The metric, as in PromQL: ``name`` or ``name{label="value", other=~"pattern"}``. Several
    are names that the same metric has in different versions: exactly one of them must be there."""
    minus: Metric | None = None
    """A metric to subtract: finished from started."""
    absent: Literal["unknown", "zero"] = "unknown"
    """What it means that there is no such sample; ``zero`` for one that appears on first use."""

    @model_validator(mode="after")
    def _of_the_same(self) -> Self:
        narrow = any(Selector.of(text).matchers for text in metrics_in(self.metric))
        if narrow and self.minus is not None and not Selector.of(self.minus).matchers:
            raise ValueError(
                "minus must have labels as metric has: it would subtract what others have finished"
            )
        return self


Terms = Annotated[tuple[Metric | Term, ...], Field(min_length=1)]

PRESETS: Mapping[PresetName, Mapping[WorkKind, tuple[Term, ...]]] = {
    "fastapi": {"requests": (Term(metric="http_requests_inprogress"),)},
}
"""Metrics of products that tests/integration/test_metric_presets.py has run, row by row."""

BLIND = {
    "fastapi": (
        "counts no WebSockets and nothing that goes on after a request (threads, tasks): "
        "deregister_agent.app counts those, too"
    ),
}
"""What each preset does not see."""


def terms_by_kind(
    presets: Sequence[PresetName], in_flight: Mapping[str, str | Term | Terms]
) -> Mapping[WorkKind, Sequence[Term]]:
    """Return the terms to add up for each kind of work, those of the presets first."""
    found: dict[str, list[Term]] = {}
    for preset in presets:
        for kind, terms in PRESETS[preset].items():
            found.setdefault(kind, []).extend(terms)
    for kind, given in in_flight.items():
        for term in given if isinstance(given, tuple) else (given,):
            found.setdefault(kind, []).append(Term(metric=term) if isinstance(term, str) else term)
    return found
