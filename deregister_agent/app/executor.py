"""Executors whose work counts from submit() until its callbacks have run."""

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from deregister_agent.app.board import Ticket


class CountedFuture(Future[Any]):
    """
    What submit() returns: it follows the inner executor's own future.

    Callbacks are added to this one, so they all run inside ``follow``, and the
    ticket is ended after the last of them.
    """

    def __init__(self, inner: Future[Any], ticket: Ticket) -> None:
        super().__init__()
        self._inner, self._ticket = inner, ticket
        inner.add_done_callback(self._follow)

    def cancel(self) -> bool:
        """Cancel the work if it has not begun, like any future."""
        return self._inner.cancel()

    def running(self) -> bool:
        """Tell whether the work is being executed."""
        return self._inner.running() or (self._inner.done() and not self.done())

    def _follow(self, inner: Future[Any]) -> None:
        try:
            if inner.cancelled():
                super().cancel()
                self.set_running_or_notify_cancel()
            elif error := inner.exception():
                self.set_exception(error)
            else:
                self.set_result(inner.result())
        finally:
            self._ticket.end()


class CountedExecutor(Executor):
    """An executor in front of another. Queued work counts; so do the callbacks of its futures."""

    def __init__(self, inner: Executor, begin: Callable[[], Ticket]) -> None:
        self._inner, self._begin = inner, begin

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Count the work, then hand it to the executor behind."""
        ticket = self._begin()
        try:
            return CountedFuture(self._inner.submit(fn, *args, **kwargs), ticket)
        except BaseException:
            ticket.end()
            raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the executor behind down."""
        self._inner.shutdown(wait, cancel_futures=cancel_futures)


class CountedThreadPool(CountedExecutor, ThreadPoolExecutor):
    """
    The same in front of a pool of threads, and one itself by its class.

    asyncio takes nothing else for a loop's default executor. It never has threads: all
    that is submitted goes to the pool behind.
    """

    def __init__(self, inner: ThreadPoolExecutor, begin: Callable[[], Ticket]) -> None:
        ThreadPoolExecutor.__init__(self, max_workers=1)
        CountedExecutor.__init__(self, inner, begin)
