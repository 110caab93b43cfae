"""Which metrics add up to the work in hand: what the operator writes down, and the presets."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from deregister_agent.config.options import Table
from deregister_agent.probes.prometheus.samples import Selector

SCRAPES = re.compile(r"promhttp_metric_handler_.*|exposer_.*|(.*_)?scrapes?(_.*)?")
"""What client libraries count of the scrapes themselves: never 0 while somebody reads it."""


def _metric(text: str) -> str:
    name = Selector.of(text).name
    if SCRAPES.fullmatch(name):
        raise ValueError(f"{name} counts the scrapes themselves, not the work of the app")
    return text


Metric = Annotated[str, AfterValidator(_metric)]
Alternatives = Annotated[tuple[Metric, ...], Field(min_length=1)]
Kind = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Preset = Literal[
    "celery-exporter", "fastapi", "flower", "grpc", "opentelemetry", "php-fpm", "puma",
    "spring-boot", "spring-executors", "tomcat",
]  # fmt: skip


def each(given: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return what was given as one text, several, or none."""
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
        narrow = any(Selector.of(text).matchers for text in each(self.metric))
        if narrow and self.minus is not None and not Selector.of(self.minus).matchers:
            raise ValueError(
                "minus must have labels as metric has: it would subtract what others have finished"
            )
        return self


Terms = Annotated[tuple[Metric | Term, ...], Field(min_length=1)]

_ACTIVE = "http_server_requests_active_seconds_"
PRESETS: Mapping[Preset, Mapping[str, tuple[Term, ...]]] = {
    "celery-exporter": {"tasks": (Term(metric="celery_worker_tasks_active"),)},
    "fastapi": {"requests": (Term(metric="http_requests_inprogress"),)},
    "flower": {
        "tasks": (
            Term(metric="flower_worker_number_of_currently_executing_tasks"),
            Term(metric="flower_worker_prefetched_tasks", absent="zero"),
        )
    },
    "grpc": {
        "calls": (Term(metric="grpc_server_started_total", minus="grpc_server_handled_total"),)
    },
    "opentelemetry": {"requests": (Term(metric="http_server_active_requests"),)},
    "php-fpm": {
        "requests": (Term(metric="phpfpm_active_processes"), Term(metric="phpfpm_listen_queue"))
    },
    "puma": {"requests": (Term(metric="puma_busy_threads"), Term(metric="puma_backlog"))},
    "spring-boot": {
        "requests": (Term(metric=tuple(_ACTIVE + n for n in ("active_count", "count", "gcount"))),)
    },
    "spring-executors": {
        "tasks": (Term(metric="executor_active_threads"), Term(metric="executor_queued_tasks"))
    },
    "tomcat": {"threads": (Term(metric="tomcat_threads_busy_threads"),)},
}
OF_MANY = frozenset({"celery-exporter", "flower"})
"""Exporters that tell of every worker there is, so labels must say which one is meant."""


def added_up(
    presets: Sequence[Preset], in_flight: Mapping[str, str | Term | Terms]
) -> Mapping[str, Sequence[Term]]:
    """Return what is added up for each kind of work, that of the presets first."""
    found: dict[str, list[Term]] = {}
    for preset in presets:
        for kind, terms in PRESETS[preset].items():
            found.setdefault(kind, []).extend(terms)
    for kind, given in in_flight.items():
        for one in given if isinstance(given, tuple) else (given,):
            found.setdefault(kind, []).append(Term(metric=one) if isinstance(one, str) else one)
    return found
