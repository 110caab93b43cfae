"""One hook: it has done its part when all that it has returned is over, too."""

import asyncio
import inspect
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterator,
    Mapping,
    ValuesView,
)
from functools import partial
from typing import Any

from deregister_agent.app.hook_signature import check_hook, name_of

MANY = (list, tuple, set, frozenset, deque, ValuesView)
"""What a hook may return several promises in, as ``lambda: [c.pause() for c in consumers]``."""


class HookCall:
    """
    A hook, called in the thread of the hooks, and waited for to its real end.

    What it returns tells whether it has done anything yet, not how it is written: a
    coroutine runs in the event loop in which the hook was registered, a future of
    asyncio is waited for in its own, one of ``concurrent.futures`` in this thread, for
    *timeout* seconds in all; then they are cancelled. Making one for a coroutine function
    outside of an event loop raises RuntimeError, and for what cannot be called without
    arguments TypeError.
    """

    def __init__(self, hook: Callable[[], Any], timeout: float) -> None:
        check_hook(hook)
        self._hook, self._timeout = hook, timeout
        self._name = name_of(hook)
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
            if inspect.iscoroutinefunction(hook):
                raise self._homeless() from None

    def __call__(self) -> None:
        """
        Call the hook, and return when all that it has promised is done.

        Raises TimeoutError when that takes too long, RuntimeError for a coroutine without
        a running event loop and for False, TypeError for what has yet to run (a generator,
        a function), and whatever the hook raises.
        """
        end = time.monotonic() + self._timeout
        try:
            outcome = self._hook()
        except RuntimeError as e:
            if self._loop is not None:
                e.add_note(
                    f"the hook {self._name} was called in the thread of the hooks; "
                    "if its consumer belongs to the event loop, make it an async def"
                )
            raise
        self._finish(outcome, end)

    def _finish(self, outcome: Any, end: float) -> None:
        """Wait for what a call has returned, and for what that returns in turn."""
        if isinstance(outcome, Mapping):
            outcome = outcome.values()
        if isinstance(outcome, MANY):
            for each in outcome:
                self._finish(each, end)
        elif asyncio.isfuture(outcome):
            self._finish(self._awaited(outcome, outcome.get_loop(), end), end)
        elif callable(getattr(outcome, "add_done_callback", None)):
            self._finish(self._result(outcome, end), end)
        elif isinstance(outcome, Awaitable) and not isinstance(outcome, type):
            self._finish(self._awaited(outcome, self._loop, end), end)
        else:
            self._must_be_over(outcome)

    def _must_be_over(self, outcome: Any) -> None:
        """Raise TypeError or RuntimeError for what shows that the hook has not done its part."""
        if isinstance(outcome, Generator | AsyncGenerator) or _is_lazy(outcome):
            raise TypeError(
                f"the hook {self._name} returned a {type(outcome).__name__}, of which nothing has "
                "run: make it a function that does its work and returns"
            )
        if inspect.isroutine(outcome) or isinstance(outcome, partial):
            raise TypeError(
                f"the hook {self._name} returned the function {name_of(outcome)}, which nobody "
                "has called: call it in the hook"
            )
        if outcome is False:  # a wait that was given up, such as Event.wait(5)
            raise RuntimeError(
                f"the hook {self._name} returned False: it has not done its part; a hook that "
                "has returns nothing"
            )

    def _awaited(
        self, outcome: Awaitable[Any], loop: asyncio.AbstractEventLoop | None, end: float
    ) -> Any:
        if loop is None or not loop.is_running():
            if isinstance(outcome, Coroutine):
                outcome.close()
            raise self._homeless()
        return self._result(asyncio.run_coroutine_threadsafe(_result(outcome), loop), end)

    def _result(self, future: Any, end: float) -> Any:
        try:
            return future.result(timeout=max(end - time.monotonic(), 0))
        except TimeoutError as e:
            if not future.done():
                future.cancel()  # it must not pause what has been started again meanwhile
                raise TimeoutError(
                    f"what the hook {self._name} returned was not over after {self._timeout:g} s; "
                    "a hook that only begins something should return nothing"
                ) from e
            raise

    def _homeless(self) -> RuntimeError:
        return RuntimeError(
            f"the hook {self._name} has to be awaited, and no event loop runs for it: register "
            "it where its loop runs, such as in the app's startup"
        )


async def _result(outcome: Awaitable[Any]) -> Any:
    return await outcome


def _is_lazy(outcome: object) -> bool:
    """Tell of Python's own iterators, such as ``map``. Some clients are one themselves."""
    return isinstance(outcome, Iterator) and type(outcome).__module__ in ("builtins", "itertools")
