"""What counts as work of the app, from when, and until when."""

import asyncio
import gc
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from contextlib import suppress

import pytest

from deregister_agent.app import KINDS, UnknownWorkError, Work
from deregister_agent.app.board import FINISHED, USED

NOTHING = dict.fromkeys(KINDS, 0)


def in_flight(work: Work) -> dict[str, int]:
    """Return what is in flight, without the kinds of which there is nothing."""
    counts = work.report()["in_flight"]
    assert isinstance(counts, dict)
    return {kind: count for kind, count in counts.items() if count}


def until(condition: Callable[[], bool], limit: float = 10.0) -> None:
    """Wait for a condition, for a bounded time."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.005)


def test_a_report_says_what_the_agent_needs() -> None:
    """The four kinds, a counter of all work, who is there, and whether it was stopped."""
    work = Work()
    with work.message(), work.task():
        report = work.report()
    assert report["in_flight"] == {"requests": 0, "tasks": 1, "messages": 1, "websockets": 0}
    assert report["started"] == 2
    assert report["stopped"] is False
    assert work.report()["in_flight"] == NOTHING
    assert work.report()["process"] == report["process"]


def test_two_apps_have_marks_of_their_own() -> None:
    """A mark names one run of one app."""
    assert Work().report()["process"] != Work().report()["process"]


def test_an_unknown_kind_is_refused() -> None:
    """A misspelt kind is an error where it stands, with the words that may be used."""
    with pytest.raises(ValueError, match="'request'; there are requests, tasks"):
        Work().begin("request")


def test_a_ticket_ends_once() -> None:
    """Ending one piece of work twice does not end another."""
    work = Work()
    first, second = work.begin(), work.begin()
    first.end()
    first.end()
    assert in_flight(work) == {"tasks": 1}
    second.end()
    assert in_flight(work) == {}


def test_no_count_is_lost_between_threads() -> None:
    """Eight threads that begin and end at once leave neither a rest nor a debt."""
    work, threads = Work(), []
    for _ in range(8):

        def job() -> None:
            for _ in range(2000):
                with work.task():
                    pass

        threads.append(threading.Thread(target=job))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert work.report()["started"] == 16000
    assert in_flight(work) == {}


def test_a_count_is_never_below_zero_in_one_process() -> None:
    """What one process has ended too often does not hide what another has in hand."""
    work = Work()
    with work.task():
        other = work._board._slot_cells(3)
        work._board.cells[USED] = 4
        other[FINISHED + KINDS.index("tasks")] = (
            1  # of a process that counted wrongly, and has exited
        )
        assert sum(work._board.tally().in_flight.values()) == 0
        with pytest.raises(UnknownWorkError, match="more work was ended than was begun"):
            work.report()
        assert not work.is_idle()


def test_one_ticket_ended_by_many_threads_counts_once() -> None:
    """A ticket that several threads end at the same moment is one piece of work."""
    work = Work()
    kept = work.begin()
    for _ in range(200):
        ticket = work.begin()
        threads = [threading.Thread(target=ticket.end) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert in_flight(work) == {"tasks": 1}
    kept.end()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_crash_leaks_nothing(error: type[BaseException]) -> None:
    """Whatever a function raises, its work is over."""
    work = Work()

    @work.message()
    def crash() -> None:
        assert in_flight(work) == {"messages": 1}
        raise error

    with pytest.raises(error):
        crash()
    assert in_flight(work) == {}


def test_a_decorated_generator_counts_until_closed() -> None:
    """It counts from its first step, and until it is exhausted, closed or forgotten."""
    work = Work()

    @work.task()
    def numbers() -> Iterator[int]:
        yield 1
        yield 2

    steps = numbers()
    assert in_flight(work) == {}
    assert next(steps) == 1
    assert in_flight(work) == {"tasks": 1}
    del steps
    gc.collect()
    assert in_flight(work) == {}
    assert list(numbers()) == [1, 2]
    assert in_flight(work) == {}


def test_one_block_at_a_time() -> None:
    """Using one counter for two blocks at once is an error, not a wrong count."""
    work = Work()
    counter = work.task()
    with counter, pytest.raises(RuntimeError, match="make a new one"):
        counter.__enter__()
    assert in_flight(work) == {}


def test_wait_idle_answers_when_work_ends() -> None:
    """It blocks while work is in hand, and says whether it has ended."""
    work = Work()
    ticket = work.begin()
    assert not work.wait_idle(0.05)
    threading.Timer(0.05, ticket.end).start()
    assert work.wait_idle(10)


class TestAsyncio:
    def test_a_task_counts_from_its_making_until_its_callbacks_have_run(self) -> None:
        """It counts before its first step and in a callback that was added last."""
        work, seen = Work(), []

        async def job() -> None:
            seen.append(in_flight(work))

        async def main() -> None:
            task = work.create_task(job())
            seen.append(in_flight(work))
            task.add_done_callback(lambda _: seen.append(in_flight(work)))
            await task
            assert await asyncio.to_thread(work.wait_idle, 10)

        asyncio.run(main())
        assert seen == [{"tasks": 1}] * 3

    def test_cancelled_and_failed_tasks_leak_nothing(self) -> None:
        """A task cancelled before it began, one amid its work and one that fails all end."""
        work = Work()

        async def main() -> None:
            early = work.create_task(asyncio.sleep(60))
            early.cancel()
            late = work.create_task(asyncio.sleep(60))
            broken = work.create_task(fail())
            await asyncio.sleep(0)
            late.cancel()
            await asyncio.gather(early, late, broken, return_exceptions=True)
            await asyncio.sleep(0)
            assert in_flight(work) == {}

        async def fail() -> None:
            raise ValueError

        asyncio.run(main())
        assert work.report()["started"] == 3

    def test_coroutine_functions_and_async_generators_are_counted(self) -> None:
        """Both count while they run; an async generator that is closed early, until then."""
        work = Work()
        closed = []

        @work.message()
        async def take() -> dict[str, int]:
            await asyncio.sleep(0)
            return in_flight(work)

        @work.message()
        async def stream() -> AsyncIterator[int]:
            try:
                yield 1
                yield 2
            finally:
                closed.append(in_flight(work))

        async def main() -> None:
            assert await take() == {"messages": 1}
            steps = stream()
            assert await anext(steps) == 1
            assert in_flight(work) == {"messages": 1}
            await steps.aclose()  # type: ignore[attr-defined]
            async with work.task():
                assert in_flight(work) == {"tasks": 1}

        asyncio.run(main())
        assert closed == [{"messages": 1}]
        assert in_flight(work) == {}

    def test_a_callback_that_raises_leaks_nothing(self) -> None:
        """The loop tells of it, and the task is over."""
        work, told = Work(), []

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what))
            task = work.create_task(asyncio.sleep(0))
            task.add_done_callback(lambda _: 1 / 0)
            await task
            assert await asyncio.to_thread(work.wait_idle, 10)

        asyncio.run(main())
        assert len(told) == 1

    def test_a_task_that_nobody_can_finish_is_over(self) -> None:
        """One that was collected, or whose loop was closed under it, leaves no count."""
        work = Work()

        async def main() -> None:
            # What it waits for is known to nobody else, so neither is the task.
            work.create_task(wait(asyncio.get_running_loop().create_future()))
            await asyncio.sleep(0)
            assert in_flight(work) == {"tasks": 1}

        async def wait(hung: "asyncio.Future[None]") -> None:
            await hung

        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)
        loop.run_until_complete(main())
        gc.collect()
        assert in_flight(work) == {}
        left = [loop.create_task(main())]
        loop.run_until_complete(asyncio.sleep(0))
        left.append(loop.run_until_complete(begun(work)))
        assert in_flight(work) == {"tasks": 2}
        loop.close()
        left.clear()
        gc.collect()
        assert in_flight(work) == {}

    def test_outside_a_loop_nothing_is_counted(self) -> None:
        """A task that cannot be made is no work."""
        work = Work()
        with pytest.raises(RuntimeError, match="no running event loop"):
            work.create_task(asyncio.sleep(0))
        assert in_flight(work) == {}


async def begun(work: Work) -> "asyncio.Task[None]":
    """Return a task that has not begun."""
    return work.create_task(asyncio.sleep(60))


class TestThreads:
    def test_a_thread_counts_from_the_call(self) -> None:
        """It counts when start_thread() has returned, until its function has."""
        work, gate = Work(), threading.Event()
        seen: list[object] = []

        def job(word: str) -> None:
            seen.append((word, in_flight(work)))
            gate.wait(10)

        thread = work.start_thread(job, "mail", name="mailer", daemon=True)
        assert in_flight(work) == {"tasks": 1}
        assert (thread.name, thread.daemon) == ("mailer", True)
        gate.set()
        thread.join(10)
        assert seen == [("mail", {"tasks": 1})]
        assert in_flight(work) == {}

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_a_thread_that_fails_or_cannot_start_leaks_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither sys.exit() in it nor a system without threads leaves a count."""
        work = Work()
        work.start_thread(sys.exit).join(10)
        assert in_flight(work) == {}

        def refused(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError, match="can't start"):
            work.start_thread(int)
        assert in_flight(work) == {}


class TestExecutor:
    def test_queued_work_counts(self) -> None:
        """What waits in the queue counts like what runs."""
        work, gate = Work(), threading.Event()
        with work.executor(ThreadPoolExecutor(1)) as pool:
            futures = [pool.submit(gate.wait) for _ in range(3)]
            assert in_flight(work) == {"tasks": 3}
            assert futures[2].cancel()
            assert in_flight(work) == {"tasks": 2}
            until(futures[0].running)
            gate.set()
            assert [f.result(10) for f in as_completed(futures[:2], 10)] == [True, True]
        assert in_flight(work) == {}
        assert futures[2].cancelled()
        with pytest.raises(CancelledError):
            futures[2].result()

    def test_a_task_counts_until_its_callbacks_have_run(self) -> None:
        """A callback still counts, though the result is there already."""
        work, gate, entered = Work(), threading.Event(), threading.Event()

        def callback(_: Future[bool]) -> None:
            entered.set()
            gate.wait(10)

        with work.executor(ThreadPoolExecutor(1)) as pool:
            begin = threading.Event()
            future = pool.submit(begin.wait)
            future.add_done_callback(callback)
            begin.set()
            assert entered.wait(10)
            assert future.done()
            assert in_flight(work) == {"tasks": 1}
            gate.set()
        assert in_flight(work) == {}

    def test_failures_and_a_closed_pool_leak_nothing(self) -> None:
        """An exception reaches the caller, and neither it nor a refusal stays counted."""
        work = Work()
        pool = work.executor(ThreadPoolExecutor(1))
        future = pool.submit(int, "x")
        with pytest.raises(ValueError, match="invalid literal"):
            future.result(10)
        pool.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(int)
        assert in_flight(work) == {}

    @pytest.mark.parametrize("error", [ValueError, SystemExit])
    def test_a_callback_that_raises_leaks_nothing(self, error: type[BaseException]) -> None:
        """Whatever a callback raises, its task is over, done or cancelled before it ran."""
        work, gate = Work(), threading.Event()
        inner = ThreadPoolExecutor(1)
        pool = work.executor(inner)

        def callback(_: Future[bool]) -> None:
            raise error

        first, second = pool.submit(gate.wait), pool.submit(gate.wait)
        for future in (first, second):
            future.add_done_callback(callback)
        with suppress(SystemExit):
            second.cancel()
        assert in_flight(work) == {"tasks": 1}
        gate.set()
        until(lambda: in_flight(work) == {})
        inner.shutdown()

    def test_what_shutdown_cancels_is_over(self) -> None:
        """Queued work that a shutdown throws away does not stay counted."""
        work, gate = Work(), threading.Event()
        pool = work.executor(ThreadPoolExecutor(1))
        futures = [pool.submit(gate.wait) for _ in range(4)]
        until(futures[0].running)
        pool.shutdown(wait=False, cancel_futures=True)
        assert in_flight(work) == {"tasks": 1}
        gate.set()
        until(lambda: in_flight(work) == {})

    def test_it_serves_asyncio_and_map(self) -> None:
        """run_in_executor and map work as with any executor."""
        work = Work()
        with work.executor(ThreadPoolExecutor(2), "messages") as pool:

            async def main() -> int:
                return await asyncio.get_running_loop().run_in_executor(pool, int, "7")

            assert asyncio.run(main()) == 7
            assert list(pool.map(int, ["1", "2"])) == [1, 2]
        assert work.report()["started"] == 3
        assert in_flight(work) == {}
