"""Count a block of code or a function: threads, asyncio tasks, message consumers."""

import functools
import inspect
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from deregister_agent.app.board import Ticket

F = TypeVar("F", bound=Callable[..., Any])


class Counted:
    """
    Work that counts while a ``with`` block, or a decorated function, runs.

    Functions, generators, coroutine functions and async generators may all be
    decorated; generators count from their first step until they are closed. One
    object serves one ``with`` block at a time; a decorated function any number.
    """

    def __init__(self, begin: Callable[[], Ticket]) -> None:
        self._begin = begin
        self._ticket: Ticket | None = None

    def __enter__(self) -> Self:
        """Count the work from here on."""
        if self._ticket is not None:
            raise RuntimeError("this counts another block already; make a new one for each")
        self._ticket = self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Count the work as finished, whether it succeeded or raised."""
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            ticket.end()

    async def __aenter__(self) -> Self:
        """Count the work from here on."""
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Count the work as finished, whether it succeeded or raised."""
        self.__exit__(kind, error, trace)

    def __call__(self, function: F) -> F:
        """Return *function* such that each call counts until its end."""
        if inspect.iscoroutinefunction(function):
            wrapped = self._coroutine(function)
        elif inspect.isasyncgenfunction(function):
            wrapped = self._async_generator(function)
        elif inspect.isgeneratorfunction(function):
            wrapped = self._generator(function)
        else:
            wrapped = self._plain(function)
        return cast("F", functools.wraps(function)(wrapped))

    def _plain(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            with Counted(self._begin):
                return function(*args, **kwargs)

        return counted

    def _coroutine(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def counted(*args: Any, **kwargs: Any) -> Any:
            with Counted(self._begin):
                return await function(*args, **kwargs)

        return counted

    def _generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            with Counted(self._begin):
                return (yield from function(*args, **kwargs))

        return counted

    def _async_generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def counted(*args: Any, **kwargs: Any) -> Any:
            # Only what a consumer loop uses: items out; values sent in are not passed on.
            items = function(*args, **kwargs)
            with Counted(self._begin):
                try:
                    async for item in items:
                        yield item
                finally:
                    await items.aclose()

        return counted


def finishing(ticket: Ticket, function: Callable[..., object], args: Collection[object]) -> None:
    """Call *function*, and end the ticket when the function ends, in any way."""
    try:
        function(*args)
    finally:
        ticket.end()
