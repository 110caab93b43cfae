"""What check-config says of metrics that may be absent, where the app's page does not show them."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import start_http_server

from deregister_agent.errors import ProbeError
from deregister_agent.model import Instance
from deregister_agent.probes.prometheus import Options, warnings
from tests.apps.pages import page, pages

INSTANCE = Instance("orders-1", "orders", "127.0.0.1", 80)


@contextmanager
def an_app() -> Iterator[str]:
    """Serve the page of an app: a plain gauge, one with labels in use, and metrics in no use."""
    registry = CollectorRegistry()
    Gauge("jobs_running", "At work.", registry=registry).set(0)
    queued = Gauge("jobs_queued", "Waiting.", ["queue"], registry=registry)
    queued.labels("mail").set(0)
    Gauge("uploads_running", "At work.", ["bucket"], registry=registry)
    Counter("rpc_started", "Begun.", ["method"], registry=registry)
    Histogram("rpc_seconds", "Ended.", ["method"], registry=registry)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def said(url: str, *metrics: object, **more: object) -> Sequence[str]:
    """Return what check-config says where these metrics add up to the tasks."""
    table = {"kind": "prometheus", "url": url, "in_flight": {"tasks": metrics}, "timeout": 20.0}
    return warnings(Options.model_validate_json(json.dumps(table | more)), INSTANCE)


def zero(metric: object, **more: object) -> dict[str, object]:
    return {"metric": metric, "absent": "zero", **more}


@pytest.mark.parametrize(
    "metric",
    [
        zero("jobs_running"),
        zero('jobs_queued{queue="mail"}'),
        zero('jobs_queued{queue=~"m.*"}'),
        zero("uploads_running"),
        zero('uploads_running{bucket="photos"}'),
        zero(["jobs_running_old", "jobs_running"]),
        zero("rpc_started_total", minus="rpc_seconds_count"),
    ],
)
def test_what_the_page_knows_is_no_warning(metric: object) -> None:
    """It is there, or is declared and nothing has used it yet."""
    with an_app() as url:
        assert said(url, metric) == []


@pytest.mark.parametrize(
    ("metric", "holds"),
    [
        (zero("jobs_runing"), "jobs_runing is not on the page"),
        (zero("jobs_runing"), "did you mean jobs_running?"),
        (zero("upload_running"), "did you mean uploads_running?"),
        (zero(["jobs_run", "job_runs"]), "jobs_run or job_runs is not on the page"),
        (zero('jobs_queued{queue="mial"}'), 'which has jobs_queued{queue="mail"}'),
        (zero("rpc_started_total", minus="rpc_secnds_count"), "rpc_secnds_count is not on the"),
        (zero("something_else"), "something_else is not on the page"),
    ],
)
def test_what_the_page_does_not_show_is_named(metric: object, holds: str) -> None:
    """A misspelt name would be idle for ever, and so would a label with another value."""
    with an_app() as url:
        (warning,) = said(url, "jobs_running", metric)
    assert holds in warning
    assert 'absent = "zero" takes that for nothing in hand' in warning


def test_labels_of_the_probe_are_looked_for_too() -> None:
    """A metric of another instance on the page is none of this one."""
    with pages(lambda _: page('n{job="a"} 0\n')) as server:
        assert said(server.url, zero("n"), labels={"job": "a"}) == []
        (warning,) = said(server.url, zero("n"), labels={"job": "b"})
    assert "n and job='b' fits no sample on the page, which has n{job=\"a\"}" in warning


def test_a_page_that_does_not_answer_says_so() -> None:
    """And nobody is asked where no metric may be absent: its absence is an error anyway."""
    assert said("http://127.0.0.1:1/metrics", "jobs_running") == []
    with pytest.raises(ProbeError, match="for the metrics that may be absent"):
        said("http://127.0.0.1:1/metrics", zero("jobs_running"))
