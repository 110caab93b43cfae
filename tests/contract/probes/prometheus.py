"""The prometheus probe, with a page of metrics of the test behind it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from deregister_agent.probes.prometheus.probe import Options, build
from tests.apps.pages import TEXT, page, pages

from . import Nothing, World, orders


class Metrics:
    """What an app counts, its own scrapes included."""

    def __init__(self) -> None:
        self.requests = self.started = self.begun = self.ended = 0
        self.others = 7
        self.known = True

    def page(self, _: str) -> bytes:
        self.started += 1
        text = f"""# TYPE http_requests_in_flight gauge
http_requests_in_flight{{pool="a",path="/x}}y"}} {self.requests + 1}
http_requests_in_flight{{pool="b"}} {self.others}
tasks_started_total {9 + self.begun}
tasks_done_total {9 + self.ended}
http_requests_total {self.started}
process_start_time_seconds 1.7e+09
"""
        return page(text, TEXT, "200 OK" if self.known else "503 Service Unavailable")


def options(url: str, **more: object) -> Options:
    """Return options that fit the page."""
    table = {
        "kind": "prometheus",
        "url": url,
        "in_flight": {
            "requests": 'http_requests_in_flight{pool!~"b|c"}',
            "tasks": {"metric": "tasks_started_total", "minus": "tasks_done_total"},
        },
        "baseline": {"requests": 1},
        "started": "http_requests_total",
        "own_starts": 1,
        "mark": "process_start_time_seconds",
        "timeout": 0.5,
    }
    return Options.model_validate_json(json.dumps(table | more))


@contextmanager
def world() -> Iterator[World]:
    """Give a probe of a page whose numbers the test changes."""
    app = Metrics()
    with pages(app.page) as server:

        def busy(count: int) -> None:
            app.started += max(0, count - app.requests)
            app.requests = count

        def know(known: bool) -> None:
            app.known = known

        def hang() -> None:
            server.hanging = True

        def serve() -> None:
            app.started += 1

        def outlives() -> Nothing:
            app.begun += 1  # a task of a request that was answered
            return lambda: setattr(app, "ended", app.begun)

        def strangers() -> Nothing:
            app.others = 70
            return lambda: setattr(app, "others", 0)

        probe = build(options(f"{server.url}/metrics"), orders(server.port))
        known = (lambda: know(False), lambda: know(True))
        yield World(probe, "requests", busy, *known, outlives, strangers, hang, serve)
