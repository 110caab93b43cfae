"""Streams that only tell the app's state hold no drain; all else on a gRPC server does."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from grpc import aio
from grpc_channelz.v1 import channelz, channelz_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from deregister_agent.app import Work
from deregister_agent.app.rpc import NO_WORK
from deregister_agent.model import Instance
from deregister_agent.probes.grpc import Options, build

LIMIT = 20.0
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
OWN = ("/grpc.health.v1.Health/WatchOrders", "/shop.Health/Watch", "/grpc.health.v2.Health/Watch")
"""Methods of an app that are named like those that only tell its state."""


STREAMS = {
    WATCH,
    REFLECTION,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/envoy.service.status.v3.ClientStatusDiscoveryService/StreamClientStatus",
    "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics",
}
"""The streams that clients hold open to be told of the app's state, as their protocols say."""


def counts(work: Work) -> tuple[int, int]:
    """Return the requests in flight, and the work ever started."""
    report = cast(Any, work.report())
    return report["in_flight"]["requests"], report["started"]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.005)


def offered(methods: Any, name: str, stream: Any, deserialize: Any = None) -> Any:
    """Return a handler of one method, which answers with a stream."""
    service, _, method = name.removeprefix("/").partition("/")
    return grpc.method_handlers_generic_handler(service, {method: methods(stream, deserialize)})


def add_real_services(server: Any, health_servicer: Any) -> None:
    """Add what gRPC brings for health, reflection and channelz."""
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection((reflection.SERVICE_NAME,), server)
    channelz.add_channelz_servicer(server)


class SyncServer:
    """A server with threads, which serves *names*, and real services unless these are theirs."""

    def __init__(self, work: Work, *names: str) -> None:
        self.over = threading.Event()
        counting = cast("grpc.ServerInterceptor", work.grpc())
        self.server = grpc.server(ThreadPoolExecutor(40), interceptors=[counting])
        for name in names:
            handler = offered(grpc.unary_stream_rpc_method_handler, name, self._stream)
            self.server.add_generic_rpc_handlers((handler,))
        if not set(names) & NO_WORK:
            add_real_services(self.server, health.HealthServicer())
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def _stream(self, asked: bytes, _: Any) -> Iterator[bytes]:
        yield asked
        self.over.wait(LIMIT)

    def end(self) -> None:
        self.over.set()
        self.server.stop(0).wait(LIMIT)


class AioServer:
    """The same on asyncio, in a loop of its own."""

    def __init__(self, work: Work, *names: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.port = self._run(self._start(work, names))

    def _run(self, what: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(LIMIT)

    async def _start(self, work: Work, names: tuple[str, ...]) -> int:
        self.over = asyncio.Event()
        self.server = aio.server(interceptors=[work.grpc_aio()])
        for name in names:
            handler = offered(grpc.unary_stream_rpc_method_handler, name, self._stream)
            self.server.add_generic_rpc_handlers((handler,))
        if not set(names) & NO_WORK:
            add_real_services(self.server, health.aio.HealthServicer())
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        return int(port)

    async def _stream(self, asked: bytes, _: Any) -> Any:
        yield asked
        await self.over.wait()

    async def _stop(self) -> None:
        self.over.set()
        await self.server.stop(0)

    def end(self) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


SERVERS: dict[str, type[SyncServer | AioServer]] = {"threads": SyncServer, "asyncio": AioServer}


@contextmanager
def serving(kind: str, work: Work, *names: str) -> Iterator[tuple[int, Any]]:
    """Run such a server, and give its port and a channel to it."""
    server = SERVERS[kind](work, *names)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield server.port, channel
    finally:
        server.end()


def watch(channel: Any) -> Any:
    """Watch the server's health, as a client with health checking does; it is held open."""
    answers = channel.unary_stream(
        WATCH,
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )(health_pb2.HealthCheckRequest(service=""), timeout=LIMIT)
    assert next(answers).status == health_pb2.HealthCheckResponse.SERVING
    return answers


def ask_what_there_is(channel: Any) -> Any:
    """Ask by reflection for the services, and hold the stream open, as a console does."""
    over = threading.Event()

    def questions() -> Iterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        over.wait(LIMIT)

    answers = channel.stream_stream(
        REFLECTION,
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )(questions(), timeout=LIMIT)
    assert next(answers).list_services_response.service
    answers.add_callback(over.set)
    return answers


@pytest.mark.parametrize("kind", SERVERS)
class TestRealServices:
    def test_who_watches_the_health_holds_no_drain(self, kind: str) -> None:
        """The stream is open, a call of the app beside it counts, and is seen to end."""
        work = Work()
        with serving(kind, work, "/shop.Orders/Stream") as (_, channel):
            watching = watch(channel)
            assert counts(work) == (0, 0)
            stream = channel.unary_stream("/shop.Orders/Stream")(b"a", timeout=LIMIT)
            assert next(stream) == b"a"
            assert counts(work) == (1, 1)
            stream.cancel()
            assert watching.is_active()
            watching.cancel()

    def test_who_asks_by_reflection_holds_no_drain(self, kind: str) -> None:
        """The stream of a console stays open, and is no work."""
        work = Work()
        with serving(kind, work) as (_, channel):
            asking = ask_what_there_is(channel)
            assert asking.is_active()
            assert counts(work) == (0, 0)
            asking.cancel()

    def test_who_looks_at_channelz_holds_no_drain(self, kind: str) -> None:
        """Each of its questions is left out."""
        work = Work()
        with serving(kind, work) as (_, channel):
            asked = channel.unary_unary(
                "/grpc.channelz.v1.Channelz/GetServers",
                channelz_pb2.GetServersRequest.SerializeToString,
                channelz_pb2.GetServersResponse.FromString,
            )
            assert asked(channelz_pb2.GetServersRequest(), timeout=LIMIT).end
            assert counts(work) == (0, 0)

    def test_each_name(self, kind: str) -> None:
        """No method of the list counts, by its full name, whoever serves it."""
        work = Work()
        with serving(kind, work, *(NO_WORK | STREAMS)) as (_, channel):
            for name in NO_WORK | STREAMS:
                answers = channel.unary_stream(name)(b"a", timeout=LIMIT)
                assert next(answers) == b"a"
                assert (name, counts(work)) == (name, (0, 0))
                answers.cancel()

    @pytest.mark.parametrize("name", OWN)
    def test_what_an_app_calls_alike_is_work(self, kind: str, name: str) -> None:
        """Not the service is left out, but the methods that are known to carry no work."""
        work = Work()
        with serving(kind, work, name) as (_, channel):
            answers = channel.unary_stream(name)(b"a", timeout=LIMIT)
            assert next(answers) == b"a"
            assert counts(work) == (1, 1)
            answers.cancel()

    def test_channelz_does_not_tell_a_watch_from_work(self, kind: str) -> None:
        """The probe of channelz counts it: no count of channelz goes by methods. So say docs."""
        work = Work()
        with serving(kind, work) as (port, channel):
            instance = Instance("orders-1", "orders", "127.0.0.1", port)
            probe = build(Options(kind="grpc", timeout=10.0), instance)
            watching = watch(channel)
            until(lambda: probe.read(0.0).in_flight == {"calls": 1})
            watching.cancel()
            until(lambda: probe.read(0.0).in_flight == {"calls": 0})


def object_with(name: str | None) -> Any:
    """Return what gRPC tells an interceptor of a call of *name*; without one, a method."""
    if name is not None:
        return SimpleNamespace(method=name)
    found: Any = grpc.unary_unary_rpc_method_handler(lambda asked, _: asked)
    return found


def same(found: Any, _: Any) -> Any:
    """Return the method that was *found*, whatever is asked for."""
    return found


def test_a_prefix_ends_in_a_slash() -> None:
    """Whoever leaves out a whole service of the app says so; a name is no prefix."""
    work = Work()
    left_out = ("/shop.Admin/", "/shop.Orders/Tail")
    for name, counted in (
        ("/shop.Admin/Anything", False),
        ("/shop.Orders/Tail", False),
        ("/shop.Orders/TailAndPack", True),
        (WATCH, True),
    ):
        found, details = object_with(None), object_with(name)
        wrapped = work.grpc(ignored=left_out).intercept_service(partial(same, found), details)
        assert (wrapped is not found) is counted, name
