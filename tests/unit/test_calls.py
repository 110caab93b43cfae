"""Calls that are kept off the loop."""

import threading
from collections.abc import Callable
from random import Random

import pytest

from deregister_agent.engine.calls import Backoff, CallResult, Calls, Threads
from deregister_agent.errors import RegistryError
from deregister_agent.host.threads import NoThread
from tests.unit.loop_bench import Calls as Jobs
from tests.unit.loop_bench import HandClock

WITHIN = 10.0


class Bench:
    """Calls whose jobs run when the test says so."""

    def __init__(self) -> None:
        self.clock, self.jobs, self.woken = HandClock(), Jobs(), 0
        self.calls = Calls(self.jobs.submit, self.clock, self._wake)
        self.done: list[CallResult] = []

    def _wake(self) -> None:
        self.woken += 1

    def start(self, call: Callable[[], object]) -> None:
        self.calls.start("look", call, self.done.append)


def test_what_a_call_brings_is_handed_over_in_collect() -> None:
    """Nothing the loop knows changes under its feet; it is woken to collect."""
    bench = Bench()

    def call() -> str:
        bench.clock.time += 2.0
        return "yes"

    bench.start(call)
    bench.jobs.run()
    assert (bench.done, bench.woken) == ([], 1)
    bench.calls.collect()
    assert bench.done == [CallResult(asked=100.0, answered=102.0, value="yes")]


def test_a_call_under_way_is_not_piled_upon() -> None:
    """A second one of the same name begins only when the first has been collected."""
    bench = Bench()
    bench.start(lambda: 1)
    bench.start(lambda: 2)
    assert (len(bench.jobs.waiting), bench.calls.busy("look")) == (1, True)
    assert list(bench.calls.due("look", Backoff(1.0, 1.0, Random(1)))) == []
    bench.jobs.run()
    bench.calls.collect()
    bench.start(lambda: 3)
    bench.jobs.run()
    bench.calls.collect()
    assert [done.value for done in bench.done] == [1, 3]


def test_an_error_is_brought_back() -> None:
    """What a backend raises is its answer."""
    bench = Bench()
    error = RegistryError("consul", "list", "connection refused")

    def call() -> None:
        raise error

    bench.start(call)
    bench.jobs.run()
    bench.calls.collect()
    assert [done.error for done in bench.done] == [error]


def test_a_bug_in_a_backend_is_an_unknown(caplog: pytest.LogCaptureFixture) -> None:
    """Anything else that is raised ends as an error too, and is logged with its stack."""
    bench = Bench()
    bench.start(lambda: 1 // 0)
    bench.jobs.run()
    bench.calls.collect()
    assert "unexpected ZeroDivisionError" in str(bench.done[0].error)
    assert "look failed in a way it should not" in caplog.text


def test_a_hung_job_holds_up_no_other() -> None:
    """As many threads as there are jobs."""
    threads, go, ran = Threads(), threading.Event(), threading.Event()

    def hangs() -> None:
        go.wait(WITHIN)

    threads.submit(hangs)
    threads.submit(ran.set)
    try:
        assert ran.wait(WITHIN)
    finally:
        go.set()


def test_what_cannot_be_begun_is_not_under_way() -> None:
    """It ends as an error, so that it is tried again."""
    bench = Bench()

    def none_left(job: Callable[[], None]) -> None:
        raise NoThread("the host starts no thread")

    calls = Calls(none_left, bench.clock, bench._wake)
    calls.start("look", lambda: 1, bench.done.append)
    calls.collect()
    assert (str(bench.done[0].error), calls.busy("look")) == ("the host starts no thread", False)


def test_a_host_without_threads_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sentence, and what may be set; a job that comes later has a thread again."""
    threads, ran = Threads(), threading.Event()

    def refuses(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuses)
        with pytest.raises(NoThread, match=r"can't start new thread.*TasksMax"):
            threads.submit(ran.set)
    assert not ran.is_set()
    threads.submit(ran.set)
    assert ran.wait(WITHIN)


def test_a_free_thread_is_used_again() -> None:
    """Jobs that come one after another do not need a thread each."""
    threads, names = Threads(), set[str]()
    for _ in range(5):
        done = threading.Event()

        def job(done: threading.Event = done) -> None:
            names.add(threading.current_thread().name)
            done.set()

        threads.submit(job)
        assert done.wait(WITHIN)
        while not threads._free:  # the thread says so right after the job
            threading.Event().wait(0.001)
    assert len(names) == 1


def test_waits_grow_to_their_cap_and_begin_anew() -> None:
    """Retries are spread by jitter, and never further apart than the cap."""
    again = Backoff(0.1, 1.0, Random(1))
    waits = []
    for _ in range(6):
        again.later(50.0)
        waits.append(again.due - 50.0)
    longest = [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, longest, strict=True))
    again.now()
    assert again.due <= 0.0
    again.later(50.0)
    assert again.due <= 50.1
    again.after(7.0, 50.0)
    assert again.due == 57.0
