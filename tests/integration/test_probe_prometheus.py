"""The prometheus probe: against prometheus_client, and against pages that tell nothing."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary
from prometheus_client.exposition import start_http_server
from pydantic import ValidationError

from deregister_agent.errors import ConfigError, ProbeError
from deregister_agent.model import Instance
from deregister_agent.probes.prometheus import warnings
from deregister_agent.probes.prometheus.probe import Options, PrometheusProbe, build
from deregister_agent.probes.prometheus.samples import NotMetricsError, Selector, read_metrics
from tests.apps.pages import Pages, page, pages


def probe(url: str, **more: object) -> PrometheusProbe:
    table = {"kind": "prometheus", "url": url, "timeout": 5.0} | more
    options = Options.model_validate_json(json.dumps(table))
    return build(options, Instance("orders-1", "orders", "127.0.0.1", 80))


@pytest.fixture
def server() -> Iterator[Pages]:
    with pages(lambda _: page("n 0\n")) as running:
        yield running


HUGE = "n 0\n" + "m 0\n" * 2_200_000
NO_LENGTH = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nn 0\n"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
FAIL_CLOSED = {
    "failing": (page("n 0\n", status="503 Service Unavailable"), "status 503, not 200"),
    "moved": (page("n 0\n", status="302 Found"), "status 302, not 200"),
    "html": (page("<html>0</html>\n", "text/html"), "no metrics but text/html"),
    "html as text": (page("<html>\n0</html>\n"), "line 1 is no sample"),
    "json": (page('{"n": 0}\n', "application/json"), "no metrics but application/json"),
    "no type": (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nn 0\n", "of no type"),
    "empty": (page(""), "the last line breaks off"),
    "nothing in it": (page("# nothing\n"), "not one sample"),
    "cut off": (page("n 0\n" + "m 1\n" * 9)[:-8], "breaks off"),
    "last line cut off": (page("n 0\nm 1"), "the last line breaks off"),
    "no length": (NO_LENGTH, "does not tell how long it is"),
    "no end": (page("n 0\n", OPENMETRICS), "does not end with # EOF"),
    "after the end": (page("n 0\n# EOF\nn 1\n", OPENMETRICS), "line 3 comes after the end"),
    "huge": (page(HUGE), "larger than 8388608 bytes"),
    "no answer": (b"", "closed the connection"),
    "cached": (page("n 0\n").replace(b"\r\n", b"\r\nAge: 0\r\n", 1), "comes out of a cache"),
    "latin-1": (page(b'n{a="\xe9"} 0\n'), "no valid metrics"),
    "nan": (page("n NaN\n"), "n is NaN, not a whole number"),
    "infinity": (page("n +Inf\n"), "n is +Inf, not a whole number"),
    "negative": (page("n -1\n"), "n is -1, not a whole number"),
    "fraction": (page("n 0.5\n"), "n is 0.5, not a whole number"),
    "too large": (page("n 1e300\n"), "n is 1e300, not a whole number"),
    "hidden negative": (page('n{a="1"} 1\nn{a="2"} -1\n'), 'n{a="2"} is -1'),
    "missing": (page("nn 0\n"), "no sample of n"),
    "only a comment": (page("# n 0\nm 0\n"), "no sample of n"),
    "no value": (page("n\n"), "line 1 is no sample"),
    "words": (page("n zero\n"), "line 1 is no sample"),
    "two values": (page("n 0 0 0\n"), "line 1 is no sample"),
    "odd number": (page("n 0.0.0\n"), "line 1 is no sample"),
    "open label": (page('n{a="b} 0\n'), "line 1 is no sample"),
    "label twice": (page('n{a="1",a="2"} 0\n'), "line 1 is no sample"),
    "odd labels": (page("n{a=1} 0\n"), "line 1 is no sample"),
    "odd line elsewhere": (page("n 0\n\x00\n"), "line 2 is no sample"),
    "twice": (page('n{a="1",b="2"} 5\nn{b="2",a="1"} 0\n'), "stands there twice"),
    "dated": (page("n 0 1395066363000\n"), "may be old"),
    "counter": (page("# TYPE n counter\nn 0\n"), "n is a counter, which never falls"),
}


class TestFailsClosed:
    @pytest.mark.parametrize("case", FAIL_CLOSED)
    def test_what_is_no_plain_count_is_not_known(self, server: Pages, case: str) -> None:
        """The error says what was there instead."""
        server.said, why = FAIL_CLOSED[case]
        with pytest.raises(ProbeError, match=r"^prometheus: cannot tell") as caught:
            probe(server.url, in_flight={"requests": "n"}).read(0.0)
        assert why in str(caught.value)

    def test_nobody_there(self, server: Pages) -> None:
        """An app that is not reachable is not idle."""
        server.end()
        with pytest.raises(ProbeError, match="Connection refused"):
            probe(server.url, in_flight={"requests": "n"}).read(0.0)

    def test_slow(self, server: Pages) -> None:
        """An answer that comes byte by byte is given up at the timeout."""
        server.slowly = True
        server.said = page("n 0\n" * 9)
        with pytest.raises(ProbeError, match="no answer within"):
            probe(server.url, in_flight={"requests": "n"}, timeout=0.3).read(0.0)

    def test_a_difference_below_zero(self, server: Pages) -> None:
        """More finished than started is no count."""
        server.said = page("a_total 3\nb_total 4\n")
        with pytest.raises(ProbeError, match="a_total are 3, fewer than b_total, which are 4"):
            probe(server.url, in_flight={"c": {"metric": "a_total", "minus": "b_total"}}).read(0.0)

    def test_below_the_baseline(self, server: Pages) -> None:
        """A baseline that is too high would hide work."""
        with pytest.raises(ProbeError, match="less than the baseline of 1"):
            probe(server.url, in_flight={"r": "n"}, baseline={"r": 1}).read(0.0)

    def test_two_names_at_once(self, server: Pages) -> None:
        """Of names that exclude each other, two are one too many."""
        server.said = page("n 0\nm 0\n")
        with pytest.raises(ProbeError, match="more than one of n, m"):
            probe(server.url, in_flight={"r": {"metric": ["n", "m"]}}).read(0.0)

    @pytest.mark.parametrize("text", ["m 1\n", 'mark{a="1"} 1\nmark{a="2"} 2\n'])
    def test_a_mark_is_one(self, server: Pages, text: str) -> None:
        """No mark, or two of them, do not tell which process it is."""
        server.said = page("n 0\n" + text)
        with pytest.raises(ProbeError, match=r"\d samples of the mark mark, not one"):
            probe(server.url, in_flight={"r": "n"}, mark="mark").read(0.0)

    def test_a_wrong_own_starts_is_found_out(self, server: Pages) -> None:
        """A counter that rises by less than each scrape should add would hide work."""
        server.said = page("n 0\ns_total 5\n")
        probed = probe(server.url, in_flight={"r": "n"}, started="s_total", own_starts=1)
        probed.read(0.0)
        with pytest.raises(ProbeError, match="rose by 0"):
            probed.read(0.0)


class TestSums:
    def test_absent_may_be_zero(self, server: Pages) -> None:
        """Only where it is written down does a missing metric count as nothing."""
        term = {"metric": "later", "absent": "zero"}
        server.said = page("n 0\n")
        assert probe(server.url, in_flight={"r": term}).read(0.0).in_flight == {"r": 0}
        server.said = page("n 0\nlater 2\n")
        assert probe(server.url, in_flight={"r": term}).read(0.0).in_flight == {"r": 2}

    def test_finished_calls_do_not_hide_new_ones(self, server: Pages) -> None:
        """A counter of started calls tells of a call that came while the page was written."""
        calls = {"metric": "a_total", "minus": "b_total"}
        probed = probe(server.url, in_flight={"c": calls})
        server.said = page("a_total 3\nb_total 3\n")
        first = probed.read(0.0)
        server.said = page("a_total 4\nb_total 4\n")
        assert (first.started, probed.read(0.0).started) == (3, 4)

    def test_lag(self, server: Pages) -> None:
        """Where the numbers may be old, each reading says by how much."""
        assert probe(server.url, in_flight={"r": "n"}, lag=0.3).read(0.0).late == 0.3
        assert probe(server.url, in_flight={"r": "n"}).read(0.0).late == 0.0

    def test_a_counter_that_goes_back(self, server: Pages) -> None:
        """After a restart the count of started work goes on, and never repeats."""
        probed = probe(server.url, in_flight={"r": "n"}, started="s_total")
        told = []
        for count in (5, 2, 2, 5):
            server.said = page(f"n 0\ns_total {count}\n")
            told.append(probed.read(0.0).started)
        assert told == [5, 8, 8, 11]

    @pytest.mark.parametrize("name", ["active_count", "count", "gcount"])
    def test_names_of_versions(self, server: Pages, name: str) -> None:
        """One metric under the name of whichever version of its library is there."""
        prefix = "http_server_requests_active_seconds_"
        server.said = page(f'{prefix}{name}{{exception="none",uri="UNKNOWN",}} 3.0\n')
        metric = [prefix + each for each in ("active_count", "count", "gcount")]
        asked = probe(server.url, in_flight={"r": {"metric": metric}}, baseline={"r": 1})
        assert asked.read(0.0).in_flight == {"r": 2}

    def test_presets_are_added_to_what_is_given(self, server: Pages) -> None:
        """Kinds of presets and of in_flight are added up."""
        server.said = page("http_requests_inprogress 3\nn 4\n")
        told = probe(server.url, presets=["fastapi"], in_flight={"requests": "n"}).read(0.0)
        assert told.in_flight == {"requests": 7}

    def test_a_page_of_many_workers(self, server: Pages) -> None:
        """Labels say which worker is meant; one that is not there is not idle."""
        server.said = page('busy{host="a@b"} 0\nbusy{host="c@d"} 5\n')
        busy: dict[str, object] = {"in_flight": {"tasks": "busy"}, "lag": 0.001}
        told = probe(server.url, labels={"host": "c@d"}, **busy).read(0.0)
        assert told.in_flight == {"tasks": 5}
        with pytest.raises(ProbeError, match="no sample of busy and host"):
            probe(server.url, labels={"host": "e@f"}, **busy).read(0.0)


class TestPrometheusClient:
    def test_work_held_open(self) -> None:
        """Requests, tasks and calls of a real app are told exactly, up and down to nothing."""
        registry = CollectorRegistry()
        requests = Gauge("http_requests_inprogress", "Now.", ["method"], registry=registry)
        tasks = Gauge("tasks", 'With "quotes" and \\ in it', ["q"], registry=registry)
        started = Counter("grpc_server_started", "All.", ["m"], registry=registry)
        handled = Counter("grpc_server_handled", "Done.", ["m", "code"], registry=registry)
        Histogram("seconds", "Took.", registry=registry).observe(0.3)
        Summary("bytes", "Sent.", registry=registry).observe(3)
        for method in ("GET", "POST"):
            requests.labels(method)
        tasks.labels('a"}\\\n,b').set(0)
        for method in ("Get", "List"):
            started.labels(method).inc(5)
            handled.labels(method, "OK").inc(5)
        web, thread = start_http_server(0, "127.0.0.1", registry)
        probed = probe(
            f"http://127.0.0.1:{web.server_port}/metrics",
            presets=["fastapi"],
            in_flight={
                "tasks": 'tasks{q="a\\"}\\\\\\n,b"}',
                "calls": {
                    "metric": "grpc_server_started_total",
                    "minus": "grpc_server_handled_total",
                },
            },
        )
        try:
            assert probed.read(0.0).in_flight == {"requests": 0, "calls": 0, "tasks": 0}
            release, inside = threading.Event(), threading.Barrier(4)

            def work(method: str) -> None:
                started.labels("List").inc()
                with requests.labels(method).track_inprogress():
                    tasks.labels('a"}\\\n,b').inc()
                    inside.wait(20)
                    release.wait(20)
                    tasks.labels('a"}\\\n,b').dec()
                handled.labels("List", "Cancelled").inc()

            with ThreadPoolExecutor(3) as pool:
                held = [pool.submit(work, method) for method in ("GET", "POST", "GET")]
                inside.wait(20)
                told = probed.read(0.0)
                release.set()
            assert told.in_flight == {"requests": 3, "calls": 3, "tasks": 3}
            assert [one.result() for one in held] == [None] * 3
            assert probed.read(0.0).in_flight == {"requests": 0, "calls": 0, "tasks": 0}
            assert probed.read(0.0).started == 13
        finally:
            web.shutdown()
            web.server_close()
            thread.join()

    def test_a_cache_is_allowed_for_by_lag(self, server: Pages) -> None:
        """An answer that is no older than the lag may come out of a cache."""
        server.said = page("n 0\n").replace(b"\r\n", b"\r\nAge: 4\r\n", 1)
        assert probe(server.url, in_flight={"r": "n"}, lag=5.0).read(0.0).late == 5.0
        with pytest.raises(ProbeError, match="is 4 s old"):
            probe(server.url, in_flight={"r": "n"}, lag=4.0).read(0.0)


class TestOptions:
    @pytest.mark.parametrize(
        "metric",
        [
            "promhttp_metric_handler_requests_in_flight",
            "exposer_scrapes_total",
            "scrape_duration_seconds",
            "jmx_scrape_error",
            "two words",
            "n{a=b}",
            'n{a="b"',
            'n{a=~"("}',
            'n{a=~"\\d+"}',
            'n{a=~"\\\\\\d+"}',
            {"metric": 'n_total{a="1"}', "minus": "m_total"},
            "",
        ],
    )
    def test_metrics_that_are_refused(self, metric: object) -> None:
        """What counts the scrapes, and what is no metric, is refused before anything runs."""
        with pytest.raises(ValidationError):
            probe("http://127.0.0.1:1", in_flight={"r": metric})

    def test_what_presets_do_not_see_is_named(self) -> None:
        """check-config warns of a preset, and of nothing that the operator has written."""
        table = {"kind": "prometheus", "url": "http://127.0.0.1:1", "in_flight": {"r": "n"}}
        own = Options.model_validate_json(json.dumps(table))
        preset = Options.model_validate_json(json.dumps(table | {"presets": ["fastapi"]}))
        instance = Instance("orders-1", "orders", "127.0.0.1", 80)
        assert warnings(own, instance) == []
        (warning,) = warnings(preset, instance)
        assert warning.startswith("preset 'fastapi' counts no WebSockets")

    @pytest.mark.parametrize("preset", ["flower", "celery-exporter"])
    def test_presets_that_are_gone(self, preset: str) -> None:
        """The celery probe asks the worker itself."""
        with pytest.raises(ValidationError, match="presets"):
            probe("http://127.0.0.1:1", presets=[preset])

    @pytest.mark.parametrize(
        ("more", "why"),
        [
            ({}, "in_flight: give it"),
            ({"in_flight": {"r": "n"}, "baseline": {"s": 1}}, r"baseline\.s"),
            ({"in_flight": {"r": "n"}, "own_starts": 1}, "own_starts: says nothing"),
        ],
    )
    def test_contradictions(self, more: dict[str, object], why: str) -> None:
        """Options that cannot be meant are refused, key first."""
        with pytest.raises(ConfigError, match=why):
            probe("http://127.0.0.1:1", **more)


class TestText:
    def test_names_in_quotes(self) -> None:
        """A name that needs quotes stands first between the braces."""
        text = '{"http.server.active", m="GET"} 2\nn 0 # {id="1"} 1 2\n'
        told = read_metrics(text, {"http.server.active", "n"})
        assert [(s.name, dict(s.labels), s.count()) for s in told.samples] == [
            ("http.server.active", {"m": "GET"}, 2),
            ("n", {}, 0),
        ]

    @pytest.mark.parametrize("text", ['{m="GET"} 2\n', "{} 2\n", '{"n", "n"} 2\n', " 2\n"])
    def test_no_name(self, text: str) -> None:
        """A sample without a name, or with two, is refused."""
        with pytest.raises(NotMetricsError, match="line 1"):
            read_metrics(text, {"n"})

    @pytest.mark.parametrize(
        ("selector", "fits"),
        [
            ("n", True),
            ("m", False),
            ('n{a="1"}', True),
            ('n{a="2"}', False),
            ('n{a!="2",b=""}', True),
            ('n{a=~"1|2",}', True),
            ('n{a=~"."}', True),
            ('n{a=~"\\\\d"}', True),
            ('n{a="\\\\n"}', False),
            ('n{a=~""}', False),
            ('n{a!~"1.*"}', False),
            ('n{b!~".+"}', True),
        ],
    )
    def test_selectors(self, selector: str, fits: bool) -> None:
        """Labels are matched as in PromQL: whole, and a missing one is empty."""
        (sample,) = read_metrics('n{a="1"} 0\n', {"n"}).samples
        assert Selector.of(selector).fits(sample) is fits

    def test_a_large_page_is_read_quickly(self) -> None:
        """A line that looks almost like a sample takes no more time than any other."""
        text = 'n{a="' + "\\" * 200_001 + "} 0\n"
        with pytest.raises(NotMetricsError):
            read_metrics(text, {"n"})
        text = 'n{a="1"' + " " * 200_000 + "} 0\n"
        assert read_metrics(text, {"n"}).lines == 1
