"""Where a consumer takes its next message: a place that is shut while the app is stopped."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self, TypeVar

T = TypeVar("T")
POLL = 0.05  # seconds between two looks at whether it is open, or empty


class Intake:
    """
    A block of code, in threads or in asyncio tasks, in which messages are taken.

    Entering waits while the app is stopped, so nobody is in it who came after the stop was
    asked for; and the stop is done when the last one who came before has left. So take in
    the block, for a bounded time, and begin to count there what was taken; handle it after
    the block. One object serves any number of threads and tasks of a process.
    """

    def __init__(self, is_shut: Callable[[], bool]) -> None:
        self._is_shut = is_shut
        self._inside = list[None]()  # one for each: append and pop need no lock

    @property
    def shut(self) -> bool:
        """Whether the app was asked to stop, and has not started again since."""
        return self._is_shut()

    def __enter__(self) -> Self:
        """Come in; wait while it is shut."""
        while not self._entered():
            time.sleep(POLL)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave."""
        self._leave()

    async def __aenter__(self) -> Self:
        """Come in; wait while it is shut, without holding the event loop."""
        # Another process may open it: there is no event to wait for.
        while not self._entered():  # noqa: ASYNC110 - see above
            await asyncio.sleep(POLL)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave."""
        self._leave()

    async def take(self, call: Callable[[], Awaitable[T]]) -> T:
        """
        Return what *call* gives, which may wait for a message without end.

        When the app is stopped it is cancelled, and called again after the start. So it
        must be of a kind that loses nothing when it is cancelled.
        """
        while True:
            async with self:
                taking = asyncio.ensure_future(call())
                try:
                    while not (taking.done() or self.shut):
                        await asyncio.wait([taking], timeout=POLL)
                finally:
                    taking.cancel()
                    await asyncio.wait([taking])
            if not taking.cancelled():
                return taking.result()

    def wait_empty(self) -> None:
        """Wait until all have left who came before the stop, or until the start."""
        while self._inside and self.shut:
            time.sleep(POLL)

    def forked(self) -> None:
        """Forget, in a child, the threads of its parent, which it does not have."""
        self._inside.clear()

    def _entered(self) -> bool:
        # In this order: whoever is not seen inside by wait_empty sees that the stop was asked for.
        self._inside.append(None)
        if not self.shut:
            return True
        self._leave()
        return False

    def _leave(self) -> None:
        with suppress(IndexError):  # a child that was forked in the block leaves it, too
            self._inside.pop()
