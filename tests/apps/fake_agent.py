"""A small HTTP server that answers as a running agent does, and goes through phases as told."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

OUTCOMES = {"drained": "drained", "gone": "drained", "expired": "expired"}
STATUS = {"drained": 200, "gone": 200, "expired": 504}
UNFINISHED = {"withdrawing", "settling", "draining"}


@dataclass
class FakeInstance:
    """One instance. Every question about its drain takes it one step on; the last step stays."""

    name: str = "orders-1"
    steps: list[str] = field(default_factory=lambda: ["withdrawing", "drained"])
    outcome: str | None = None
    overdue: bool = False
    others: int | None = 2
    min_others: int = 1
    remaining: float = 171.2
    phase: str = "serving"
    asked: list[dict[str, Any]] = field(default_factory=list)

    def step(self) -> None:
        """Go on to the next phase, if one is left."""
        if self.steps:
            self.phase = self.steps.pop(0)

    def report(self) -> dict[str, Any]:
        """Return the status object."""
        busy = self.phase in UNFINISHED
        outcome = self.outcome or OUTCOMES.get(self.phase)
        drain = {"id": "d-1", "outcome": outcome, "reason": "", "asked_by": "", "forced": False}
        return {
            "instance": {
                "name": self.name,
                "service": "orders",
                "address": "10.0.0.7",
                "port": 8080,
            },
            "phase": self.phase,
            "since": "2026-11-21T03:45:00.000Z",
            "deadline": "2026-11-21T03:48:00.000Z" if busy else None,
            "remaining": self.remaining if busy else None,
            "drain": {**drain, "on_deadline": "hold"}
            if self.asked or self.phase != "serving"
            else None,
            "in_flight": {"requests": 3 if busy else 0},
            "blocking": ["3 requests in flight (http_json)"] if busy else [],
            "notes": ["a note\x1b[2J for a person"],
            "registries": [
                {
                    "name": "consul",
                    "listed": self.phase == "serving",
                    "acknowledged": busy,
                    "stragglers": [],
                    "others": self.others,
                    "asked": None,
                    "error": None,
                }
            ],
            "probes": [
                {
                    "name": "http_json",
                    "in_flight": {"requests": 3 if busy else 0},
                    "started": 17,
                    "asked": None,
                    "error": None,
                }
            ],
            "process": {"pids": [123], "exited": False, "note": ""},
            "ready": None,
            "error": None,
            "cursor": self.phase,
        }

    def stop(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Take stop-traffic, or let the guard refuse it."""
        if self.others is not None and self.others < self.min_others and not body.get("force"):
            detail = f"{self.name}: consul lists {self.others} other instance(s); use force"
            return 409, {"title": "Conflict", "status": 409, "detail": detail, "registry": "consul"}
        self.asked.append(body)
        if self.phase not in UNFINISHED | {"drained"}:
            self.phase = "withdrawing"
        return 202, self.report()

    def start(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Take start-traffic."""
        self.asked.append(body)
        self.phase = "restoring"
        return 202, self.report()

    def drained(self) -> tuple[int, dict[str, Any]]:
        """Answer traffic-drained."""
        self.step()
        if self.phase in UNFINISHED:
            return 503, self.report()
        if self.phase in STATUS:
            return STATUS[self.phase], self.report()
        return 409, {"title": "Conflict", "status": 409, "detail": "nobody asked"}

    def started(self) -> tuple[int, dict[str, Any]]:
        """Answer traffic-started."""
        self.step()
        if self.phase == "serving":
            return 200, self.report()
        if self.phase == "restoring":
            return 504 if self.overdue else 503, self.report()
        return 409, {"title": "Conflict", "status": 409, "detail": "nobody asked"}


class FakeAgent:
    """The agent: its instances and its token."""

    def __init__(self, *instances: FakeInstance, token: str = "") -> None:
        self.instances = {one.name: one for one in instances}
        self.token = token
        self.asked_by: list[str] = []
        self.lock = threading.Lock()

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Answer one request."""
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts == ["v1", "instances"]:
            return 200, {"instances": [one.report() for one in self.instances.values()]}
        name, what = parts[2], parts[3] if len(parts) > 3 else ""
        one = self.instances.get(name)
        if one is None:
            known = ", ".join(self.instances)
            return 404, {"title": "Not Found", "detail": f"no instance {name!r}; there is {known}"}
        if what == "doctor":  # as an agent of before, which has no such path
            return 404, {"title": "Not Found", "detail": "there is nothing at this path"}
        answers: dict[tuple[str, str], Callable[[], tuple[int, dict[str, Any]]]] = {
            ("GET", ""): lambda: (200, one.report()),
            ("POST", "stop-traffic"): lambda: one.stop(body),
            ("GET", "traffic-drained"): one.drained,
            ("POST", "start-traffic"): lambda: one.start(body),
            ("GET", "traffic-started"): one.started,
            ("GET", "drains"): lambda: (200, {"drains": HISTORY}),
        }
        return answers[method, what]()


HISTORY = [
    {
        "id": "d-2",
        "instance": "orders-1",
        "phase": "draining",
        "outcome": None,
        "started": "2026-11-21T03:45:00.000Z",
        "ended": None,
        "reason": "deploy 4711",
        "asked_by": "pipeline",
        "forced": False,
    },
    {
        "id": "d-1",
        "instance": "orders-1",
        "phase": "serving",
        "outcome": "expired",
        "started": "2026-11-20T03:45:00.000Z",
        "ended": "2026-11-20T03:48:00.000Z",
        "reason": "",
        "asked_by": "pipeline",
        "forced": True,
    },
]


class _Requests(BaseHTTPRequestHandler):
    agent: ClassVar[FakeAgent]

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        target = urlsplit(self.path)
        with self.agent.lock:
            self.agent.asked_by.append(self.headers.get("X-Asked-By", ""))
            if (
                self.agent.token
                and self.headers.get("Authorization") != f"Bearer {self.agent.token}"
            ):
                status, content = 401, {"detail": "the bearer token is missing"}
            else:
                status, content = self.agent.answer(
                    self.command, target.path, json.loads(body or b"{}")
                )
        if status == 503 and "wait" in parse_qs(target.query):
            threading.Event().wait(0.05)  # a held answer, so that nobody spins
        sent = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    do_GET = do_POST = _answer  # noqa: N815 - the names that http.server asks for

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class _UnixServer(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True

    def get_request(self) -> tuple[Any, Any]:
        """Accept; http.server wants an address of two parts."""
        connection, _ = super().get_request()
        return connection, ("unix", 0)


@contextmanager
def serving(agent: FakeAgent, port: int = 0, unix: Path | None = None) -> Iterator[str]:
    """Serve *agent* on loopback, or on a Unix socket, and yield its URL."""
    requests = type("Requests", (_Requests,), {"agent": agent})
    server: Any
    if unix is not None:
        server, url = _UnixServer(str(unix), requests), f"unix:{unix}"
    else:
        server = ThreadingHTTPServer(("127.0.0.1", port), requests)
        server.daemon_threads = True
        url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def orders(*steps: str, **more: Any) -> FakeInstance:
    """Return an instance that goes through *steps*."""
    return FakeInstance(steps=list(steps), **more)
