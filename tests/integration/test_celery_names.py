"""Which worker answers: of several with one name, and of several clusters, with real brokers."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.apps.celery_shop import Worker
from tests.integration.celery_stage import is_idle, probe, refusal, told
from tests.servers import python_packages
from tests.servers.child import wait_until
from tests.servers.rabbitmq import own_host, shared
from tests.servers.redis import Redis

SHARED = {"control_queue_exclusive": False}  # as older kombu had it
TWINS = "2 workers have that name, not one"


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with ExitStack() as stack:
        redis = stack.enter_context(Redis(tmp_path_factory.mktemp("redis")))
        rabbit = shared()
        host = stack.enter_context(own_host(rabbit))
        amqp = f"amqp://guest:guest@127.0.0.1:{rabbit.port}/{quote(host, safe='')}"
        yield {"redis": f"{redis.url}/0", "rabbitmq": amqp}


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest, brokers: dict[str, str]) -> str:
    return brokers[request.param]


def folders(at: Path) -> tuple[Path, Path]:
    for name in ("one", "two"):
        (at / name).mkdir()
    return at / "one", at / "two"


class TestOneName:
    def test_the_second_comes_later(self, tmp_path: Path, broker: str) -> None:
        """Whoever comes up after the first reading, with work, is noticed, and so is its end."""
        here, there = folders(tmp_path)
        with Worker(here, broker, name="late@here", settings=SHARED) as one:
            asked = probe(one)
            assert told(asked).idle
            with Worker(there, broker, name="late@here", settings=SHARED) as two:
                two.send()
                one.send()
                wait_until(lambda: two.noted("begin") or one.noted("begin"), "one works")
                refusal(asked, TWINS)
                assert not any(is_idle(asked) for _ in range(6))
                for folder in (here, there):
                    (folder / "late@here-0").touch()
            wait_until(lambda: is_idle(asked), "the name is one worker's again", limit=60)

    def test_the_second_hangs(self, tmp_path: Path, brokers: dict[str, str]) -> None:
        """Where the broker knows who listens, one that does not answer is noticed as well."""
        here, there = folders(tmp_path)
        broker = brokers["rabbitmq"]
        with (
            Worker(here, broker, name="frozen@here", settings=SHARED) as one,
            Worker(there, broker, name="frozen@here", settings=SHARED) as two,
        ):
            two.signal(signal.SIGSTOP)
            asked = probe(one)
            assert not any(is_idle(asked) for _ in range(6))
            refusal(asked, "the broker has 2 who listen to that name")

    def test_newer_workers_refuse_it_themselves(
        self, tmp_path: Path, brokers: dict[str, str]
    ) -> None:
        """On AMQP a second worker of one name ends by itself, and the first is told of."""
        here, there = folders(tmp_path)
        with Worker(here, brokers["rabbitmq"], name="lone@here") as one:
            asked = probe(one)
            assert told(asked).idle
            with pytest.raises(AssertionError, match="it ended by itself"):
                Worker(there, brokers["rabbitmq"], name="lone@here").close()
            assert told(asked).idle

    @pytest.mark.nightly
    def test_older_workers(self, tmp_path: Path, broker: str) -> None:
        """The same with a Celery and a kombu of 2023, for which a shared name was nothing odd."""
        packages = python_packages.folder("celery-5.3")
        here, there = folders(tmp_path)
        with (
            Worker(here, broker, name="old@here", packages=packages) as one,
            Worker(there, broker, name="old@here", packages=packages),
        ):
            refusal(probe(one), TWINS)


def test_another_cluster_on_the_same_broker(tmp_path: Path, broker: str) -> None:
    """With another control_exchange, a worker of the same name is somebody else's."""
    here, there = folders(tmp_path)
    theirs = {"control_exchange": "theirs", "task_default_queue": "theirs"}
    with (
        Worker(here, broker, name="w@here") as ours,
        Worker(there, broker, name="w@here", settings=theirs) as other,
    ):
        other.send(queue="theirs")
        wait_until(lambda: other.noted("begin"), "the other one works")
        our_probe, their_probe = probe(ours), probe(other)
        assert told(our_probe).in_flight["tasks"] == 0
        assert told(their_probe).in_flight["tasks"] == 1
        other.finish()
        wait_until(lambda: is_idle(their_probe), "it has ended")


def test_a_redis_with_databases(tmp_path: Path, brokers: dict[str, str]) -> None:
    """In another database of the same Redis, a worker of the same name is somebody else's."""
    here, there = folders(tmp_path)
    with (
        Worker(here, brokers["redis"], name="w@here") as ours,
        Worker(there, brokers["redis"].removesuffix("0") + "1", name="w@here") as other,
    ):
        other.send()
        wait_until(lambda: other.noted("begin"), "the other one works")
        assert told(probe(ours)).idle
        other.finish()
