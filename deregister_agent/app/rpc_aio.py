"""gRPC on asyncio: a call counts from before its code runs until its last byte is out."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterator
from functools import lru_cache
from types import TracebackType
from typing import Any

from grpc import aio

from deregister_agent.app.board import Ticket
from deregister_agent.app.locks import RLock
from deregister_agent.app.rpc import NO_WORK, SORTS, LeftOut, Method


class CountedCall:
    """
    One call, which counts for as long as anything of it goes on. Any thread may use it.

    grpc.aio runs each call in one task, interceptors and all. It ends when the status is
    out, or when the call was given up (grpc/_cython/_cygrpc/aio/server.pyx.pxi:
    _schedule_rpc_coro). Code of the app may go on after that: in a thread, in a task
    that another interceptor has made, in an async generator that is being closed.
    """

    __slots__ = ("_begin", "_lock", "_parts", "_task", "_ticket")

    def __init__(self, begin: Callable[[], Ticket]) -> None:
        """Count the call until the current task has ended."""
        self._begin, self._lock = begin, RLock()
        self._parts, self._ticket = 1, begin()
        self._task = asyncio.current_task()
        if self._task is not None:
            # Not by the call's own add_done_callback: one that raises hides all after it.
            self._task.add_done_callback(self._task_over)
        else:  # not as grpc.aio does it today: then the call's code alone counts
            self.__exit__()

    def __enter__(self) -> None:
        """Count the call while the block runs."""
        with self._lock:
            if self._parts == 0:
                self._ticket = self._begin()
            self._parts += 1

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        """Count the call as finished, unless another part of it goes on."""
        with self._lock:
            self._parts -= 1
            if self._parts == 0:
                self._ticket.end()

    def follow(self) -> asyncio.Task[Any] | None:
        """Count the call until the current task has ended, too, in any way; return that task."""
        task = asyncio.current_task()
        if task is not self._task and task is not None:
            self._task = task
            self.__enter__()
            task.add_done_callback(self._task_over)
        return task

    def _task_over(self, _: object) -> None:
        self.__exit__()


class Items:
    """The answers of an async generator. It counts until its ``finally`` blocks have run."""

    def __init__(self, items: AsyncGenerator[Any, None], call: CountedCall) -> None:
        self._items, self._call, self._open = items, call, True
        call.__enter__()
        task = call.follow()
        if task is not None:
            task.add_done_callback(self._task_over)

    def __aiter__(self) -> AsyncIterator[Any]:
        """Iterate over the generator."""
        return self._items

    async def close(self) -> None:
        """Close the generator, once; whoever comes second need not wait."""
        if self._open:
            self._open = False
            try:
                await self._items.aclose()
            finally:
                self._call.__exit__()

    def _task_over(self, task: asyncio.Task[Any]) -> None:
        """Close the generator, of which nobody asks for more; the collector might do so late."""
        if self._open:
            closing = task.get_loop().create_task(self.close())
            _closing.add(closing)
            closing.add_done_callback(_closing.discard)


_closing: set[asyncio.Task[None]] = set()  # the loop itself holds its tasks only weakly


class AioWorkInterceptor(aio.ServerInterceptor):
    """A server interceptor for grpc.aio.server(interceptors=[...]): counts calls as requests."""

    def __init__(self, begin: Callable[[], Ticket], ignored: Collection[str] = NO_WORK) -> None:
        self._begin, self._ignored = begin, LeftOut(ignored)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Return the wanted method, counted; None where there is no such method."""
        if self._ignored.has(handler_call_details.method):
            return await continuation(handler_call_details)
        call = CountedCall(self._begin)
        found = await continuation(handler_call_details)
        if found is None:
            return None
        name = SORTS[found.request_streaming, found.response_streaming]
        method = getattr(found, name)
        try:
            wrapper = _wrapper(method, streams=found.response_streaming)
        except TypeError:  # an object that cannot be hashed
            wrapper = _wrapper.__wrapped__(method, streams=found.response_streaming)
        return Method(found, name, wrapper(call, method))


def _coroutine(call: CountedCall, method: Callable[..., Any]) -> Callable[..., Any]:
    async def counted(request: Any, context: Any) -> Any:
        call.follow()
        return await method(request, context)

    return counted


def _async_generator(call: CountedCall, method: Callable[..., Any]) -> Callable[..., Any]:
    async def counted(request: Any, context: Any) -> AsyncIterator[Any]:
        items = Items(method(request, context), call)
        try:
            async for item in items:
                yield item
        finally:
            await items.close()

    return counted


def _plain(call: CountedCall, method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap what gRPC runs in a thread, which goes on when the call was given up."""

    def counted(request: Any, context: Any) -> Any:
        with call:
            return method(request, context)

    return counted


def _generator(call: CountedCall, method: Callable[..., Any]) -> Callable[..., Any]:
    """
    Wrap what gRPC iterates over in a thread.

    Each step counts for itself: when the call is given up amid a ``yield``, gRPC never
    comes back to it (generator_to_async_generator waits for a queue nobody reads).
    """

    def counted(request: Any, context: Any) -> Iterator[Any]:
        with call:
            steps = iter(method(request, context))
        try:
            while True:
                with call:
                    try:
                        item = next(steps)
                    except StopIteration:
                        return
                yield item
        finally:
            with call:
                getattr(steps, "close", int)()

    return counted


@lru_cache(maxsize=1024)  # to look costs more than all the rest
def _wrapper(method: Callable[..., Any], *, streams: bool) -> Callable[..., Callable[..., Any]]:
    """Return what counts such a *method*: gRPC treats each of the four sorts differently."""
    if inspect.iscoroutinefunction(method):
        return _coroutine
    if inspect.isasyncgenfunction(method):
        return _async_generator
    return _generator if streams else _plain
