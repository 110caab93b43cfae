"""Counts that nobody can have: below zero, above what there can be, read at two moments."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deregister_agent.errors import ProbeError
from deregister_agent.model import Instance
from deregister_agent.ports import IdleProbe
from deregister_agent.probes import command, http_json, pulsar
from deregister_agent.probes.counting import StartedCounter, Unclear, must_cover
from deregister_agent.probes.prometheus import probe as prometheus
from tests.apps.pages import JSON, Pages, document, page, pages
from tests.contract.probes.pulsar import stats

OWN = Instance("orders-1", "orders", "127.0.0.1", 80)
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def server() -> Iterator[Pages]:
    with pages(lambda _: page("n 0\n")) as running:
        yield running


def of_json(server: Pages, **more: object) -> IdleProbe:
    table = {"kind": "http_json", "url": server.url, "in_flight": {"requests": "/n"}, "timeout": 5}
    return http_json.build(http_json.Options.model_validate_json(json.dumps(table | more)), OWN)


def of_metrics(server: Pages, **more: object) -> IdleProbe:
    table = {"kind": "prometheus", "url": server.url, "in_flight": {"requests": "n"}, "timeout": 5}
    return prometheus.build(prometheus.Options.model_validate_json(json.dumps(table | more)), OWN)


def of_pulsar(server: Pages) -> IdleProbe:
    table = {"kind": "pulsar", "url": server.url, "subscription": "shop", "consumer": "web-1"}
    topics = {"topics": ["persistent://public/default/orders"]}
    return pulsar.build(pulsar.Options.model_validate_json(json.dumps(table | topics)), OWN)


def of_program(count: int) -> IdleProbe:
    program = (sys.executable, "-I", "-S", "-c", f"print({count})")
    return command.build(command.Options(kind="command", command=program, timeout=20.0), OWN)


ASKED: dict[str, Callable[[Pages, int], IdleProbe]] = {
    "http_json": lambda server, _: of_json(server),
    "prometheus": lambda server, _: of_metrics(server),
    "pulsar": lambda server, _: of_pulsar(server),
    "command": lambda _, count: of_program(count),
}


def saying(server: Pages, kind: str, count: int) -> IdleProbe:
    """Return a probe of an app that says *count*."""
    said = {
        "http_json": document({"n": count}),
        "prometheus": page(f"n {count}\n"),
        "pulsar": document(stats(("web-1", count))),
        "command": b"",
    }
    server.said = said[kind]
    return ASKED[kind](server, count)


@pytest.mark.parametrize("kind", ASKED)
class TestNoCountAtAll:
    @pytest.mark.parametrize(
        "count",
        [-1, -(2**31), 2**31 - 1, 2**32 - 1, 2**32 - 7, 2**53, 2**63 - 1, 2**64 - 1],
    )
    def test_what_nobody_can_have(self, server: Pages, kind: str, count: int) -> None:
        """Below zero, below zero without a sign, and what stands for no limit are not known."""
        with pytest.raises(ProbeError, match=r"cannot tell .*(not (a|one) whole|more)"):
            saying(server, kind, count).read(0.0)

    @pytest.mark.parametrize("count", [1, 255, 65_535, 1_000_000])
    def test_what_one_may_have(self, server: Pages, kind: str, count: int) -> None:
        """Large counts are counts."""
        assert count in saying(server, kind, count).read(0.0).in_flight.values()


class TestSumsThatHide:
    """One number too small in a sum would hide another that is not zero."""

    @pytest.mark.parametrize(
        ("began", "ended"),
        [
            ('a_total{q="x"} 5\na_total{q="y"} 5\n', 'b_total{q="x"} 6\nb_total{q="y"} 4\n'),
            (
                'a_total{q="x"} 5\na_total{q="y"} 5\n',
                'b_total{q="x",c="1"} 3\nb_total{q="x",c="2"} 3\nb_total{q="y",c="1"} 4\n',
            ),
            ('a_total{q="y"} 9\n', 'b_total{q="z"} 1\nb_total{q="y"} 8\n'),
        ],
    )
    def test_differences(self, server: Pages, began: str, ended: str) -> None:
        """Each set of labels by itself: who ended more than began does not pay for another."""
        server.said = page(began + ended)
        asked = of_metrics(server, in_flight={"c": {"metric": "a_total", "minus": "b_total"}})
        with pytest.raises(ProbeError, match=r"a_total are \d, fewer than b_total, .* where q='"):
            asked.read(0.0)

    def test_differences_that_are_plain(self, server: Pages) -> None:
        """Labels that only one side has are added up."""
        server.said = page(
            'a_total{q="x"} 5\na_total{q="y"} 5\n'
            'b_total{q="x",code="OK"} 2\nb_total{q="x",code="NO"} 2\nb_total{q="y",code="OK"} 5\n'
        )
        asked = of_metrics(server, in_flight={"c": {"metric": "a_total", "minus": "b_total"}})
        assert asked.read(0.0).in_flight == {"c": 1}

    def test_pointers(self, server: Pages) -> None:
        """Each number of a sum in JSON is looked at."""
        server.said = document({"a": 3, "b": -3})
        with pytest.raises(
            ProbeError, match="the number at /b is -3, not a whole number of at least 0"
        ):
            of_json(server, in_flight={"r": ["/a", "/b"]}).read(0.0)

    def test_a_counter_among_others(self, server: Pages) -> None:
        """One series that falls is noticed though the sum rises."""
        asked = of_metrics(server, started="s_total", mark="m")
        server.said = page('n 0\nm 1\ns_total{w="1"} 5\ns_total{w="2"} 5\n')
        asked.read(0.0)
        server.said = page('n 0\nm 1\ns_total{w="1"} 3\ns_total{w="2"} 9\n')
        with pytest.raises(ProbeError, match=r'started work s_total{w="1"} was 5, and is 3'):
            asked.read(0.0)
        assert asked.read(0.0).started == 10

    def test_a_series_that_is_not_there_any_more(self, server: Pages) -> None:
        """So is one that vanishes."""
        asked = of_metrics(server, started="s_total", mark="m")
        server.said = page('n 0\nm 1\ns_total{w="1"} 5\ns_total{w="2"} 5\n')
        asked.read(0.0)
        server.said = page('n 0\nm 1\ns_total{w="2"} 15\n')
        with pytest.raises(ProbeError, match=r's_total{w="1"} was 5, and is not there any more'):
            asked.read(0.0)


class TestStarted:
    def test_fewer_started_than_in_flight(self, server: Pages) -> None:
        """Both pages: a counter that is behind tells of neither."""
        server.said = document({"n": 3, "s": 2})
        with pytest.raises(ProbeError, match="requests are 3, but only 2 have ever been started"):
            of_json(server, started="/s").read(0.0)
        server.said = page("n 3\ns_total 2\n")
        with pytest.raises(ProbeError, match="requests are 3, but only 2 have ever been started"):
            of_metrics(server, started="s_total").read(0.0)

    def test_kinds_that_the_counter_does_not_tell_of(self) -> None:
        """Of several kinds it may count one only, and those in hand are told."""
        must_cover(0, {"requests": 0, "jobs": 7})
        must_cover(3, {"requests": 3})

    def test_a_fall_within_one_process(self, server: Pages) -> None:
        """The same process counts backwards: not known; once it stands, it is believed again."""
        asked = of_json(server, started="/s", mark="/id")
        server.said = document({"n": 0, "s": 9, "id": "a"})
        assert asked.read(0.0).started == 9
        server.said = document({"n": 0, "s": 8, "id": "a"})
        with pytest.raises(ProbeError, match=r"was 9, and is 8, though the process is the same"):
            asked.read(0.0)
        assert asked.read(0.0).started == 9

    def test_another_process_begins_anew(self, server: Pages) -> None:
        """Its mark says so: its lower counter is new work."""
        asked = of_json(server, started="/s", mark="/id")
        server.said = document({"n": 0, "s": 9, "id": "a"})
        asked.read(0.0)
        server.said = document({"n": 0, "s": 1, "id": "b"})
        assert asked.read(0.0).started == 11

    @pytest.mark.parametrize("value", [-1, 2**53, 2**64 - 1])
    def test_no_counter(self, value: int) -> None:
        """A counter below zero or beyond what a float can show may hide a change."""
        with pytest.raises(Unclear, match="the counter of started work is"):
            StartedCounter(0).count(value)

    def test_a_histogram_whose_count_is_behind(self, server: Pages) -> None:
        """Its last bucket is the same number; where it is not, the page was torn."""
        text = 'n 0\nt_seconds_count 4\nt_seconds_bucket{le="1.0"} 2\nt_seconds_bucket{le="+Inf"} '
        asked = of_metrics(server, started="t_seconds_count")
        server.said = page(f"{text}4\n")
        assert asked.read(0.0).started == 4
        server.said = page(f"{text}5\n")
        with pytest.raises(ProbeError, match="t_seconds_count is 4, and its last bucket 5"):
            asked.read(0.0)

    def test_a_histogram_with_labels(self, server: Pages) -> None:
        """Each set of labels has buckets of its own."""
        rows = [
            't_count{m="a"} 4',
            't_bucket{m="a",le="+Inf"} 4',
            't_count{m="b"} 6',
            't_bucket{le="Inf",m="b"} 7',
        ]
        server.said = page("n 0\n" + "\n".join(rows) + "\n")
        with pytest.raises(ProbeError, match=r't_count{m="b"} is 6, and its last bucket 7'):
            of_metrics(server, started="t_count").read(0.0)


CHUNKED = "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunks(kind: str, *pieces: str) -> bytes:
    head = CHUNKED.format(kind)
    return (head + "".join(f"{len(p):x}\r\n{p}\r\n" for p in pieces)).encode()


class TestBrokenOff:
    @pytest.mark.parametrize(
        "said",
        [
            chunks("text/plain", "n 0\n"),  # no last chunk
            chunks("text/plain", "n 0\n", 'm{a="b"} 1\n')[:-6],
            chunks(OPENMETRICS, "n 0\n", "") + b"",  # a last chunk, and no # EOF
            page("n 0\nm 1\n")[:-4],
            page("n 0\n# EO", OPENMETRICS),
        ],
    )
    def test_metrics(self, server: Pages, said: bytes) -> None:
        """A page that ends too soon, however it is sent, is not known."""
        server.said = said
        with pytest.raises(ProbeError, match=r"break(s|ing)? off|connection|# EOF"):
            of_metrics(server).read(0.0)

    def test_whole_chunks(self, server: Pages) -> None:
        """The whole of it is believed."""
        server.said = chunks("text/plain", "n 0\n", "m 1\n", "")
        assert of_metrics(server).read(0.0).idle

    @pytest.mark.parametrize(
        "said",
        [
            chunks(JSON, '{"n": 0}'),
            chunks(JSON, '{"n": 0', "}")[:-5],
            document({"n": 0, "pad": "xxxx"})[:-3],
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{",
        ],
    )
    def test_json(self, server: Pages, said: bytes) -> None:
        """So is a document."""
        server.said = said
        with pytest.raises(ProbeError, match="cannot tell what is in flight"):
            of_json(server).read(0.0)

    def test_a_bare_number(self, server: Pages) -> None:
        """1 may be the beginning of 10: only with its length it is believed."""
        server.said = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n0"
        asked = of_json(server, in_flight={"requests": ""})
        with pytest.raises(ProbeError, match="does not tell how long it is"):
            asked.read(0.0)
        server.said = page("0", JSON)
        assert asked.read(0.0).idle

    def test_a_program_that_is_cut_off(self, tmp_path: Path) -> None:
        """What it had printed when it was killed is no answer."""
        text = "import os; print(0, end='', flush=True); os.kill(os.getpid(), 9)"
        program = (sys.executable, "-I", "-S", "-c", text)
        asked = command.build(command.Options(kind="command", command=program, timeout=20.0), OWN)
        with pytest.raises(ProbeError, match=r"signal|killed"):
            asked.read(0.0)
