"""
A gRPC app for tests: a server, and clients that hold calls open, as standard input says.

``busy N``: N calls are under way. ``serve``: one call comes and goes. ``stop``, ``start``.
``health S WORD``: from now on the health service says that of service S (at first: SERVING).
Each line is answered, once it is so. ``python -m tests.apps.grpc_app PORT [KEY CERTIFICATE CA]``.
"""

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc._cython
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

CORE: Any = grpc._cython.cygrpc  # type: ignore[attr-defined]


class App:
    """The server of one port, and what its clients have asked."""

    def __init__(self, port: int, tls: list[Path]) -> None:
        self.port, self.tls = port, tls
        self.held: list[tuple[Any, threading.Event]] = []
        self.channel: Any = None
        self.waiting: dict[bytes, threading.Event] = {}
        self.begun: set[bytes] = set()
        self.start()

    def start(self) -> None:
        pool = ThreadPoolExecutor(40)
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Stream": grpc.unary_stream_rpc_method_handler(self.stream),
        }
        self.server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("shop.Orders", handlers),)
        )
        channelz.add_channelz_servicer(self.server)
        self.health = health.HealthServicer()
        self.say("shop.Orders", "SERVING")
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        address = f"127.0.0.1:{self.port}"
        if self.tls:
            key, certificate, ca = (path.read_bytes() for path in self.tls)
            credentials = grpc.ssl_server_credentials([(key, certificate)], ca, True)
            self.server.add_secure_port(address, credentials)
        else:
            self.server.add_insecure_port(address)
            self.channel = grpc.insecure_channel(address)
        self.server.start()

    def stop(self) -> None:
        self.channel.close()
        self.server.stop(0).wait()
        self.held.clear()

    def say(self, service: str, status: str) -> None:
        self.health.set(service, health_pb2.HealthCheckResponse.ServingStatus.Value(status))

    def unary(self, name: bytes, _: Any) -> bytes:
        self.begun.add(name)
        self.waiting[name].wait(60)
        return b""

    def stream(self, name: bytes, _: Any) -> Any:
        yield b"first"
        self.waiting[name].wait(60)
        yield b"last"

    def open(self) -> None:
        name, release = str(time.monotonic()).encode(), threading.Event()
        self.waiting[name] = release
        if len(self.held) % 2:
            stream = self.channel.unary_stream("/shop.Orders/Stream")(name)
            next(stream)
            self.held.append((stream, release))
        else:
            call = self.channel.unary_unary("/shop.Orders/Unary").future(name)
            # Not by the library's count alone: the last question of a probe may still be in it.
            while name not in self.begun:
                time.sleep(0.001)
            self.held.append((call, release))

    def close(self) -> None:
        call, release = self.held.pop()
        release.set()
        list(call) if len(self.held) % 2 else call.result()

    def busy(self, count: int) -> None:
        while len(self.held) < count:
            self.open()
        while len(self.held) > count:
            self.close()
        while in_flight() != count:
            time.sleep(0.005)


def in_flight() -> int:
    """Return the calls under way, as the library says without a call."""
    found = json.loads(CORE.channelz_get_servers(0))["server"]
    numbers = [
        [int(s["data"].get(f"calls{n}", 0)) for n in ("Started", "Succeeded", "Failed")]
        for s in found
    ]
    return sum(started - succeeded - failed for started, succeeded, failed in numbers)


def main() -> None:
    app = App(int(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
    print("ready", flush=True)
    for line in sys.stdin:
        match line.split():
            case ["busy", count]:
                app.busy(int(count))
            case ["serve"]:
                app.busy(len(app.held) + 1)
                app.busy(len(app.held) - 1)
            case ["health", service, status]:
                app.say(service, status)
            case ["stop"]:
                app.stop()
            case ["start"]:
                app.start()
        print("done", flush=True)


if __name__ == "__main__":
    main()
