"""The celery probe: against a real worker, and against a Python that tells nothing."""

import gc
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pydantic import ValidationError

from deregister_agent.errors import ProbeError
from deregister_agent.model import Instance, Reading
from deregister_agent.probes.celery import CeleryProbe, Options, build
from tests.apps.celery_shop import Worker
from tests.servers.child import wait_until
from tests.servers.redis import Redis

HERE = Path(__file__).parents[2]


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


def probe(asked: Worker, /, **more: object) -> CeleryProbe:
    table: dict[str, object] = {
        "kind": "celery",
        "app": "tests.apps.celery_shop",
        "worker": asked.name,
        "python": [sys.executable],
        "folder": str(HERE),
        "env": asked.environment,
        "timeout": 20.0,
    }
    options = Options.model_validate_json(json.dumps(table | more))
    return build(options, Instance("shop-1", "shop", "127.0.0.1", 80))


def told(asked: CeleryProbe) -> Reading:
    """Return what it tells, as soon as it does: on a busy machine a reply may come too late."""
    found: list[Reading] = []

    def is_told() -> bool:
        with suppress(ProbeError):
            found.append(asked.read(0.0))
        return bool(found)

    wait_until(is_told, "it tells", limit=60)
    return found[0]


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

    def test_two_of_one_name(self, folder: Path, redis: Redis) -> None:
        """Of two workers with one name, the one that answers is not taken for both."""
        (folder / "twin").mkdir()
        with (
            Worker(folder, redis, name="twin@here") as one,
            Worker(folder / "twin", redis, name="twin@here"),
            pytest.raises(ProbeError, match="several workers have that name"),
        ):
            probe(one).read(0.0)

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
            with pytest.raises(
                ProbeError, match=r"shop\.pack \[rate_limit=1/h\].* has a rate limit"
            ):
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
            with pytest.raises(ProbeError, match="it is gone, cut off from the broker, or too"):
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


WHOLE: dict[str, object] = {
    "so_called": 1,
    "registered": {"w@here": []},
    "stats": {"w@here": {"total": {"a": 1, "b": 2}, "pid": 7}},
    "scheduled": {"w@here": 0},
    "reserved": {"w@here": 0},
    "active": {"w@here": 0},
}
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
    "huge": ("print('x' * 999_999)", "more than 262144 bytes"),
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
    "boolean": ("active", {"w@here": False}, "active is False"),
    "no total": ("stats", {"w@here": {"total": None, "pid": 1}}, "without total and pid"),
    "no pid": ("stats", {"w@here": {"total": {}}}, "without total and pid"),
    "odd total": ("stats", {"w@here": {"total": {"a": "1"}, "pid": 1}}, "total is '1'"),
    "two workers": ("so_called", 2, "several workers have that name"),
    "no number of workers": ("so_called", None, "several workers have that name"),
    "no word of limits": ("registered", None, "did not reply to registered"),
    "odd limits": ("registered", {"w@here": {}}, "{} has a rate limit"),
    "odd stats": ("stats", {"w@here": []}, "its stats are []"),
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
