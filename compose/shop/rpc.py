"""The app's door for gRPC: calls with one answer, with many, and with messages both ways."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import grpc

from compose.shop.doors import Ledger, Place
from deregister_agent.app import Work

SERVICE = "compose.Shop"
PIECES = 10  # of a stream
CALLS = 200  # calls that are served at a time
GRACE = 60.0  # seconds for the calls in hand, where the app waits for them


class Calls:
    """The gRPC server: each call says who it is and how many seconds it is to take."""

    def __init__(self, place: Place, work: Work, ledger: Ledger) -> None:
        self._ledger = ledger
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "Stream": grpc.unary_stream_rpc_method_handler(self._stream),
            "Talk": grpc.stream_stream_rpc_method_handler(self._talk),
        }
        self._server = grpc.server(
            ThreadPoolExecutor(CALLS),
            interceptors=[cast("grpc.ServerInterceptor", work.grpc())],
            options=[("grpc.so_reuseport", 0)],
        )
        generic = grpc.method_handlers_generic_handler(SERVICE, handlers)
        self._server.add_generic_rpc_handlers((generic,))
        self._server.add_insecure_port(f"{place[0]}:{place[1]}")
        self._server.start()

    def close(self) -> None:
        """Take no more calls, and finish those in hand."""
        self._server.stop(GRACE).wait()

    def _accepted(self, request: bytes) -> tuple[str, float]:
        work, seconds = request.decode().split()
        self._ledger.accepted(work, time.monotonic() + float(seconds))
        return work, float(seconds)

    def _unary(self, request: bytes, _: grpc.ServicerContext) -> bytes:
        work, seconds = self._accepted(request)
        time.sleep(seconds)
        self._ledger.finished(work)
        return b"ok"

    def _stream(self, request: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
        work, seconds = self._accepted(request)
        for number in range(PIECES):
            time.sleep(seconds / PIECES)
            yield b"%d" % number
        self._ledger.finished(work)

    def _talk(self, requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        """Answer each message with itself; the first says who it is."""
        first = next(requests)
        work, _seconds = self._accepted(first)
        yield first
        yield from requests
        self._ledger.finished(work)
