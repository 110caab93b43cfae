"""The http_json probe, with a server of the test behind it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from deregister_agent.probes.http_json import Options, build

from . import Nothing, World, orders

JSON = "application/json; charset=utf-8"


class App(ThreadingHTTPServer):
    """An app that counts its own status requests, and can be made to misbehave."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Status)
        self.requests = self.tasks = self.started = self.others = 0
        self.mark = "first"
        self.answer: tuple[int, str, bytes] | None = None  # instead of the counts
        self.asked: list[tuple[str, str | None]] = []  # path, Authorization
        self.hanging = False
        self.released = threading.Event()  # lets hanging requests go, at the end

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/status"

    def counts(self) -> bytes:
        return json.dumps(
            {
                "requests": {"in_flight": self.requests + 1, "started": self.started},
                "tasks": [{"pool/a": self.tasks}, {"pool/a": self.others}],
                "id": self.mark,
            }
        ).encode()


class _Status(BaseHTTPRequestHandler):
    server: App
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.started += 1
        self.server.asked.append((self.path, self.headers["authorization"]))
        if self.server.hanging:
            self.server.released.wait(60)
            self.close_connection = True
            return
        status, kind, body = self.server.answer or (200, JSON, self.server.counts())
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[App]:
    """Run an app for as long as the block lasts."""
    with App() as app:
        thread = threading.Thread(target=app.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield app
        finally:
            app.released.set()
            app.shutdown()
            thread.join()


def options(app: App, **more: object) -> Options:
    """Return options that fit the app."""
    table = {
        "kind": "http_json",
        "url": app.url,
        "in_flight": {"requests": "/requests/in_flight", "tasks": ["/tasks/0/pool~1a"]},
        "baseline": {"requests": 1},
        "started": "/requests/started",
        "own_starts": 1,
        "mark": "/id",
        "timeout": 0.5,
    }
    return Options.model_validate_json(json.dumps(table | more))


@contextmanager
def world() -> Iterator[World]:
    """Give a probe of a running app."""
    with serving() as app:

        def busy(count: int) -> None:
            app.started += max(0, count - app.requests)
            app.requests = count

        def lose() -> None:
            app.answer = (503, JSON, app.counts())

        def find() -> None:
            app.answer = None

        def hang() -> None:
            app.hanging = True

        def serve() -> None:
            app.started += 1

        def outlives() -> Nothing:
            app.tasks += 1  # of a request that was answered
            return lambda: setattr(app, "tasks", 0)

        def strangers() -> Nothing:
            app.others = 5
            return lambda: setattr(app, "others", 0)

        probe = build(options(app), orders(app.server_address[1]))
        yield World(probe, "requests", busy, lose, find, outlives, strangers, hang, serve)
