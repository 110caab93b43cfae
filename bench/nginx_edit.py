"""What an edit of Nginx costs: in a very large upstream, and for many instances at once."""

import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.table import Row, report
from deregister_agent.registries.nginx import change
from deregister_agent.registries.nginx.site import Wish
from tests.servers.nginx import VERSIONS, Nginx, nginx

SERVERS = 20_000
TOGETHER = 50
RUNS = 7


def _address(number: int) -> str:
    return f"10.{number >> 16}.{(number >> 8) & 255}.{number & 255}:8080"


def _upstream(count: int) -> str:
    """Return an upstream with this many servers, as an operator might have it."""
    lines = (
        f"    server {_address(n)} weight=2 max_fails=3 fail_timeout=10s; # host {n}\n"
        for n in range(count)
    )
    return "upstream app {\n" + "".join(lines) + "}\n"


def large(server: Nginx) -> list[Row]:
    """Edit one server of very many."""
    registry = server.registry(8080, server=_address(SERVERS // 2), timeout=60.0)
    site = registry._site()  # noqa: SLF001 - the step measured has no public name
    edits, tests = [], []
    for run in range(RUNS):
        start = time.perf_counter()
        change._edit(site, Wish(down=run % 2 == 0))  # noqa: SLF001
        edits.append(time.perf_counter() - start)
        start = time.perf_counter()
        subprocess.run(server.command("-t", "-q"), check=True)
        tests.append(time.perf_counter() - start)
    registry.restore({"down": [False]})
    start = time.perf_counter()
    registry.withdraw()
    whole = time.perf_counter() - start
    start = time.perf_counter()
    registry.lists()
    look = time.perf_counter() - start
    return [
        Row(f"edit 1 of {SERVERS} servers, durably", statistics.median(edits) * 1e3, "ms", 200),
        Row("... nginx -t of that file", statistics.median(tests) * 1e3, "ms"),
        Row("... withdraw() as a whole: two tests, reload, proof", whole * 1e3, "ms"),
        Row("... lists()", look * 1e3, "ms"),
    ]


def together(server: Nginx) -> list[Row]:
    """Withdraw many instances of one file at once."""
    registries = [
        server.registry(8080, server=_address(n), gather=0.3, timeout=60.0) for n in range(TOGETHER)
    ]
    before, start = server.reloads(), time.perf_counter()
    with ThreadPoolExecutor(TOGETHER) as pool:
        list(pool.map(lambda registry: registry.withdraw(), registries))
    took = time.perf_counter() - start
    assert not any(registry.lists() for registry in registries)
    return [
        Row(
            f"reloads for {TOGETHER} instances withdrawn at once", server.reloads() - before, "", 1
        ),
        Row("... time until all were proved to be out", took * 1e3, "ms"),
    ]


def measure() -> list[Row]:
    """Measure both, each with an Nginx of its own."""
    rows: list[Row] = []
    for step, count in ((large, SERVERS), (together, 2 * TOGETHER)):
        with (
            tempfile.TemporaryDirectory() as folder,
            nginx(VERSIONS[-1], Path(folder), _upstream(count)) as server,
        ):
            rows += step(server)
    return rows


if __name__ == "__main__":
    report(measure)
