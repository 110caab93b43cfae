"""Admin APIs with the behaviour of real systems, as their documentation and sources tell it."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

Said = tuple[int, str, str]
"""Status, content type, body."""


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    parts: tuple[str, ...]
    query: Mapping[str, str]
    body: Any
    headers: Mapping[str, str]


class System(Protocol):
    """What answers."""

    def answer(self, asked: Asked) -> Said: ...


def as_json(value: object, status: int = 200) -> Said:
    return status, "application/json", json.dumps(value)


NOT_FOUND: Said = (404, "application/json", '{"error": "Not Found"}')
EMPTY: Said = (204, "text/plain", "")


@contextmanager
def serving(system: System) -> Iterator[str]:
    """Serve a system on a free port; give the URL."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def respond(self) -> None:
            url = urlsplit(self.path)
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = tuple(unquote(part) for part in url.path.split("/")[1:])
            body = json.loads(sent) if sent else None
            query = dict(parse_qsl(url.query, keep_blank_values=True))
            with lock:
                asked = Asked(self.command, parts, query, body, dict(self.headers.items()))
                status, kind, text = system.answer(asked)
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if status != 204:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = respond  # noqa: N815 - http.server calls them so

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Nacos:
    """
    Nacos 2 or 3: an update outlives the instance, replaces its metadata, and fits any entry.

    ``memory`` has what updates have set: an app that registers again on the same address
    gets that (60 s long in the real one).
    """

    entries: list[dict[str, Any]] = field(default_factory=list)
    memory: dict[tuple[str, str], bool] = field(default_factory=dict)
    service: str = "orders"
    version: int = 2

    def register(self, ip: str, port: int, **more: Any) -> None:
        enabled = self.memory.get((ip, str(port)), True)
        standing = {"weight": 1.0, "metadata": {}, "ephemeral": True, "healthy": True}
        self.entries.append({"ip": ip, "port": port, "enabled": enabled} | standing | more)

    def leave(self, port: int) -> None:
        self.entries = [entry for entry in self.entries if entry["port"] != port]

    def answer(self, asked: Asked) -> Said:
        query = asked.query
        if query.get("serviceName") != self.service or query["groupName"] != "DEFAULT_GROUP":
            status = 404 if self.version == 3 else 500
            return as_json({"message": "service not found!", "code": status}, status)
        return self.answer_1(asked) if self.version == 2 else self.answer_3(asked)

    def answer_1(self, asked: Asked) -> Said:
        match asked.method, asked.parts:
            case "GET", ("nacos", "v1", "ns", "catalog", "instances"):
                return as_json({"count": len(self.entries), "list": self.entries})
            case "GET", ("nacos", "v1", "ns", "instance", "list"):
                return as_json({"hosts": [entry for entry in self.entries if entry["enabled"]]})
            case "PUT", ("nacos", "v1", "ns", "instance"):
                self.update(asked.query)
                return 200, "text/plain", "ok"
        return NOT_FOUND

    def answer_3(self, asked: Asked) -> Said:
        match asked.method, asked.parts:
            case "GET", ("nacos", "v3", "admin", "ns", "instance", "list"):
                return as_json({"code": 0, "message": "success", "data": self.entries})
            case "PUT", ("nacos", "v3", "admin", "ns", "instance"):
                self.update(asked.query)
                return as_json({"code": 0, "message": "success", "data": "ok"})
        return NOT_FOUND

    def update(self, query: Mapping[str, str]) -> None:
        ephemeral = query.get("ephemeral", "true") == "true"
        new = {
            "enabled": query.get("enabled", "true") == "true",
            "weight": float(query.get("weight", "1")),
            "metadata": json.loads(query.get("metadata", "{}")),
        }
        self.memory[query["ip"], query["port"]] = new["enabled"]
        for entry in self.entries:
            if (entry["ip"], str(entry["port"]), entry["ephemeral"]) == (
                query["ip"],
                query["port"],
                ephemeral,
            ):
                entry.update(new)
                return
        self.register(query["ip"], int(query["port"]), ephemeral=ephemeral, **new)


@dataclass
class Eureka:
    """Eureka: an override survives heartbeats, and yields to DOWN; who is unknown is 404."""

    status: dict[str, str] = field(default_factory=dict)
    overridden: dict[str, str] = field(default_factory=dict)

    def answer(self, asked: Asked) -> Said:
        match asked.method, asked.parts:
            case method, ("eureka", "apps", "ORDERS", name, *rest) if name in self.status:
                if method == "PUT" and rest == ["status"]:
                    self.overridden[name] = asked.query["value"]
                elif method == "DELETE" and rest == ["status"]:
                    self.overridden.pop(name, None)
                    self.status[name] = asked.query["value"]
                elif method == "GET" and asked.headers.get("Accept") != "application/json":
                    return 200, "application/xml", "<instance><status>UP</status></instance>"
                override = self.overridden.get(name, "UNKNOWN")
                shown = {"status": self.now(name), "overriddenStatus": override}
                return as_json(
                    {"instance": {"app": "ORDERS", **shown, "metadata": {"status": "UP"}}}
                )
        return NOT_FOUND

    def now(self, name: str) -> str:
        own = self.status[name]
        return own if own in {"DOWN", "STARTING"} else self.overridden.get(name, own)


@dataclass
class NginxPlus:
    """The API of NGINX Plus: servers of an upstream have ids, and PATCH changes one."""

    servers: list[dict[str, Any]]
    writable: bool = True

    def answer(self, asked: Asked) -> Said:
        match asked.method, asked.parts:
            case "GET", ("api", "9", "http", "upstreams", "orders", "servers"):
                return as_json(self.servers)
            case "PATCH", ("api", "9", "http", "upstreams", "orders", "servers", number):
                if not self.writable:
                    return as_json({"error": {"status": 405, "code": "MethodDisabled"}}, 405)
                server = next(one for one in self.servers if one["id"] == int(number))
                server.update(asked.body)
                return as_json(server)
        return as_json({"error": {"status": 404, "code": "UpstreamNotFound"}}, 404)


@dataclass
class Spring:
    """The actuator of an app: bindings in the form of one version or another."""

    listed: bool = True
    form: str = "list"

    def answer(self, asked: Asked) -> Said:
        match asked.method, asked.parts:
            case "POST", ("actuator", "bindings", "input-in-0"):
                self.listed = asked.body["state"] in {"STARTED", "RESUMED"}
                return EMPTY
            case "GET", ("actuator", "bindings", "input-in-0"):
                state = {"state": "running" if self.listed else "stopped", "name": "input"}
                return as_json([state] if self.form == "list" else state)
        return NOT_FOUND


TABLE = """As Provider side:
+------------------------+---+
|  Provider Service Name |PUB|
+------------------------+---+
|org.example.OrderService| {0} |
|org.example.StockService| {1} |
+------------------------+---+
As Consumer side:
+---------------------+---+
|Consumer Service Name|NUM|
+---------------------+---+
"""


@dataclass
class Dubbo:
    """QoS of a provider of two services."""

    published: list[bool] = field(default_factory=lambda: [True, True])
    form: str = "{}"
    stuck: bool = False  # one service stays, whatever is asked

    def answer(self, asked: Asked) -> Said:
        match asked.parts:
            case (("offline" | "online") as what,):
                self.published = [what == "online" or self.stuck, what == "online"]
                return 200, "text/plain", "OK"
            case ("ls",):
                shown = [self.form.format("Y" if one else "N") for one in self.published]
                return 200, "text/plain", TABLE.format(*shown)
        return 404, "text/plain", "no such command"
