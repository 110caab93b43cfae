"""What a call has returned: work that is over, or a promise of it, which counts to its end."""

import asyncio
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import suppress
from typing import Any

from deregister_agent.app.board import Ticket


def counted_outcome(outcome: Any, begin: Callable[[], Ticket], ticket: Ticket) -> Any:
    """
    Return what a counted call returned, such that the work it promises counts.

    The *ticket* of the call goes on until the end of a future (of asyncio,
    ``concurrent.futures`` or anything else with ``add_done_callback``), and of what has
    to be awaited, without a gap. A generator begins when it is asked for its first
    item. Anything else is no promise: the work is over.
    """
    if isinstance(outcome, Generator) and not isinstance(outcome, Awaitable):
        ticket.end()
        return steps(outcome, begin)
    if isinstance(outcome, AsyncGenerator):
        ticket.end()
        return async_steps(outcome, begin)
    if callable(getattr(outcome, "add_done_callback", None)):
        end_with(outcome, ticket)
        return outcome
    if isinstance(outcome, Awaitable) and not isinstance(outcome, type):
        waiting = _awaited(outcome, begin, ticket)
        # One that is never awaited does not reach its own ``finally``.
        weakref.finalize(waiting, ticket.end).atexit = False
        return waiting
    ticket.end()
    return outcome


def end_with(future: Any, ticket: Ticket) -> None:
    """End *ticket* when *future* is done, and all callbacks have run that it has by then."""
    if asyncio.isfuture(future):
        _end_in_loop(future, ticket)
    else:
        future.add_done_callback(ticket.end)
    # A loop holds its tasks weakly: one that was collected, or whose loop was closed
    # under it, never has its callbacks run, and is no work any more. Some that are only
    # like futures cannot be watched for that.
    with suppress(TypeError):
        weakref.finalize(future, ticket.end).atexit = False


def _end_in_loop(future: asyncio.Future[Any], ticket: Ticket) -> None:
    loop = future.get_loop()

    # Callbacks run in turn: what this one calls soon comes after all that are due now.
    def over(_: object) -> None:
        loop.call_soon(ticket.end)

    if _running_loop() is loop:
        future.add_done_callback(over)
        return
    try:
        loop.call_soon_threadsafe(future.add_done_callback, over)
    except RuntimeError:  # closed: nothing in it will go on
        ticket.end()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def steps(items: Generator[Any, Any, Any], begin: Callable[[], Ticket]) -> Generator[Any, Any, Any]:
    """Yield from *items*, counted from the first step until they are closed."""
    ticket = begin()
    try:
        return (yield from items)
    finally:
        ticket.end()


async def async_steps(
    items: AsyncGenerator[Any, Any], begin: Callable[[], Ticket]
) -> AsyncGenerator[Any, Any]:
    """Yield from *items*, counted from the first step until they are closed."""
    # Only what a consumer loop uses: items out; values sent in are not passed on.
    ticket = begin()
    try:
        async for item in items:
            yield item
    finally:
        try:
            await items.aclose()
        finally:
            ticket.end()


async def _awaited(outcome: Awaitable[Any], begin: Callable[[], Ticket], ticket: Ticket) -> Any:
    try:
        result = await outcome
    except BaseException:
        ticket.end()
        raise
    return counted_outcome(result, begin, ticket)
