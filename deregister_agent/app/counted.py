"""Count a block of code or a function: threads, asyncio tasks, message consumers."""

import functools
import inspect
import weakref
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from deregister_agent.app.board import Ticket
from deregister_agent.app.outcome import async_steps, counted_outcome, steps

F = TypeVar("F", bound=Callable[..., Any])


class Counted:
    """
    Work that counts while a ``with`` block, or a decorated function, runs.

    Functions, generators, coroutine functions and async generators may all be
    decorated; generators count from their first step until they are closed. What a
    function returns is looked at: futures and what has to be awaited count to their
    end. One object serves one ``with`` block at a time; a decorated function any number.
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
        begin = self._begin

        def counted(*args: Any, **kwargs: Any) -> Any:
            ticket = begin()
            try:
                outcome = function(*args, **kwargs)
            except BaseException:
                ticket.end()
                raise
            return counted_outcome(outcome, begin, ticket)

        return counted

    def _coroutine(self, function: Callable[..., Any]) -> Callable[..., Any]:
        begin = self._begin

        async def counted(*args: Any, **kwargs: Any) -> Any:
            ticket = begin()
            try:
                outcome = await function(*args, **kwargs)
            except BaseException:
                ticket.end()
                raise
            return counted_outcome(outcome, begin, ticket)

        return counted

    def _generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            return (yield from steps(function(*args, **kwargs), self._begin))

        return counted

    def _async_generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def counted(*args: Any, **kwargs: Any) -> Any:
            items = async_steps(function(*args, **kwargs), self._begin)
            try:
                async for item in items:
                    yield item
            finally:
                await items.aclose()

        return counted


def finishing(
    begin: Callable[[], Ticket],
    ticket: Ticket,
    function: Callable[..., object],
    args: Collection[object],
) -> None:
    """Call *function* in a thread, and end the ticket with what it does, in any way."""
    try:
        outcome = function(*args)
    except BaseException:
        ticket.end()
        raise
    counted_outcome(outcome, begin, ticket)


def handed_on(begin: Callable[[], Ticket], function: F) -> F:
    """Return *function* such that its first call counts from now until its end."""
    waiting = [begin()]

    def begin_call() -> Ticket:
        try:
            return waiting.pop()
        except IndexError:
            return begin()

    counted = Counted(begin_call)(function)
    weakref.finalize(counted, _drop, waiting).atexit = False
    return counted


def _drop(waiting: list[Ticket]) -> None:
    for ticket in waiting:
        ticket.end()
