"""When a piece of a worker's work has ended, in each pool and in each way to end, for real."""

import signal
from pathlib import Path

import pytest
from celery import chord  # type: ignore[import-untyped]

from tests.apps.celery_shop import Worker
from tests.integration.celery_stage import is_idle, probe, refusal, told
from tests.servers import python_packages
from tests.servers.child import wait_until
from tests.servers.rabbitmq import own_host, shared
from tests.servers.redis import Redis

LOOKS = 5  # at work that is held
SLOTS = 4


@pytest.mark.parametrize(
    ("pool", "packages"),
    [
        ("prefork", ""),
        ("threads", ""),
        ("solo", ""),
        ("gevent", "celery-5.6"),
        ("eventlet", "celery-5.6"),
        pytest.param("prefork", "celery-5.3", marks=pytest.mark.nightly),
        pytest.param("threads", "celery-5.3", marks=pytest.mark.nightly),
        pytest.param("prefork", "celery-5.6", marks=pytest.mark.nightly),
    ],
)
def test_each_pool(tmp_path: Path, redis_url: str, pool: str, packages: str) -> None:
    """While a task is at work, and another waits behind it, no reading is idle."""
    more = python_packages.folder(packages) if packages else None
    with Worker(tmp_path, redis_url, pool=pool, slots=1, packages=more) as worker:
        asked = probe(worker)
        first = told(asked)
        ends = [worker.send(), worker.send("shop.pack_late")]
        for number, end in enumerate(ends, 1):
            wait_until(lambda n=number: len(worker.noted("begin")) == n, "it works", limit=60)  # type: ignore[misc]
            assert not any(is_idle(asked) for _ in range(LOOKS))
            end.touch()
        wait_until(lambda: is_idle(asked), "it is idle", limit=60)
        assert len(worker.noted("end")) == len(ends)
        assert told(asked).started == (first.started or 0) + len(ends)


def state(process: int) -> str:
    """Return the letter of a process's state: Z for one that is dead and was not waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "X"


class TestEnds:
    @pytest.mark.parametrize("pool", ["prefork", "threads"])
    def test_a_task_sends_the_next(self, tmp_path: Path, redis_url: str, pool: str) -> None:
        """Between the links of a chain no reading is idle, where the worker still consumes."""
        with Worker(tmp_path, redis_url, pool=pool) as worker, worker.client() as client:
            asked = probe(worker)
            ends = [tmp_path / f"link-{n}" for n in range(3)]
            links = [client.signature("shop.pack", [str(e)], immutable=True) for e in ends]
            before = told(asked).started or 0
            (links[0] | links[1] | links[2]).apply_async()
            for number, end in enumerate(ends, 1):
                wait_until(lambda n=number: len(worker.noted("begin")) == n, "it works", limit=60)  # type: ignore[misc]
                assert not any(is_idle(asked) for _ in range(LOOKS))
                end.touch()
            wait_until(lambda: is_idle(asked), "it is idle", limit=60)
            assert told(asked).started == before + 3

    def test_a_chord(self, tmp_path: Path, redis_url: str) -> None:
        """A group of tasks, and the one that is sent when all of them have ended."""
        settings = {"result_backend": redis_url}
        with Worker(tmp_path, redis_url, settings=settings) as worker, worker.client() as client:
            asked = probe(worker)
            ends = [tmp_path / f"part-{n}" for n in range(3)]
            *parts, last = [client.signature("shop.pack", [str(e)], immutable=True) for e in ends]
            before = told(asked).started or 0
            chord(parts, app=client)(last)
            for begun, released in ((2, ends[:1]), (2, ends[1:2]), (3, ends[2:])):
                wait_until(lambda n=begun: len(worker.noted("begin")) == n, "it works", limit=60)  # type: ignore[misc]
                assert not any(is_idle(asked) for _ in range(LOOKS))
                released[0].touch()
            wait_until(lambda: is_idle(asked), "it is idle", limit=60)
            assert told(asked).started == before + 3

    def test_a_pool_that_grows_and_shrinks(self, tmp_path: Path, redis_url: str) -> None:
        """With ``--autoscale`` it has as many processes as it needs: no task is lost sight of."""
        grows = ["--autoscale", "3,1"]
        with Worker(tmp_path, redis_url, pool="prefork", command_line=grows) as worker:
            asked = probe(worker)
            for done in (4, 8):
                ends = [worker.send() for _ in range(4)]
                wait_until(lambda n=done: len(worker.noted("begin")) >= n - 1, "all work", limit=60)  # type: ignore[misc]
                assert not any(is_idle(asked) for _ in range(LOOKS))
                for end in ends:
                    end.touch()
                wait_until(lambda n=done: len(worker.noted("end")) == n, "they end", limit=60)  # type: ignore[misc]
                wait_until(lambda: is_idle(asked), "it is idle", limit=60)

    def test_a_task_is_to_be_tried_again(self, tmp_path: Path, redis_url: str) -> None:
        """A task that is retried goes back to the broker: it is no work of a worker's then."""
        with Worker(tmp_path, redis_url) as worker, worker.client() as client:
            asked = probe(worker)
            end = worker.send("shop.try_again", 3600)
            wait_until(lambda: worker.noted("begin"), "it works", limit=60)
            client.control.cancel_consumer("celery", destination=[worker.name], reply=True)
            assert not any(is_idle(asked) for _ in range(LOOKS))
            end.touch()
            wait_until(lambda: is_idle(asked), "it is idle", limit=60)
            assert worker.noted("end") == [str(end)]

    def test_terminated_and_not_dead(self, tmp_path: Path, redis_url: str) -> None:
        """A task that survives its termination is in no list, and not known to have ended."""
        with (
            Worker(tmp_path, redis_url, pool="prefork", slots=SLOTS) as worker,
            worker.client() as client,
        ):
            asked = probe(worker)
            told(asked)
            task = client.send_task("shop.clean_up", [str(tmp_path / "end")])
            wait_until(lambda: not told(asked).idle, "it is told", limit=60)
            client.control.revoke(task.id, terminate=True, signal="SIGUSR1")
            wait_until(lambda: worker.noted("told"), "it was told to stop", limit=60)
            assert f"task {task.id} was terminated" in refusal(asked, "was terminated")
            assert not any(is_idle(asked) for _ in range(LOOKS))
            (tmp_path / "end").touch()
            wait_until(lambda: worker.noted("end"), "it has ended", limit=60)
            others = {str(tmp_path / f"more-{number}") for number in range(SLOTS)}
            for other in others:  # so each process takes another task
                client.send_task("shop.pack", [other])
            wait_until(lambda: others <= set(worker.noted("begin")), "all work", limit=60)
            wait_until(lambda: not told(asked).idle, "it tells again", limit=60)
            for other in others:
                Path(other).touch()
            wait_until(lambda: is_idle(asked), "it is idle", limit=60)

    @pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
    def test_terminated_and_dead(self, tmp_path: Path, redis_url: str, how: str) -> None:
        """Once the process has died of the signal, the drain goes on."""
        with Worker(tmp_path, redis_url, pool="prefork") as worker, worker.client() as client:
            asked = probe(worker)
            told(asked)
            task = client.send_task("shop.pack", [str(tmp_path / "never")])
            wait_until(lambda: not told(asked).idle, "it is told", limit=60)
            client.control.revoke(task.id, terminate=True, signal=how)
            wait_until(lambda: is_idle(asked), "it is idle", limit=60)
            assert not worker.noted("end")

    def test_revoked_at_work_and_finished(self, tmp_path: Path, redis_url: str) -> None:
        """Revoking alone leaves a task at work alone: it counts to its end, and not longer."""
        with Worker(tmp_path, redis_url, pool="prefork") as worker, worker.client() as client:
            asked = probe(worker)
            task = client.send_task("shop.pack", [str(tmp_path / "end")])
            wait_until(lambda: worker.noted("begin"), "it works", limit=60)
            wait_until(lambda: not told(asked).idle, "it is told", limit=60)
            client.control.revoke(task.id, reply=True, destination=[worker.name])
            assert not any(is_idle(asked) for _ in range(LOOKS))
            (tmp_path / "end").touch()
            wait_until(lambda: is_idle(asked), "it is idle", limit=60)
            assert worker.noted("end")

    def test_a_task_runs_out_of_time(self, tmp_path: Path, redis_url: str) -> None:
        """A hard limit kills the process; only then is the worker idle."""
        with Worker(tmp_path, redis_url, pool="prefork") as worker:
            asked = probe(worker)
            told(asked)
            worker.send("shop.clean_up", time_limit=5, soft_time_limit=2)
            wait_until(lambda: worker.noted("told"), "it was told to stop", limit=60)
            process = int(worker.diary.read_text().splitlines()[0].split()[2])
            wait_until(lambda: is_idle(asked), "it is idle", limit=60)
            assert state(process) in "ZX"
            assert not worker.noted("end")


class TestConnection:
    def test_redis_cuts_the_worker_off(self, tmp_path: Path, redis: Redis, redis_url: str) -> None:
        """A task goes on while its worker reconnects, and is told of as before."""
        with Worker(tmp_path, redis_url, pool="prefork") as worker:
            asked = probe(worker)
            end = worker.send()
            wait_until(lambda: worker.noted("begin"), "it works", limit=60)
            redis.call("CLIENT", "KILL", "TYPE", "normal")
            redis.call("CLIENT", "KILL", "TYPE", "pubsub")
            assert not any(is_idle(asked) for _ in range(LOOKS))
            wait_until(lambda: told(asked).in_flight["tasks"] == 1, "it is told", limit=60)
            end.touch()
            wait_until(lambda: is_idle(asked), "it is idle", limit=60)
            assert worker.noted("end")

    def test_rabbitmq_cuts_the_worker_off(self, tmp_path: Path) -> None:
        """So with RabbitMQ, which gives a task that is acknowledged late to the worker anew."""
        rabbit = shared()
        with own_host(rabbit) as host:
            url = f"amqp://guest:guest@127.0.0.1:{rabbit.port}/{host}"
            with Worker(tmp_path, url, pool="prefork") as worker:
                asked = probe(worker)
                end = worker.send("shop.pack_late")
                wait_until(lambda: worker.noted("begin"), "it works", limit=60)
                found = rabbit.call("GET", f"/api/vhosts/{host}/connections")
                assert isinstance(found, list)
                for one in found:
                    rabbit.call("DELETE", f"/api/connections/{one['name'].replace(' ', '%20')}")
                assert not any(is_idle(asked) for _ in range(LOOKS))
                end.touch()
                wait_until(lambda: is_idle(asked), "it is idle", limit=60)
                assert len(worker.noted("begin")) == len(worker.noted("end"))

    def test_a_worker_that_stops_tells_nothing(self, tmp_path: Path, redis_url: str) -> None:
        """A warm shutdown goes on with the work in hand; nobody answers for it any more."""
        with Worker(tmp_path, redis_url, pool="threads") as worker:
            asked = probe(worker)
            end = worker.send()
            wait_until(lambda: worker.noted("begin"), "it works", limit=60)
            told(asked)
            worker.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "Warm shutdown" in worker.tail(), "it stops", limit=60)
            assert not any(is_idle(asked) for _ in range(2))
            assert worker.process.poll() is None
            end.touch()
            wait_until(lambda: worker.process.poll() is not None, "it has ended", limit=60)
            assert not is_idle(asked)
            assert worker.noted("end")
