"""A request counts until each thread has ended that it began: whoever awaits it may leave early."""

import asyncio
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

from deregister_agent.app.board import Ticket
from deregister_agent.app.locks import RLock

Enter = Callable[..., Any]


class Whole(Protocol):
    """What a thread may be a part of: a request, or a consumer of messages."""

    def part(self) -> "Part | None":
        """Return one more part; None when what it would be a part of is over."""
        ...


current: ContextVar[Whole | None] = ContextVar("current", default=None)
"""The request in whose context this code runs; the tasks that it made have it, too."""


class CountedRequest:
    """One request: it is over when the app has returned and no thread of it goes on."""

    __slots__ = ("_lock", "_parts", "_ticket")

    def __init__(self, ticket: Ticket) -> None:
        self._ticket, self._parts, self._lock = ticket, 1, RLock()

    def part(self) -> "Part | None":
        """Return one more part of the request; None when it is over: then it began no more."""
        with self._lock:
            if self._parts == 0:
                return None
            self._parts += 1
        return Part(self)

    def end_part(self) -> None:
        """Count the request as finished, unless another part of it goes on."""
        with self._lock:
            self._parts -= 1
            if self._parts == 0:
                self._ticket.end()


class Part:
    """Something that a request has begun. It ends once."""

    __slots__ = ("_open", "_request")

    def __init__(self, request: CountedRequest) -> None:
        self._request, self._open = request, [None]

    def end(self, *_: object) -> None:
        """End it; any thread may do so, and again."""
        try:
            self._open.pop()
        except IndexError:
            return
        self._request.end_part()


class PartCall:
    """A function that a thread will call: it is over when it has returned, or was dropped."""

    __slots__ = ("_function", "_part")

    def __init__(self, function: Callable[..., Any], part: Part) -> None:
        self._function, self._part = function, part

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the function."""
        try:
            return self._function(*args, **options)
        finally:
            self._part.end()

    def __del__(self) -> None:
        """End its part: nobody will call it any more (it was cancelled in the queue)."""
        self._part.end()


class PartExecutor:
    """An executor for one call: what is submitted is part of a request until it is done."""

    __slots__ = ("_inner", "_part")

    def __init__(self, inner: Any, part: Part) -> None:
        self._inner, self._part = inner, part

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        """Hand it to the executor behind. The function is left alone: it may have to be pickled."""
        future = self._inner.submit(function, *args, **options)
        future.add_done_callback(self._part.end)
        return future


class HandOver:
    """What stands in place of a loop's ``run_in_executor``: all ways into a thread lead there."""

    __slots__ = ("_inner",)

    def __init__(self, inner: Enter) -> None:
        self._inner = inner

    def __call__(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Hand *func* over, as a part of the current request if there is one."""
        request = current.get()
        part = request.part() if request is not None else None
        if part is None:
            return self._inner(executor, func, *args)
        try:
            # The loop's own executor is not to be had. It has threads, so nothing is pickled.
            if executor is None:
                return self._inner(None, PartCall(func, part), *args)
            return self._inner(PartExecutor(executor, part), func, *args)
        except BaseException:
            part.end()
            raise


def watch(loop: asyncio.AbstractEventLoop) -> None:
    """
    See what requests hand to threads in *loop*, from now on.

    ``asyncio.to_thread``, asgiref's ``sync_to_async`` (Django) and Quart's functions
    without ``async`` all call the loop's ``run_in_executor``. anyio has threads of its
    own (anyio/to_thread.py), with which Starlette and FastAPI run such functions.
    """
    if not isinstance(loop.run_in_executor, HandOver):
        loop.run_in_executor = HandOver(loop.run_in_executor)  # type: ignore[method-assign, assignment]
    to_thread = sys.modules.get("anyio.to_thread")
    if to_thread is not None and not hasattr(to_thread.run_sync, "of_requests"):
        to_thread.run_sync = _anyio_hand_over(to_thread.run_sync)  # type: ignore[attr-defined]


def _anyio_hand_over(inner: Enter) -> Enter:
    async def run_sync(func: Callable[..., Any], *args: Any, **options: Any) -> Any:
        request = current.get()
        part = request.part() if request is not None else None
        return await inner(func if part is None else PartCall(func, part), *args, **options)

    run_sync.of_requests = True  # type: ignore[attr-defined]
    return run_sync
