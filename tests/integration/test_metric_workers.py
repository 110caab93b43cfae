"""Gauges of prometheus_client in several real workers of gunicorn: which modes may be believed."""

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from deregister_agent.errors import ProbeError
from deregister_agent.model import Instance
from deregister_agent.probes.prometheus.probe import Options, PrometheusProbe, build
from tests.apps.app_server import Server, Start, servers

APP = """
import os, time
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

held = Gauge("in_hand", "Now.", multiprocess_mode=os.environ["MODE"])
other = Gauge("version", "Of the data.", multiprocess_mode="max")
held.set(0)
begin, end = held.inc, held.dec
if "mostrecent" in os.environ["MODE"]:  # which refuses these two
    begin, end = lambda: held.set(1), lambda: held.set(0)
other.set(7)

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/metrics":
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        body = generate_latest(registry)
        length = ("Content-Length", str(len(body)))
        start_response("200 OK", [("Content-Type", CONTENT_TYPE_LATEST), length])
        return [body]
    if path == "/pid":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(os.getpid()).encode()]
    begin()
    try:
        open(f"in-hand-{time.monotonic_ns()}-{os.getpid()}", "w").close()
        while not os.path.exists("release"):
            time.sleep(0.01)
    finally:
        end()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"x"]
"""
CHILD_EXIT = """
from prometheus_client import multiprocess
def child_exit(server, worker):
    multiprocess.mark_process_dead(worker.pid)
"""
GUNICORN = ("gunicorn", "shop:app", "-b", "127.0.0.1:PORT", "-w", "2", "--threads", "2")
CONFIG = ("-c", "told.py")
RIGHT = ("livesum", "liveall", "sum", "all")
HIDING = ("min", "max", "mostrecent", "livemin", "livemax", "livemostrecent")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    (tmp_path / "told.py").write_text(CHILD_EXIT)
    (tmp_path / "workers").mkdir()
    with servers(tmp_path) as run:

        def started(*more: str, mode: str) -> Server:
            folder = str(tmp_path / "workers")
            server = run(APP, *GUNICORN, *more, MODE=mode, PROMETHEUS_MULTIPROC_DIR=folder)
            server.until(lambda: len(gauges(server, mode)) == 2)
            server.until(lambda: connected(server.port))
            return server

        yield started


def gauges(server: Server, mode: str) -> set[int]:
    """Return the workers that have written a file for this mode."""
    names = [path.name for path in (server.folder / "workers").iterdir()]
    found = [re.fullmatch(rf"gauge_{mode}_(\d+)\.db", name) for name in names]
    return {int(one[1]) for one in found if one is not None}


def connected(port: int) -> bool:
    socket.create_connection(("127.0.0.1", port), timeout=30).close()
    return True


def probe(server: Server, *, looks: bool = True, **more: object) -> PrometheusProbe:
    table: dict[str, object] = {
        "kind": "prometheus",
        "url": f"http://127.0.0.1:{server.port}/metrics",
        "in_flight": {"requests": "in_hand"},
        "timeout": 10,
    }
    if looks:
        table["multiprocess_dir"] = str(server.folder / "workers")
    options = Options.model_validate_json(json.dumps(table | more))
    return build(options, Instance("orders-1", "orders", "127.0.0.1", server.port))


def told(asked: PrometheusProbe) -> str:
    """Return what the probe tells, or why it does not: while a worker begins, its page fails."""
    try:
        return json.dumps(asked.read(0.0).in_flight)
    except ProbeError as e:
        return str(e)


IDLE = json.dumps({"requests": 0})


def begun(server: Server) -> set[str]:
    """Return what has been begun, by the word of the workers."""
    return {path.name for path in server.folder.glob("in-hand-*")}


def hold(server: Server) -> tuple[int, socket.socket]:
    """Hold a request open; return which worker has it, and the client."""
    before = begun(server)
    client = server.send("/hold")
    server.until(lambda: bool(begun(server) - before))
    (name,) = begun(server) - before
    return int(name.rpartition("-")[2]), client


@pytest.mark.parametrize("mode", RIGHT)
class TestModesThatAddUp:
    def test_up_and_down(self, start: Start, mode: str) -> None:
        """The work of one worker is told by whichever answers, and its end is."""
        server = start(*CONFIG, mode=mode)
        asked = probe(server)
        assert asked.read(0.0).idle
        _, client = hold(server)
        assert [asked.read(0.0).in_flight for _ in range(8)] == [{"requests": 1}] * 8
        server.release()
        server.until(lambda: asked.read(0.0).idle)
        client.close()

    def test_a_worker_killed_with_work_in_hand(self, start: Start, mode: str) -> None:
        """What it had is gone: seen in a live mode, else said with the file to remove."""
        server = start(*CONFIG, mode=mode)
        asked = probe(server)
        worker, client = hold(server)
        os.kill(worker, signal.SIGKILL)
        client.close()
        if mode.startswith("live"):
            server.until(lambda: worker not in gauges(server, mode))
            server.until(lambda: told(asked) == IDLE)
            return
        said = f'holds 1 of worker {worker}, which has gone .gauge_{mode}_{worker}.db.*"live{mode}"'
        server.until(lambda: re.search(said, told(asked)) is not None)
        (server.folder / "workers" / f"gauge_{mode}_{worker}.db").unlink()
        server.until(lambda: told(asked) == IDLE)


class TestWithoutTheCall:
    def test_a_killed_worker_is_named(self, start: Start) -> None:
        """Nobody has called mark_process_dead: never drained, and the reason says why."""
        server = start(mode="livesum")
        worker, client = hold(server)
        os.kill(worker, signal.SIGKILL)
        client.close()
        server.until(lambda: not Path(f"/proc/{worker}").exists())
        blind, asked = probe(server, looks=False), probe(server)
        server.until(lambda: told(blind) == json.dumps({"requests": 1}))  # for ever
        said = f"worker {worker}, which has gone .*child_exit"
        server.until(lambda: re.search(said, told(asked)) is not None)

    def test_recycled_workers_hide_nothing(self, start: Start) -> None:
        """Workers that end after some requests leave zeros behind, which are no matter."""
        server = start("--max-requests", "3", mode="livesum")
        asked = probe(server)
        first = gauges(server, "livesum")
        server.until(lambda: recycled(server, first) and told(asked) == IDLE)


def recycled(server: Server, first: set[int]) -> bool:
    """Ask for a page, and tell whether another worker than the first ones has come up."""
    with server.send("/pid") as client:
        client.recv(65536)
    return bool(gauges(server, "livesum") - first)


class TestModesThatHide:
    @pytest.mark.parametrize("mode", HIDING)
    def test_it_is_refused(self, start: Start, mode: str) -> None:
        """Whatever its number is, with or without work in hand."""
        server = start(*CONFIG, mode=mode)
        said = f'in_hand is a gauge with multiprocess_mode="{mode}" .*make it "livesum"'
        asked = probe(server)
        server.until(lambda: re.search(said, told(asked)) is not None)
        _, client = hold(server)
        server.until(lambda: re.search(said, told(asked)) is not None)
        server.release()
        client.close()

    @pytest.mark.parametrize("mode", ["min", "livemin"])
    def test_why(self, start: Start, mode: str) -> None:
        """The page alone says 0 while a worker is at work."""
        server = start(*CONFIG, mode=mode)
        _, client = hold(server)
        assert probe(server, looks=False).read(0.0).idle
        server.release()
        client.close()

    def test_a_gauge_that_does_not_count_is_no_matter(self, start: Start) -> None:
        """Only what the probe adds up has to add up: the app has another one of mode max."""
        server = start(*CONFIG, mode="livesum")
        assert probe(server).read(0.0).idle


class TestTheFolder:
    def test_it_is_not_there(self, start: Start, tmp_path: Path) -> None:
        """A folder that is missing, empty, or holds something else, is another one."""
        server = start(*CONFIG, mode="livesum")
        (tmp_path / "empty").mkdir()
        (tmp_path / "odd").mkdir()
        (tmp_path / "odd" / "gauge_livesum_1.db").write_bytes(b"\x40\x00\x00\x00 no such file")
        for name, why in (
            ("nowhere", "cannot be read: No such file"),
            ("empty", "no worker's file in"),
            ("odd", "cannot be read as a file of prometheus_client"),
        ):
            with pytest.raises(ProbeError, match=why):
                probe(server, looks=False, multiprocess_dir=str(tmp_path / name)).read(0.0)
