"""How much time the agent adds: to the end of a drain, to a withdrawal, to many waiting at once."""

import http.client
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.table import Row, percentile, report
from deregister_agent.cli.client import AgentClient
from deregister_agent.demo.stage import Apps, list_in_file, running_agent
from tests.servers.consul import Consul, shared

RUNS = 40
QUIET = 0.3
HELD = 0.6  # seconds that the last request takes, give or take SPREAD
SPREAD = 0.1  # so that its end falls anywhere between two readings of the probe
POLLS = 200

_HEAD = """
[agent]
journal = "{folder}/journal.db"
[server]
listen = ["unix:{folder}/agent.sock"]
[[instance]]
name = "web"
service = "bench-web"
port = {port}
quiet = {quiet}
min_others = 0
[[instance.probe]]
kind = "http_json"
url = "http://127.0.0.1:{port}/-/work"
in_flight = {{ requests = "/in_flight/requests" }}
started = "/started"
"""


@contextmanager
def stage(extra: str, registry: str | None = None) -> Iterator[tuple[AgentClient, int]]:
    """Run one app and an agent beside it; *extra* goes into the probe's table."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder, apps = Path(name), Apps(["web"])
        try:
            apps.start("web")
            table = registry or list_in_file(folder / "targets.json", apps)["web"]
            head = _HEAD.format(folder=folder, port=apps.ports["web"], quiet=QUIET)
            with running_agent(folder, f"{head}{extra}\n{table}") as agent:
                yield agent, apps.ports["web"]
        finally:
            apps.close()


def drain_overhead(extra: str) -> list[float]:
    """Return, per run, ms from the last request's end to the answer, beyond settle + quiet."""
    with stage(extra) as (agent, port):
        chance = random.Random(1)
        spread = [HELD + chance.uniform(-SPREAD, SPREAD) for _ in range(RUNS)]
        return [_one_drain(agent, port, held) for held in spread]


def _one_drain(agent: AgentClient, port: int, held: float) -> float:
    ended: list[float] = []

    def last_request() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", f"/work?seconds={held}")
        connection.getresponse().read()
        ended.append(time.perf_counter())
        connection.close()

    request = threading.Thread(target=last_request)
    request.start()
    time.sleep(HELD / 4)  # the request must be in the app's hands when the drain begins
    agent.post("/stop-traffic", {})
    answer = agent.get("/traffic-drained", wait=30)
    answered = time.perf_counter()
    request.join()
    if answer.status != 200:
        raise RuntimeError(f"not drained: {answer.body}")
    agent.post("/start-traffic", {})
    agent.get("/traffic-started", wait=30)
    return (answered - ended[0] - QUIET) * 1000


def withdrawal() -> tuple[list[float], list[float]]:
    """Return ms until Consul's read-back has lost the instance: by the agent, and by hand."""
    consul = shared()
    definition = {"ID": "web", "Name": "bench-web", "Port": 1}
    table = f'[[instance.registry]]\nkind = "consul"\nurl = "{consul.url}"\nservice_id = "web"\n'
    by_agent, by_hand = [], []
    consul.register(definition)
    with stage("", table) as (agent, _):
        for _ in range(RUNS):
            by_agent.append(_withdrawn_by_agent(agent, consul))
            agent.post("/start-traffic", {})
            agent.get("/traffic-started", wait=30)
            by_hand.append(_withdrawn_by_hand(consul))
            consul.register(definition)
            _until_listed(consul)
    return by_agent, by_hand


def _withdrawn_by_agent(agent: AgentClient, consul: Consul) -> float:
    began = time.perf_counter()
    agent.post("/stop-traffic", {})
    while consul.entries("bench-web"):
        pass
    return (time.perf_counter() - began) * 1000


def _withdrawn_by_hand(consul: Consul) -> float:
    began = time.perf_counter()
    consul.deregister("web")
    while consul.entries("bench-web"):
        pass
    return (time.perf_counter() - began) * 1000


def _until_listed(consul: Consul) -> None:
    while not consul.entries("bench-web"):
        pass


def many_polls() -> tuple[list[float], list[float], int]:
    """Return ms of other requests without and beside 200 long polls, and how many were answered."""
    with stage("") as (agent, port):
        alone = [_quick(agent) for _ in range(100)]
        work = threading.Thread(target=_hold, args=(port, 6.0))
        work.start()
        time.sleep(0.5)
        agent.post("/stop-traffic", {})
        answered: list[int] = []
        polls = [threading.Thread(target=_poll, args=(agent, answered)) for _ in range(POLLS)]
        for poll in polls:
            poll.start()
        time.sleep(2.0)  # all of them are waiting now
        beside = [_quick(agent) for _ in range(100)]
        for poll in polls:
            poll.join()
        work.join()
    return alone, beside, answered.count(200)


def _poll(agent: AgentClient, answered: list[int]) -> None:
    answered.append(agent.get("/traffic-drained", wait=30).status)


def _hold(port: int, seconds: float) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", f"/work?seconds={seconds}")
    connection.getresponse().read()
    connection.close()


def _quick(agent: AgentClient) -> float:
    began = time.perf_counter()
    agent.get("/healthz")
    return (time.perf_counter() - began) * 1000


def measure() -> list[Row]:
    """Measure everything, in one run on one machine."""
    polled = drain_overhead("")
    held = drain_overhead('wait_parameter = "wait"')
    by_agent, by_hand = withdrawal()
    alone, beside, answered = many_polls()
    beyond = statistics.median(by_agent) - statistics.median(by_hand)
    last = "last request's end to traffic-drained?wait, beyond settle + quiet"
    return [
        Row(f"{last}: median", statistics.median(polled), "ms", 50),
        Row(f"{last}: p99", percentile(polled, 0.99), "ms", 150),
        Row("the same, with a probe that is held: median", statistics.median(held), "ms", 50),
        Row("the same, with a probe that is held: p99", percentile(held, 0.99), "ms", 150),
        Row("stop-traffic to gone from Consul: median", statistics.median(by_agent), "ms"),
        Row(
            "Consul's own time for deregister and read-back: median",
            statistics.median(by_hand),
            "ms",
        ),
        Row("stop-traffic to gone from Consul, beyond Consul's own time", beyond, "ms", 50),
        Row("another request, nobody waiting: median", statistics.median(alone), "ms"),
        Row(f"another request, {POLLS} waiting: median", statistics.median(beside), "ms"),
        Row(f"long polls not answered, of {POLLS}", POLLS - answered, "", 0),
    ]


if __name__ == "__main__":
    report(measure)
