"""The celery probe: against a real worker, and against a Python that tells nothing."""

import gc
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from deregister_agent.errors import ProbeError
from deregister_agent.probes.celery.probe import CeleryProbe
from tests.apps.celery_shop import Worker
from tests.integration.celery_stage import probe, told
from tests.servers.child import wait_until
from tests.servers.redis import Redis


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("celery")


@pytest.fixture(scope="module")
def redis(folder: Path) -> Iterator[Redis]:
    with Redis(folder) as running:
        yield running


@pytest.fixture(scope="module")
def worker(folder: Path, redis: Redis) -> Iterator[Worker]:
    with Worker(folder, redis, slots=2) as running:
        yield running


class TestWorker:
    def test_tasks_held_open(self, worker: Worker) -> None:
        """Tasks at work, prefetched and waiting for their time are told, down to nothing."""
        asked = probe(worker)
        first = told(asked)
        assert first.in_flight == {"tasks": 0, "reserved": 0, "scheduled": 0}
        ends = [worker.send() for _ in range(4)]
        held = {"tasks": 2, "reserved": 2, "scheduled": 0}
        wait_until(lambda: told(asked).in_flight == held, "two work, two wait", limit=60)
        for end in ends:
            end.touch()
        wait_until(lambda: told(asked).idle, "it is idle", limit=60)
        assert told(asked).started == (first.started or 0) + 4
        assert told(asked).mark == first.mark != ""

    def test_tasks_of_later(self, worker: Worker) -> None:
        """A task that waits for its time is in hand, unless it is not to count."""
        asked, active = probe(worker), probe(worker, counts=["active"])
        end = worker.send(countdown=20)  # two questions take seconds on a busy machine
        try:
            wait_until(
                lambda: told(asked).in_flight == {"tasks": 0, "reserved": 0, "scheduled": 1},
                "it is scheduled",
                limit=60,
            )
            assert told(active).in_flight == {"tasks": 0}
            wait_until(
                lambda: told(asked).in_flight == {"tasks": 1, "reserved": 0, "scheduled": 0},
                "it works",
                limit=60,
            )
        finally:
            end.touch()
        wait_until(lambda: told(asked).idle, "it is idle", limit=60)

    def test_only_its_own(self, worker: Worker, redis: Redis, folder: Path) -> None:
        """What another worker does is not told; one that is not there is not idle."""
        with Worker(folder, redis, name="other@here") as other:
            ends = [worker.send() for _ in range(4)]
            both = [probe(worker), probe(other)]
            wait_until(
                lambda: sum(sum(told(p).in_flight.values()) for p in both) == 4,
                "the two have four",
                limit=60,
            )
            for end in ends:
                end.touch()
            wait_until(lambda: all(told(p).idle for p in both), "both are idle", limit=60)
        with pytest.raises(ProbeError, match=r"did not reply to stats within 0\.2 s"):
            probe(worker, worker="none@here", reply_timeout=0.2).read(0.0)

    def test_tasks_that_wait_for_a_rate_limit(self, folder: Path) -> None:
        """They are in no list of Celery's, so what is reserved is not known."""
        (folder / "limited").mkdir()
        with (
            Redis(folder / "limited") as redis,
            Worker(folder / "limited", redis, rate="1/h") as worker,
        ):
            ends = [worker.send() for _ in range(3)]
            asked, active = probe(worker), probe(worker, counts=["active"])
            wait_until(lambda: not told(active).idle, "one works", limit=60)
            for end in ends:
                end.touch()
            wait_until(lambda: told(active).idle, "it has ended", limit=60)
            with pytest.raises(ProbeError, match=r"'shop\.pack' has a rate limit"):
                asked.read(0.0)

    def test_active_tasks_always_count(self, worker: Worker) -> None:
        """Without them a worker would be idle whatever it does."""
        with pytest.raises(ValidationError, match="must have active in it"):
            probe(worker, counts=["reserved"])

    def test_a_worker_that_stands_still(self, worker: Worker) -> None:
        """No reply is no answer; the next one is believed again."""
        asked = probe(worker)
        told(asked)
        worker.stop()
        try:
            with pytest.raises(ProbeError, match="it is gone, cut off from the broker, too"):
                asked.read(0.0)
        finally:
            worker.cont()
        assert told(asked).idle

    def test_a_broker_that_hangs_or_is_gone(self, folder: Path, worker: Worker) -> None:
        """The program that asks is killed in time, whatever the broker does."""
        (folder / "another").mkdir()
        with Redis(folder / "another") as broker:
            broker.stop()
            environment = {"SHOP_BROKER": f"{broker.url}/0"}
            with pytest.raises(ProbeError, match="no answer within 4 s; killed"):
                probe(worker, env=environment, timeout=4.0).read(0.0)
            broker.kill()
            with pytest.raises(ProbeError, match=r"no answer within 4 s|exit status 1"):
                probe(worker, env=environment, timeout=4.0).read(0.0)

    def test_no_such_app(self, worker: Worker) -> None:
        """An app that cannot be imported tells nothing, and the error says why."""
        with pytest.raises(ProbeError, match=r"exit status 1: .*No module named 'nowhere'"):
            probe(worker, app="nowhere").read(0.0)


PREFORK = "celery.concurrency.prefork:TaskPool"
STATS = {"total": {"a": 1, "b": 2}, "pid": 7, "pool": PREFORK, "processes": [8, 9]}
WHOLE: dict[str, object] = {
    "steps": [],
    "so_called": 1,
    "registered": {"w@here": {"limited": [], "odd": []}},
    "stats": {"w@here": STATS},
    "scheduled": {"w@here": 0},
    "reserved": {"w@here": 0},
    "active": {"w@here": []},
    "terminated": [],
}


def stats(**other: object) -> dict[str, object]:
    return {"w@here": {**STATS, **other}}


SAY = "import sys\nfor _ in sys.stdin: print({!r}, flush=True)"
FAIL_CLOSED = {
    "ends": ("print(0)", "printed 0"),
    "ends at once": ("", "exit status 0"),
    "fails": ("raise SystemExit('no way')", "exit status 1: no way"),
    "killed": ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
    "hangs": ("import time; time.sleep(60)", "no answer within"),
    "slow": (
        "import time\nfor _ in '{}'*99: print('{', end='', flush=True); time.sleep(0.1)",
        "no",
    ),
    "huge": ("print('x' * 1_999_999)", "more than 1048576 bytes"),
    "html": (SAY.format("<html>0</html>"), "no JSON: '<html>0</html>"),
    "truncated": (SAY.format(json.dumps(WHOLE)[:-9]), "no JSON"),
    "list": (SAY.format("[]"), "printed []"),
    "nobody": (SAY.format("{}"), "did not reply to stats"),
}
ODD: dict[str, tuple[str, object, str]] = {
    "no reply": ("active", None, "did not reply to active"),
    "other": ("active", {"x@y": 0}, "the reply to active comes from x@y"),
    "two": ("active", {"w@here": 0, "x@y": 0}, "comes from w@here, x@y"),
    "negative": ("reserved", {"w@here": -1}, "reserved is -1"),
    "nan": ("scheduled", {"w@here": float("nan")}, "scheduled is nan"),
    "error": ("active", {"w@here": {"error": "no"}}, "active is {'error': 'no'}"),
    "a number": ("active", {"w@here": 1}, "active is 1, not a list"),
    "no process": ("active", {"w@here": [["id"]]}, "active is [['id']], not a list"),
    "no id": ("active", {"w@here": [[None, 8]]}, "active is [[None, 8]], not a list"),
    "boolean": ("reserved", {"w@here": False}, "reserved is False"),
    "no total": ("stats", stats(total=None), "have None as total"),
    "odd total": ("stats", stats(total={"a": "1"}), "total is '1'"),
    "no pid": ("stats", stats(pid=None), "its process id is None"),
    "no pool": ("stats", stats(pool=None), "have None as the pool"),
    "another's pool": ("stats", stats(pool="x:Pool"), "counted_elsewhere = ['x:Pool']"),
    "no processes": ("stats", stats(processes=None), "have None as the pool's processes"),
    "odd process": ("stats", stats(processes=["8"]), "a process of the pool is '8'"),
    "odd stats": ("stats", {"w@here": []}, "its stats are []"),
    "two workers": ("so_called", 2, "2 workers have that name"),
    "no worker": ("so_called", 0, "0 workers have that name"),
    "no number of workers": ("so_called", None, "None workers have that name"),
    "no word of limits": ("registered", None, "did not reply to registered"),
    "odd limits": ("registered", {"w@here": {}}, "its tasks are {}"),
    "odd names": ("registered", {"w@here": {"limited": [], "odd": [1]}}, "its tasks are {"),
    "limit": ("registered", {"w@here": {"limited": ["t"], "odd": []}}, "'t' has a rate limit"),
    "no steps": ("steps", None, "consumer steps are None"),
    "no word of terminated tasks": ("terminated", None, "terminated is None"),
    "odd terminated tasks": ("terminated", [["id", "8"]], "the process of a task is '8'"),
}
NO_REPLY: dict[str, tuple[dict[str, object], str]] = {
    "remote control is off": ({"remote_control": False}, "worker_enable_remote_control off"),
    "no fanout": ({"fanout": False}, "no remote control on this kind of broker"),
    "nobody listens": ({"listeners": 0}, "the broker has nobody who listens to that name"),
    "two listen": ({"listeners": 2}, "the broker has 2 who listen to that name, and one of them"),
    "one listens": ({"listeners": 1}, "too busy to answer, as a solo worker is"),
    "nothing is known": ({}, "or was started with remote control off"),
}


class Nobody(Worker):
    """Stands for a worker where no Celery is asked."""

    def __init__(self) -> None:
        self.name, self.environment = "w@here", {}


def scripted(program: str, **more: object) -> CeleryProbe:
    """Return a probe whose Python runs *program*, whatever it is asked to."""
    return probe(Nobody(), python=[sys.executable, "-I", "-S", "-c", program], **more)


class TestFailsClosed:
    @pytest.mark.parametrize("case", FAIL_CLOSED)
    def test_what_is_no_answer_is_not_known(self, case: str) -> None:
        """The error says what was there instead."""
        program, why = FAIL_CLOSED[case]
        with pytest.raises(ProbeError, match=r"^celery: cannot tell what w@here") as caught:
            scripted(program, timeout=2.0).read(0.0)
        assert why in str(caught.value)

    @pytest.mark.parametrize("case", ODD)
    def test_odd_replies(self, case: str) -> None:
        """Every reply has to be the worker's own, and a plain count."""
        what, reply, why = ODD[case]
        with pytest.raises(ProbeError) as caught:
            scripted(SAY.format(json.dumps(WHOLE | {what: reply}))).read(0.0)
        assert why in str(caught.value)

    @pytest.mark.parametrize("case", NO_REPLY)
    def test_why_nobody_replied(self, case: str) -> None:
        """What the app's settings and the broker say of it stands in the reason."""
        more, why = NO_REPLY[case]
        known = {"steps": [], "remote_control": True, "fanout": True, "listeners": None}
        with pytest.raises(ProbeError, match="did not reply to stats") as caught:
            scripted(SAY.format(json.dumps(known | more))).read(0.0)
        assert why in str(caught.value)

    @pytest.mark.parametrize("name", ["shop@%h", "celery@%n", "%i@web", "w%I@%d"])
    def test_a_name_that_the_worker_would_fill_in(self, name: str) -> None:
        """Only the worker's own host knows what stands there."""
        with pytest.raises(ValidationError, match="as 'celery status' shows it"):
            probe(Nobody(), worker=name)

    def test_a_whole_answer(self) -> None:
        """The answer that the odd ones are made of is believed."""
        told = scripted(SAY.format(json.dumps(WHOLE))).read(0.0)
        assert (told.idle, told.started, told.mark) == (True, 3, "7")

    def test_it_is_started_again(self, tmp_path: Path) -> None:
        """A program that ends after its answer is simply started again."""
        program = f"input(); open({str(tmp_path / 'n')!r}, 'a').write('x'); print({{}})"
        program = program.replace("{}", repr(json.dumps(WHOLE)))
        asked = scripted(program)
        for _ in range(3):
            assert asked.read(0.0).idle
        assert (tmp_path / "n").read_text() == "xxx"

    def test_no_program_is_left(self, tmp_path: Path) -> None:
        """With the probe, the program that it keeps ends as well."""
        program = f"import os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        asked = scripted(program + SAY.format(json.dumps(WHOLE)))
        asked.read(0.0)
        pid = int((tmp_path / "pid").read_text())
        os.kill(pid, 0)
        del asked
        gc.collect()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
