"""The intake of a consumer: nobody takes anything in it once the app is stopped."""

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from queue import Empty, Queue

import pytest

from deregister_agent.app import Work
from deregister_agent.app.board import WISH
from deregister_agent.app.intake import Intake
from tests.unit.test_app_promises import in_flight, until

TOGETHER = 8


class Consumers:
    """Threads that take from one queue as the how-to says, and hold what they took."""

    def __init__(self, work: Work, count: int) -> None:
        self.queue, self.taken, self.gate = Queue[int](), list[int](), threading.Event()
        self._work, self._intake, self._over = work, work.intake(), threading.Event()
        self._threads = [threading.Thread(target=self._consume) for _ in range(count)]

    def _consume(self) -> None:
        while not self._over.is_set():
            with self._intake:
                try:
                    message = self.queue.get(timeout=0.05)
                except Empty:
                    continue
                handle = self._work.handed_on(self._handle, "messages")
            handle(message)

    def _handle(self, message: int) -> None:
        self.taken.append(message)
        assert self.gate.wait(60)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run them, and let all of them end."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            self.gate.set()
            self._work.ask(stop=False)  # who waits for the start leaves, too
            for thread in self._threads:
                thread.join(60)


def never(condition: Callable[[], bool]) -> None:
    """Look for longer than a hook's thread takes to follow a wish."""
    for _ in range(50):
        assert not condition()
        time.sleep(0.01)


def stop(work: Work) -> None:
    work.ask(stop=True)
    until(work.settled)
    assert work.stopped


def start(work: Work) -> None:
    work.ask(stop=False)
    until(work.settled)
    assert not work.stopped


class TestThreads:
    def test_stopped_means_that_nobody_takes_any_more(self) -> None:
        """What was taken before counts and may take its time; what comes later stays."""
        work = Work()
        consumers = Consumers(work, TOGETHER)
        with consumers.running():
            consumers.queue.put(0)
            until(lambda: consumers.taken == [0])
            stop(work)
            for message in range(1, 5):
                consumers.queue.put(message)
            assert in_flight(work) == {"messages": 1}
            consumers.gate.set()
            assert work.wait_idle(60)
            assert consumers.taken == [0]
            assert consumers.queue.qsize() == 4
            start(work)
            until(lambda: len(consumers.taken) == 5)

    def test_stops_and_starts_in_quick_succession(self) -> None:
        """However fast they follow one another: after each stop nothing is taken."""
        work = Work()
        consumers = Consumers(work, TOGETHER)
        consumers.gate.set()
        with consumers.running():
            for turn in range(40):
                work.ask(stop=False)
                consumers.queue.put(turn)
                work.ask(stop=True)
                until(lambda: work.settled() and work.stopped)
                assert work.wait_idle(60)
                before = list(consumers.taken)
                consumers.queue.put(-turn)
                assert consumers.taken == before
            start(work)
            until(lambda: len(consumers.taken) == 80)

    def test_who_came_in_by_a_start_that_no_hook_has_seen_is_waited_for(self) -> None:
        """A slow hook of the first stop is still at it when the start and the next stop come."""
        work, slow, inside = Work(), threading.Event(), threading.Event()
        leave, asked = threading.Event(), threading.Event()
        intake = work.intake()

        @work.on_stop
        def hook() -> None:
            asked.set()
            assert slow.wait(60)

        def take() -> None:
            with intake:
                inside.set()
                assert leave.wait(60)

        work.ask(stop=True)
        assert asked.wait(60)
        work.ask(stop=False)
        thread = threading.Thread(target=take)
        thread.start()
        assert inside.wait(60)
        work.ask(stop=True)
        slow.set()
        never(lambda: work.stopped)
        leave.set()
        until(lambda: work.stopped)
        thread.join(60)

    def test_a_start_that_was_taken_back_at_once_is_no_hole(self) -> None:
        """Another process asks for both before the hooks' thread looks again."""
        work, inside, leave = Work(), threading.Event(), threading.Event()
        intake = work.intake()

        def take() -> None:
            with intake:
                inside.set()
                assert leave.wait(60)

        for _ in range(5):
            inside.clear()
            leave.clear()
            stop(work)
            thread = threading.Thread(target=take)
            thread.start()
            work._board.cells[WISH] += 1
            assert inside.wait(60)
            work._board.cells[WISH] += 1
            never(lambda: work.stopped)
            leave.set()
            until(lambda: work.stopped)
            thread.join(60)

    def test_a_stop_between_coming_in_and_looking_is_noticed(self) -> None:
        """Who found it open before the stop is inside for the stop."""
        hooks = list[threading.Thread]()
        waited = list[bool]()

        def is_shut() -> bool:
            if hooks:
                return True
            hooks.append(threading.Thread(target=intake.wait_empty))
            hooks[0].start()
            hooks[0].join(0.2)
            waited.append(hooks[0].is_alive())
            return False  # as it was seen before the stop

        intake = Intake(is_shut)
        with intake:
            assert waited == [True]
        hooks[0].join(60)
        assert not hooks[0].is_alive()

    def test_a_take_without_end_is_not_stopped(self) -> None:
        """Who is inside may get a message: that is said, and the start ends the wait."""
        work, gate, inside = Work(), threading.Event(), threading.Event()
        intake = work.intake()

        def take() -> None:
            with intake:
                inside.set()
                assert gate.wait(60)

        thread = threading.Thread(target=take)
        thread.start()
        assert inside.wait(60)
        work.ask(stop=True)
        until(lambda: intake.shut)
        assert not work.settled()
        assert not work.stopped
        work.ask(stop=False)
        until(work.settled)
        gate.set()
        thread.join(60)
        stop(work)

    def test_it_is_shut_where_the_app_is_stopped_already(self) -> None:
        """A consumer that comes up in a stopped app takes nothing, from its first moment."""
        work = Work()
        stop(work)
        intake = work.intake()
        assert intake.shut
        start(work)
        until(lambda: not intake.shut)

    def test_a_forked_child_takes_part(self) -> None:
        """It is waited for from its first entry on, and threads of its parent are not."""
        work = Work()
        intake = work.intake()
        read, write = os.pipe()
        leave_read, leave_write = os.pipe()
        with intake:
            child = os.fork()
            if child == 0:
                with intake:
                    os.write(write, b"in")
                    os.read(leave_read, 1)
                os.write(write, b"out")
                os.read(leave_read, 1)
                os._exit(0)
            assert os.read(read, 2) == b"in"
        work.ask(stop=True)
        never(lambda: work.stopped)
        os.write(leave_write, b"x")
        assert os.read(read, 3) == b"out"
        until(lambda: work.settled() and work.stopped)
        os.write(leave_write, b"x")
        assert os.waitpid(child, 0)[1] == 0
        for end in (read, write, leave_read, leave_write):
            os.close(end)


class TestTasks:
    def test_tasks_take_as_threads_do(self) -> None:
        """The event loop is never held, and a task that waits for the start goes on then."""
        work, taken = Work(), list[int]()

        async def consume(queue: "asyncio.Queue[int]") -> None:
            intake = work.intake()
            while True:
                async with intake:
                    try:
                        message = queue.get_nowait()
                    except asyncio.QueueEmpty:
                        message = 0
                taken.extend([message] if message else [])
                await asyncio.sleep(0)

        async def main() -> None:
            queue = asyncio.Queue[int]()
            task = asyncio.create_task(consume(queue))
            queue.put_nowait(1)
            await asyncio.to_thread(until, lambda: taken == [1])
            await asyncio.to_thread(stop, work)
            queue.put_nowait(2)
            await asyncio.sleep(0.01)
            assert taken == [1]
            await asyncio.to_thread(start, work)
            await asyncio.to_thread(until, lambda: taken == [1, 2])
            task.cancel()
            await asyncio.wait([task])

        asyncio.run(main())

    def test_what_waits_without_end_is_called_off(self) -> None:
        """``take`` cancels it for a stop, and calls it again after the start."""
        work, calls = Work(), list[str]()
        intake = work.intake()

        async def main() -> None:
            queue = asyncio.Queue[str]()

            async def call() -> str:
                calls.append("begun")
                try:
                    return await queue.get()
                except asyncio.CancelledError:
                    calls.append("cancelled")
                    raise

            taking = asyncio.create_task(intake.take(call))
            await asyncio.to_thread(until, lambda: calls == ["begun"])
            await asyncio.to_thread(stop, work)
            assert calls == ["begun", "cancelled"]
            queue.put_nowait("message")
            await asyncio.sleep(0.01)
            assert not taking.done()
            await asyncio.to_thread(start, work)
            assert await taking == "message"

        asyncio.run(main())

    @pytest.mark.parametrize("end", ["cancelled", "fails", "stubborn"])
    def test_a_take_ends_as_its_call_does(self, end: str) -> None:
        """Cancelled with its task, or failed; what it gives in spite of a cancel is not lost."""
        work = Work()
        intake = work.intake()

        async def stubborn() -> str:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return "message"
            raise AssertionError

        async def fails() -> str:
            raise OSError("the broker has gone")

        calls: dict[str, Callable[[], Awaitable[str]]] = {
            "cancelled": lambda: asyncio.sleep(60, ""),
            "fails": fails,
            "stubborn": stubborn,
        }

        async def main() -> None:
            taking = asyncio.create_task(intake.take(calls[end]))
            await asyncio.sleep(0.01)
            if end == "cancelled":
                taking.cancel()
            elif end == "stubborn":
                await asyncio.to_thread(stop, work)
            await asyncio.wait([taking])
            if end == "cancelled":
                assert taking.cancelled()
            elif end == "fails":
                with pytest.raises(OSError, match="broker has gone"):
                    taking.result()
            else:
                assert taking.result() == "message"

        asyncio.run(main())
        stop(work)
