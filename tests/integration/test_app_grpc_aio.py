"""A real grpc.aio server: a call counts until its code, its last byte and its task are done."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from grpc import aio

from deregister_agent.app import Work

LIMIT = 20.0


@dataclass
class Plain:
    """A method that is an object, and one that cannot be hashed."""

    shop: "Shop"
    __name__ = "plain_object"

    def __call__(self, request: bytes, context: Any) -> bytes:
        return self.shop.plain(request, context)


class Shop:
    """A service with methods of each kind, whose ends the test decides."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.seen: list[int] = []  # what was in flight at the first line of each call
        self.left = 0
        self.count: Callable[[], int] = int

    async def held(self) -> None:
        while not self.gate.is_set():  # noqa: ASYNC110 - threads wait for it too
            await asyncio.sleep(0.005)

    async def unary(self, request: bytes, _context: Any) -> bytes:
        self.seen.append(self.count())
        await self.held()
        return request

    async def stubborn(self, request: bytes, _context: Any) -> bytes:
        """Go on with the work when the client has gone."""
        self.seen.append(self.count())
        try:
            await asyncio.sleep(LIMIT)
        finally:
            await self.held()
            self.left += 1
        return request

    async def stream(self, request: bytes, _context: Any) -> AsyncIterator[bytes]:
        self.seen.append(self.count())
        try:
            yield request
            await self.held()
            yield request
        finally:
            self.left += 1

    async def flood(self, request: bytes, _context: Any) -> AsyncIterator[bytes]:
        """Send more than a client that does not read will take; then clean up slowly."""
        try:
            while True:
                yield request * 100_000
        finally:
            await self.held()
            self.left += 1

    async def writer(self, request: bytes, context: Any) -> None:
        await context.write(request)
        await self.held()
        await context.write(request)

    async def upload(self, requests: AsyncIterator[bytes], _context: Any) -> bytes:
        self.seen.append(self.count())
        return b"".join([request async for request in requests])

    async def echo(self, requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def crash(self, _request: bytes, _context: Any) -> bytes:
        raise ValueError("on purpose")

    async def crashing_stream(self, request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield request
        raise ValueError("on purpose")

    async def abort(self, _request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "sold out")
        return b""

    async def bad_callback(self, request: bytes, context: Any) -> bytes:
        context.add_done_callback(lambda _: 1 / 0)
        return request

    async def wrong_answer(self, _request: bytes, _context: Any) -> int:
        return 7

    def plain(self, request: bytes, _context: Any) -> bytes:
        self.seen.append(self.count())
        self.gate.wait(LIMIT)
        self.left += 1
        return request

    def plain_stream(self, request: bytes, _context: Any) -> Iterator[bytes]:
        yield request
        self.gate.wait(LIMIT)
        yield request

    def plain_flood(self, request: bytes, _context: Any) -> Iterator[bytes]:
        while True:
            yield request * 100_000

    def plain_upload(self, requests: Iterator[bytes], _context: Any) -> bytes:
        return b"".join(requests)

    def plain_echo(self, requests: Iterator[bytes], _context: Any) -> Iterator[bytes]:
        return (request for request in requests)

    def methods(self) -> dict[str, Any]:
        """Return what gRPC is told of this service."""
        kinds: dict[Any, tuple[Callable[..., Any], ...]] = {
            grpc.unary_unary_rpc_method_handler: (
                *(self.unary, self.stubborn, self.crash, self.abort, self.plain),
                *(self.bad_callback, self.wrong_answer, Plain(self)),
            ),
            grpc.unary_stream_rpc_method_handler: (
                *(self.stream, self.flood, self.writer, self.crashing_stream),
                *(self.plain_stream, self.plain_flood),
            ),
            grpc.stream_unary_rpc_method_handler: (self.upload, self.plain_upload),
            grpc.stream_stream_rpc_method_handler: (self.echo, self.plain_echo),
        }
        return {m.__name__: kind(m) for kind, methods in kinds.items() for m in methods}


class Running:
    """The server, its counts and a channel to it."""

    def __init__(self, work: Work, shop: Shop, server: Any, channel: Any) -> None:
        self.work, self.shop, self.server, self.channel = work, shop, server, channel
        shop.count = self.requests

    def requests(self) -> int:
        """Return how many requests are in flight."""
        counts = self.work.report()["in_flight"]
        assert isinstance(counts, dict)
        return int(counts["requests"])

    async def until(self, count: int) -> None:
        """Wait until so many requests are in flight, for a bounded time."""
        end = time.monotonic() + LIMIT
        while self.requests() != count:
            assert time.monotonic() < end, f"never {count}, but {self.requests()}"
            await asyncio.sleep(0.005)

    async def run(self, count: int) -> None:
        """Wait until the code of so many calls runs."""
        end = time.monotonic() + LIMIT
        while len(self.shop.seen) < count:
            assert time.monotonic() < end, f"never {count}, but {len(self.shop.seen)}"
            await asyncio.sleep(0.005)

    def unary(self, method: str, request: bytes = b"a", **more: Any) -> Any:
        """Call a method with one answer."""
        return self.channel.unary_unary(f"/Shop/{method}")(request, **more)

    def stream(self, method: str, request: bytes = b"a", **more: Any) -> Any:
        """Call a method with many answers."""
        return self.channel.unary_stream(f"/Shop/{method}")(request, **more)


@asynccontextmanager
async def running(*more: Any) -> AsyncIterator[Running]:
    """Run the service on a free port, and let no call be left at the end."""
    work, shop = Work(), Shop()
    with ThreadPoolExecutor(4) as threads:
        server = aio.server(threads, interceptors=[*more, work.grpc_aio()])
        service = grpc.method_handlers_generic_handler("Shop", shop.methods())
        server.add_generic_rpc_handlers((service,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield Running(work, shop, server, channel)
        finally:
            shop.gate.set()
            await server.stop(0)
    await asyncio.wait_for(asyncio.to_thread(work.wait_idle, LIMIT), LIMIT)
    assert work.is_idle()


Play = Callable[[Running], Awaitable[None]]


def played(play: Play, *more: Any) -> None:
    """Run a test inside an event loop, beside the server."""

    async def whole() -> None:
        async with running(*more) as app:
            await asyncio.wait_for(play(app), 60)

    asyncio.run(whole())


class TestCounting:
    @pytest.mark.parametrize("method", ["unary", "plain", "plain_object"])
    def test_a_unary_call_counts_until_answered(self, method: str) -> None:
        """It counts at its first line, while it runs, and no longer once it is answered."""

        async def play(app: Running) -> None:
            calls = [app.unary(method) for _ in range(3)]
            await app.until(3)
            assert min([*app.shop.seen, 3]) >= 1
            app.shop.gate.set()
            assert await asyncio.gather(*calls) == [b"a"] * 3
            await app.until(0)
            assert app.work.report()["started"] == 3
            assert len(app.shop.seen) == 3

        played(play)

    @pytest.mark.parametrize("method", ["stream", "writer", "plain_stream"])
    def test_a_stream_counts_until_its_end(self, method: str) -> None:
        """Between two messages it counts, whichever way it is written."""

        async def play(app: Running) -> None:
            call = app.stream(method)
            assert await call.read() == b"a"
            assert [app.requests() for _ in range(10)] == [1] * 10
            app.shop.gate.set()
            assert await call.read() == b"a"
            assert await call.read() == aio.EOF
            await app.until(0)
            assert app.work.report()["started"] == 1

        played(play)

    @pytest.mark.parametrize("method", ["upload", "plain_upload"])
    def test_an_upload_counts_before_its_first_message(self, method: str) -> None:
        """A client that has called and says nothing yet has the app busy."""

        async def play(app: Running) -> None:
            call = app.channel.stream_unary(f"/Shop/{method}")()
            await app.until(1)
            for part in (b"a", b"b"):
                await call.write(part)
            assert app.requests() == 1
            await call.done_writing()
            assert await call == b"ab"
            await app.until(0)

        played(play)

    @pytest.mark.parametrize("method", ["echo", "plain_echo"])
    def test_a_conversation_counts_until_both_are_done(self, method: str) -> None:
        """It counts while each waits for the other."""

        async def play(app: Running) -> None:
            call = app.channel.stream_stream(f"/Shop/{method}")()
            for part in (b"a", b"b"):
                await call.write(part)
                assert await call.read() == part
                assert app.requests() == 1
            await call.done_writing()
            assert await call.read() == aio.EOF
            await app.until(0)

        played(play)

    def test_calls_that_wait_for_a_thread_count(self) -> None:
        """Plain functions run in a pool: what is queued there is in hand."""

        async def play(app: Running) -> None:
            calls = [app.unary("plain") for _ in range(7)]
            await app.until(7)
            await app.run(4)
            for call in calls:
                call.cancel()
            await app.until(4)  # those that run go on; those that waited never will
            app.shop.gate.set()
            await app.until(0)
            assert len(app.shop.seen) == 4

        played(play)


class TestBadEnds:
    @pytest.mark.parametrize("method", ["unary", "stream", "writer"])
    def test_a_client_that_goes_leaves_no_count(self, method: str) -> None:
        """A cancelled call is over, in the middle of whatever it was."""

        async def play(app: Running) -> None:
            call = app.unary(method) if method == "unary" else app.stream(method)
            await app.until(1)
            call.cancel()
            await app.until(0)

        played(play)

    def test_a_deadline_that_passes_leaves_no_count(self) -> None:
        """The client's deadline ends a call as its going does."""

        async def play(app: Running) -> None:
            for call in (app.unary("unary", timeout=0.5), app.stream("stream", timeout=0.5)):
                with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
                    await (call if hasattr(call, "__await__") else anext_all(call))
            await app.until(0)

        played(play)

    @pytest.mark.parametrize("method", ["stubborn", "plain"])
    def test_code_that_goes_on_without_its_client_counts(self, method: str) -> None:
        """The call is over and its work is not: it counts until the code has ended."""

        async def play(app: Running) -> None:
            call = app.unary(method)
            await app.until(1)
            await app.run(1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert not await asyncio.to_thread(app.work.wait_idle, 0.3)
            app.shop.gate.set()
            await app.until(0)
            assert app.shop.left == 1

        played(play)

    @pytest.mark.parametrize("kept", [False, True])
    def test_a_stream_cut_off_amid_a_write_counts_until_it_is_closed(self, *, kept: bool) -> None:
        """Its ``finally`` blocks, which may wait, run after the call, whoever keeps it."""

        async def play(app: Running) -> None:
            call = app.stream("flood")
            await call.read()
            await asyncio.sleep(0.2)  # now it waits for a client that does not read
            call.cancel()
            assert not await asyncio.to_thread(app.work.wait_idle, 0.3)
            app.shop.gate.set()
            await app.until(0)
            assert app.shop.left == 1

        gc.disable()
        try:
            played(play, *([Keeping()] if kept else []))
        finally:
            gc.enable()

    def test_a_plain_stream_cut_off_amid_a_write_is_over(self) -> None:
        """Nobody ever comes back to such a generator; it runs no code, so nothing is in hand."""
        # Such a generator keeps its thread, for ever: in a process of its own it harms nobody.
        program = "from tests.integration.test_app_grpc_aio import cut_off; cut_off()"
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout) == (0, "idle\n"), done.stderr

    @pytest.mark.parametrize("method", ["crash", "abort", "wrong_answer", "missing"])
    def test_failures_leave_no_count(self, method: str) -> None:
        """Neither an exception, an abort, an answer that is none, nor a method that is none."""

        async def play(app: Running) -> None:
            with pytest.raises(grpc.RpcError, match=r"UNKNOWN|FAILED_PRECONDITION|UNIMPLEMENTED"):
                await app.unary(method)
            await app.until(0)

        played(play)

    def test_a_stream_that_crashes_leaves_no_count(self) -> None:
        """The messages before the exception arrive, and then it is over."""

        async def play(app: Running) -> None:
            call = app.stream("crashing_stream")
            assert await call.read() == b"a"
            with pytest.raises(grpc.RpcError, match="on purpose"):
                await call.read()
            await app.until(0)

        played(play)

    def test_a_callback_of_the_app_that_raises_leaves_no_count(self) -> None:
        """The app's done callbacks run beside ours, not before them."""

        async def play(app: Running) -> None:
            assert await app.unary("bad_callback") == b"a"
            await app.until(0)

        played(play)

    def test_a_server_that_stops_waits_for_what_counts(self) -> None:
        """Within the grace a call counts and ends well; after it, it is cut off and over."""

        async def play(app: Running) -> None:
            first = app.unary("unary")
            await app.until(1)
            stopping = asyncio.ensure_future(app.server.stop(LIMIT))
            await asyncio.sleep(0.1)
            assert app.requests() == 1
            app.shop.gate.set()
            assert await first == b"a"
            await stopping
            await app.until(0)

        played(play)

    def test_a_server_that_stops_without_waiting_leaves_no_count(self) -> None:
        """Calls that outlast the grace are cancelled, and over."""

        async def play(app: Running) -> None:
            calls: list[Any] = [app.unary("unary"), app.stream("stream"), app.unary("plain")]
            await app.until(3)
            stopping = asyncio.ensure_future(app.server.stop(0.1))
            with pytest.raises(grpc.RpcError):
                await calls[0]
            await app.until(1)  # a thread cannot be cancelled: it still works
            app.shop.gate.set()
            await stopping
            await app.until(0)

        played(play)


class Hurried(aio.ServerInterceptor):
    """Another interceptor, which runs what is behind it in tasks of its own."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        found = await asyncio.ensure_future(continuation(handler_call_details))
        if found is None or found.unary_unary is None:
            return found

        async def hurried(request: bytes, context: Any) -> bytes:
            done: bytes = await asyncio.ensure_future(found.unary_unary(request, context))
            return done

        return grpc.unary_unary_rpc_method_handler(hurried)


class Keeping(aio.ServerInterceptor):
    """Another interceptor, which keeps the streams that it sees."""

    def __init__(self) -> None:
        self.kept: list[object] = []

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        found = await continuation(handler_call_details)

        async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
            self.kept.append(found.unary_stream(request, context))
            async for item in self.kept[-1]:  # type: ignore[attr-defined]
                yield item

        return grpc.unary_stream_rpc_method_handler(stream)


def test_another_interceptors_tasks_are_followed() -> None:
    """A call counts also where the task that began it is not the one that runs its code."""

    async def play(app: Running) -> None:
        call = app.unary("unary")
        await app.until(1)
        assert [app.requests() for _ in range(10)] == [1] * 10
        app.shop.gate.set()
        assert await call == b"a"
        await app.until(0)

    played(play, Hurried())


def test_an_app_without_grpc_does_not_load_it() -> None:
    """Only asking for the aio interceptor loads it."""
    program = (
        "import sys; from deregister_agent.app import Work; w = Work(); w.grpc();"
        "assert 'grpc' not in sys.modules; w.grpc_aio(); assert 'grpc.aio' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


async def anext_all(call: Any) -> list[bytes]:
    """Read a stream to its end."""
    return [answer async for answer in call]


def cut_off() -> None:
    """Cut off a plain stream amid a write, wait until it is over, and exit with its thread."""

    async def whole() -> None:
        work, shop = Work(), Shop()
        server = aio.server(ThreadPoolExecutor(1), interceptors=[work.grpc_aio()])
        service = grpc.method_handlers_generic_handler("Shop", shop.methods())
        server.add_generic_rpc_handlers((service,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            app = Running(work, shop, server, channel)
            call = app.stream("plain_flood")
            await call.read()
            await asyncio.sleep(0.2)
            call.cancel()
            await app.until(0)
        print("idle", flush=True)
        os._exit(0)

    asyncio.run(whole())
