"""A real gRPC server: a call counts until its handler and the call itself are over."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import grpc
import pytest

from deregister_agent.app import Work


class Shop:
    """A service with one method of each kind, whose ends the test decides."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.left = threading.Event()

    def unary(self, request: bytes, _context: Any) -> bytes:
        self.gate.wait(20)
        self.left.set()
        return request

    def stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        try:
            yield request
            while not self.gate.wait(0.01):
                if not context.is_active():
                    return
            yield request
        finally:
            self.left.set()

    def upload(self, requests: Iterator[bytes], _context: Any) -> bytes:
        return b"".join(requests)

    def echo(self, requests: Iterator[bytes], _context: Any) -> Iterator[bytes]:
        yield from requests

    def crash(self, _request: bytes, _context: Any) -> bytes:
        raise ValueError("on purpose")

    def methods(self) -> dict[str, Any]:
        """Return what gRPC is told of this service."""
        return {
            "unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "stream": grpc.unary_stream_rpc_method_handler(self.stream),
            "upload": grpc.stream_unary_rpc_method_handler(self.upload),
            "echo": grpc.stream_stream_rpc_method_handler(self.echo),
            "crash": grpc.unary_unary_rpc_method_handler(self.crash),
        }


class Running:
    """The server, its counts and a channel to it."""

    def __init__(self, work: Work, shop: Shop, channel: Any) -> None:
        self.work, self.shop, self.channel = work, shop, channel

    def requests(self) -> int:
        """Return how many requests are in flight."""
        counts = self.work.report()["in_flight"]
        assert isinstance(counts, dict)
        return int(counts["requests"])

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, for a bounded time."""
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end, "it did not come to that"
            time.sleep(0.005)


@pytest.fixture
def running() -> Iterator[Running]:
    """Run the service on a free port."""
    work, shop = Work(), Shop()
    counting = cast("grpc.ServerInterceptor", work.grpc())  # it knows no grpc itself
    server = grpc.server(ThreadPoolExecutor(8), interceptors=[counting])
    service = grpc.method_handlers_generic_handler("Shop", shop.methods())
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Running(work, shop, channel)
    shop.gate.set()
    server.stop(0).wait(10)


def test_a_unary_call_counts_until_answered(running: Running) -> None:
    """It counts while its handler runs, and no longer when the client has its answer."""
    future = running.channel.unary_unary("/Shop/unary").future(b"a")
    running.until(lambda: running.requests() == 1)
    running.shop.gate.set()
    assert future.result(10) == b"a"
    running.until(lambda: running.requests() == 0)


def test_a_stream_counts_until_its_end(running: Running) -> None:
    """Between two messages it counts."""
    answers = running.channel.unary_stream("/Shop/stream")(b"a")
    assert next(answers) == b"a"
    assert running.requests() == 1
    running.shop.gate.set()
    assert list(answers) == [b"a"]
    running.until(lambda: running.requests() == 0)


def test_a_client_that_goes_does_not_end_a_handler_that_goes_on(running: Running) -> None:
    """The call is over, its work is not: it counts until the handler has returned."""
    future = running.channel.unary_unary("/Shop/unary").future(b"a")
    running.until(lambda: running.requests() == 1)
    future.cancel()
    assert not running.work.wait_idle(0.2)
    assert not running.shop.left.is_set()
    running.shop.gate.set()
    running.until(lambda: running.requests() == 0)
    assert running.shop.left.is_set()


def test_a_cancelled_stream_is_over(running: Running) -> None:
    """A client that leaves a stream leaves no count."""
    answers = running.channel.unary_stream("/Shop/stream")(b"a")
    assert next(answers) == b"a"
    answers.cancel()
    running.until(lambda: running.requests() == 0)
    assert running.shop.left.is_set()


def test_uploads_echoes_and_crashes_leak_nothing(running: Running) -> None:
    """Every kind of call is passed on as it is, counted, and ended."""
    assert running.channel.stream_unary("/Shop/upload")(iter([b"a", b"b"])) == b"ab"
    assert list(running.channel.stream_stream("/Shop/echo")(iter([b"a", b"b"]))) == [b"a", b"b"]
    with pytest.raises(grpc.RpcError, match="on purpose"):
        running.channel.unary_unary("/Shop/crash")(b"")
    with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
        running.channel.unary_unary("/Shop/missing")(b"")
    running.until(lambda: running.requests() == 0)
    assert running.work.report()["started"] == 3
