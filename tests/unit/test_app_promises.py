"""What a counted function or a hook returns is looked at, however it is written."""

import asyncio
import functools
import gc
import inspect
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from deregister_agent.app import Work


def in_flight(work: Work) -> dict[str, int]:
    """Return what is in flight, without the kinds of which there is nothing."""
    counts = work.report()["in_flight"]
    assert isinstance(counts, dict)
    return {kind: count for kind, count in counts.items() if count}


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, for a bounded time."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.005)


async def settled(work: Work) -> bool:
    """Wait in a loop until nothing is in hand."""
    return await asyncio.to_thread(work.wait_idle, 20)


async def waiting(gate: asyncio.Event) -> str:
    """Stand for work that has to be awaited."""
    await gate.wait()
    return "done"


class AsyncObject:
    """A callable object whose ``__call__`` is a coroutine function."""

    async def __call__(self, gate: asyncio.Event) -> str:
        return await waiting(gate)


class OwnAwaitable:
    """What some clients return instead of a coroutine: it has only ``__await__``."""

    def __init__(self, gate: asyncio.Event) -> None:
        self.gate = gate

    def __await__(self) -> Generator[Any, Any, str]:
        return waiting(self.gate).__await__()


async def a_task(gate: asyncio.Event) -> Awaitable[str]:
    """Return, from a coroutine function, what goes on after it."""
    return asyncio.ensure_future(waiting(gate))


class Methods:
    """A method that hands on the coroutine of another."""

    def run(self, gate: asyncio.Event) -> Coroutine[Any, Any, str]:
        return waiting(gate)

    @staticmethod
    def still(gate: asyncio.Event) -> Coroutine[Any, Any, str]:
        return waiting(gate)


AWAITABLES: dict[str, Callable[[asyncio.Event], Any]] = {
    "coroutine function": waiting,
    "lambda": lambda gate: OwnAwaitable(gate).gate and waiting(gate),
    "partial": functools.partial(waiting),
    "partial of an object": functools.partial(AsyncObject()),
    "object": AsyncObject(),
    "method": Methods().run,
    "static method": Methods.still,
    "task": lambda gate: asyncio.get_running_loop().create_task(waiting(gate)),
    "gather": lambda gate: asyncio.gather(waiting(gate), waiting(gate)),
    "shield": lambda gate: asyncio.shield(waiting(gate)),
    "wait_for": lambda gate: asyncio.wait_for(waiting(gate), 20),
    "own awaitable": OwnAwaitable,
}


class TestCounted:
    @pytest.mark.parametrize("name", AWAITABLES)
    def test_what_is_to_be_awaited_counts_to_its_end(self, name: str) -> None:
        """It counts while it is awaited, whatever has returned it, and its result comes out."""
        work = Work()

        async def main() -> None:
            gate = asyncio.Event()
            call = asyncio.ensure_future(work.task()(AWAITABLES[name])(gate))
            await asyncio.sleep(0.01)
            assert in_flight(work) == {"tasks": 1}
            gate.set()
            assert await call in ("done", ["done", "done"])
            assert await settled(work)

        asyncio.run(main())
        assert work.report()["started"] == 1

    def test_there_is_no_gap_before_what_was_returned_runs(self) -> None:
        """A returned coroutine counts before its first step; the function has run already."""
        work = Work()

        async def main() -> None:
            gate = asyncio.Event()
            waits = work.message()(lambda: waiting(gate))()
            assert in_flight(work) == {"messages": 1}
            gate.set()
            await waits
            assert in_flight(work) == {}

        asyncio.run(main())

    @pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
    def test_a_coroutine_that_nobody_awaits_is_no_work(self) -> None:
        """One that is forgotten, refused or cancelled before its first step leaves nothing."""
        work = Work()

        @work.task()
        def counted() -> Coroutine[Any, Any, str]:
            return waiting(asyncio.Event())

        forgotten = counted()
        assert in_flight(work) == {"tasks": 1}
        del forgotten
        gc.collect()
        assert in_flight(work) == {}

        async def main() -> None:
            task = asyncio.ensure_future(counted())
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(main())
        gc.collect()
        assert in_flight(work) == {}

    def test_a_task_that_a_coroutine_function_leaves_behind_counts(self) -> None:
        """It has returned a task, so its work is not over."""
        work = Work()

        async def main() -> None:
            gate = asyncio.Event()
            left = await work.task()(a_task)(gate)
            assert in_flight(work) == {"tasks": 1}
            gate.set()
            assert await left == "done"
            assert await settled(work)

        asyncio.run(main())

    @pytest.mark.parametrize("wrap", [lambda f: f, functools.partial], ids=["plain", "partial"])
    def test_a_future_of_a_pool_counts_to_its_end(self, wrap: Callable[..., Any]) -> None:
        """Queued or running; a cancelled one is over."""
        work, gate = Work(), threading.Event()
        with ThreadPoolExecutor(1) as pool:
            submit = work.task()(wrap(lambda: pool.submit(gate.wait)))
            first, second = submit(), submit()
            assert in_flight(work) == {"tasks": 2}
            assert second.cancel()
            assert in_flight(work) == {"tasks": 1}
            gate.set()
            assert first.result(20) is True
            until(lambda: in_flight(work) == {})

    def test_a_future_of_a_loop_that_another_thread_asked_for_counts(self) -> None:
        """A thread begins work in the loop: its end is seen there."""
        work = Work()

        async def main() -> None:
            loop, gate = asyncio.get_running_loop(), asyncio.Event()

            @work.task()
            def begin() -> "asyncio.Task[str]":
                return loop.create_task(waiting(gate))

            task = await asyncio.to_thread(begin)
            loop.call_later(0.01, int)
            assert in_flight(work) == {"tasks": 1}
            gate.set()
            assert await task == "done"
            assert await settled(work)

        asyncio.run(main())

    def test_a_future_that_nobody_can_finish_is_over(self) -> None:
        """A promise that was thrown away is no work."""
        work = Work()
        promise: Future[None] = work.task()(Future)()
        assert in_flight(work) == {"tasks": 1}
        del promise
        gc.collect()
        assert in_flight(work) == {}

    def test_a_thread_that_begins_work_elsewhere_counts_to_its_end(self) -> None:
        """The function of start_thread() may hand its work on, and end."""
        work, gate = Work(), threading.Event()
        with ThreadPoolExecutor(1) as pool:
            work.start_thread(pool.submit, gate.wait).join(20)
            assert in_flight(work) == {"tasks": 1}
            gate.set()
            until(lambda: in_flight(work) == {})

    def test_generators_count_however_they_are_made(self) -> None:
        """From the first step until they are exhausted, closed or forgotten."""
        work = Work()

        def numbers() -> Iterator[int]:
            yield 1
            yield 2

        def other() -> Iterator[int]:
            return numbers()

        ways: list[Any] = [numbers, functools.partial(numbers), other]
        for function in ways:
            steps: Any = work.task()(function)()
            assert in_flight(work) == {}
            assert next(steps) == 1
            assert in_flight(work) == {"tasks": 1}
            assert list(steps) == [2]
            assert in_flight(work) == {}

    def test_async_generators_count_however_they_are_made(self) -> None:
        """Also one that is closed early, until its ``finally`` has run."""
        work = Work()
        closed = []

        async def numbers() -> AsyncIterator[int]:
            try:
                yield 1
                yield 2
            finally:
                closed.append(in_flight(work))

        def other() -> AsyncIterator[int]:
            return numbers()

        async def main() -> None:
            ways: list[Any] = [numbers, functools.partial(numbers), other]
            for function in ways:
                steps: Any = work.task()(function)()
                assert await anext(steps) == 1
                assert in_flight(work) == {"tasks": 1}
                await steps.aclose()
                assert in_flight(work) == {}

        asyncio.run(main())
        assert closed == [{"tasks": 1}] * 3

    def test_results_are_left_alone(self) -> None:
        """What promises nothing comes out as it was, and its work is over."""
        work = Work()
        for result in (None, [1], iter([1]), "text", Awaitable, {"a": 1}):
            assert work.task()(lambda result=result: result)() is result
            assert in_flight(work) == {}


class TestHandedOn:
    def test_it_counts_from_the_hand_over_to_the_end_of_the_call(self) -> None:
        """Also in the queue of whoever will call it; each more call counts for itself."""
        work = Work()
        seen: list[object] = []

        def job(word: str) -> str:
            seen.append(in_flight(work))
            return word

        later = work.handed_on(job, "messages")
        assert in_flight(work) == {"messages": 1}
        assert later("mail") == "mail"
        assert in_flight(work) == {}
        assert later("more") == "more"
        assert in_flight(work) == {}
        assert seen == [{"messages": 1}] * 2
        assert work.report()["started"] == 2

    def test_what_is_dropped_is_no_work(self) -> None:
        """A framework that throws its list away at the end of a request never calls it."""
        work = Work()
        later = work.handed_on(Consumer().stop)
        assert in_flight(work) == {"tasks": 1}
        del later
        gc.collect()
        assert in_flight(work) == {}

    def test_a_coroutine_function_stays_one(self) -> None:
        """Frameworks ask, to know whether to await: it counts until it has been awaited."""
        work = Work()

        async def main() -> None:
            gate = asyncio.Event()
            later = work.handed_on(waiting)
            assert inspect.iscoroutinefunction(later)
            task = asyncio.ensure_future(later(gate))
            del later
            await asyncio.sleep(0)
            assert in_flight(work) == {"tasks": 1}
            gate.set()
            await task
            assert in_flight(work) == {}

        asyncio.run(main())


class TestDefaultExecutor:
    def test_the_loops_own_threads_count(self) -> None:
        """The loop takes it, and what its threads do counts though nobody waits any more."""
        work, gate = Work(), threading.Event()

        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.set_default_executor(work.executor(ThreadPoolExecutor(2)))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.to_thread(gate.wait), 0.05)
            assert in_flight(work) == {"tasks": 1}
            gate.set()
            until(lambda: in_flight(work) == {})
            assert await asyncio.to_thread(lambda: "done") == "done"

        asyncio.run(main())  # which shuts it down, and so the pool behind
        assert in_flight(work) == {}


class Consumer:
    """A consumer that stops some time after it was asked to."""

    def __init__(self) -> None:
        self.gate, self.asked, self.stopped = threading.Event(), threading.Event(), False
        self.loop: asyncio.AbstractEventLoop | None = None

    def stop_now(self) -> str:
        self.asked.set()
        assert self.gate.wait(20)
        self.stopped = True
        return "stopped"

    async def stop(self) -> str:
        self.loop = asyncio.get_running_loop()
        return await asyncio.to_thread(self.stop_now)

    async def __call__(self) -> str:
        return await self.stop()

    async def stop_later(self) -> Awaitable[str]:
        return asyncio.ensure_future(self.stop())

    def __await__(self) -> Generator[Any, Any, str]:
        return self.stop().__await__()


HOOKS: dict[str, Callable[[Consumer, asyncio.AbstractEventLoop, ThreadPoolExecutor], Any]] = {
    "method": lambda consumer, *_: consumer.stop,
    "lambda": lambda consumer, *_: lambda: consumer and consumer.stop(),
    "partial": lambda consumer, *_: functools.partial(consumer.stop),
    "partial of a lambda": lambda consumer, *_: functools.partial(
        lambda each: each.stop(), consumer
    ),
    "object": lambda consumer, *_: consumer,
    "awaitable": lambda consumer, *_: lambda: consumer,
    "several": lambda consumer, *_: lambda: [consumer.stop(), consumer.stop()],
    "task": lambda consumer, loop, _: lambda: loop.create_task(consumer.stop()),
    "task of a coroutine": lambda consumer, *_: consumer.stop_later,
    "from another thread": lambda consumer, loop, _: (
        lambda: asyncio.run_coroutine_threadsafe(consumer.stop(), loop)
    ),
    "future of a pool": lambda consumer, _, pool: lambda: pool.submit(consumer.stop_now),
}


class TestHooks:
    @pytest.mark.parametrize("name", HOOKS)
    def test_stopped_is_said_when_the_consumer_has_stopped(self, name: str) -> None:
        """Whatever the hook returns is waited for in its own loop, and only then it is true."""
        work = Work()

        async def main(pool: ThreadPoolExecutor) -> None:
            consumer, loop = Consumer(), asyncio.get_running_loop()
            work.on_stop(HOOKS[name](consumer, loop, pool))
            work.ask(stop=True)
            assert await asyncio.to_thread(consumer.asked.wait, 20)
            assert not work.settled()
            assert not work.stopped
            consumer.gate.set()
            await asyncio.to_thread(until, work.settled)
            assert work.trouble() is None
            assert work.stopped
            assert consumer.stopped
            assert consumer.loop in (None, loop)

        with ThreadPoolExecutor(1) as pool:
            asyncio.run(main(pool))

    @pytest.mark.parametrize(
        ("hook", "sentence"),
        [
            (lambda: Consumer().stop(), "register it where its loop runs"),
            (lambda: (each for each in [1]), "returned a generator, of which nothing has run"),
            (Future, "was not over after 0.2 s"),
        ],
        ids=["no loop", "generator", "never over"],
    )
    def test_a_promise_that_is_not_kept_is_no_stop(
        self, hook: Callable[[], Any], sentence: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The ask fails, and the log says why and what to do."""
        work = Work(hook_timeout=0.2)
        work.on_stop(hook)
        with caplog.at_level(logging.ERROR):
            work.ask(stop=True)
            until(work.settled)
        assert not work.stopped
        assert "a hook failed in process" in str(work.trouble())
        assert sentence in caplog.text

    def test_a_loop_that_has_ended_cannot_stop_anything(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The hook was registered in it: the ask fails at once."""
        work = Work()

        async def main() -> None:
            work.on_stop(Consumer().stop)

        asyncio.run(main())
        with caplog.at_level(logging.ERROR):
            work.ask(stop=True)
            until(work.settled)
        assert not work.stopped
        assert "no event loop runs for it" in caplog.text

    def test_a_coroutine_function_without_a_loop_is_refused_at_once(self) -> None:
        """Its name and what to do stand where it is registered."""
        with pytest.raises(RuntimeError, match=r"Consumer.stop has to be awaited.*app's startup"):
            Work().on_stop(Consumer().stop)
