"""What is in none of Celery's lists, and workers that tell nothing: each with a real worker."""

from pathlib import Path

import pytest

from deregister_agent.errors import ProbeError
from tests.apps.celery_shop import Worker
from tests.integration.celery_stage import is_idle, probe, refusal, told
from tests.servers import python_packages
from tests.servers.child import wait_until

APPS = "tests.apps"
STEP = f"{APPS}.celery_consumer_step.NotesStep"
POOL = f"{APPS}.celery_own_pool:HastyPool"


class TestUnlisted:
    def test_batches(self, tmp_path: Path, redis_url: str) -> None:
        """Tasks of celery-batches work, and wait for more, in no list: not known."""
        packages = python_packages.folder("celery-5.6")
        more = [f"{APPS}.celery_batches_task"]
        with Worker(tmp_path, redis_url, packages=packages, more=more, pool="prefork") as worker:
            asked = probe(worker)
            ends = [worker.send("shop.post") for _ in range(2)]
            wait_until(lambda: worker.noted("begin"), "the batch is at work")
            assert "shop.post has a Strategy of its own" in refusal(asked, "['shop.post']")
            assert not is_idle(asked)
            told_elsewhere = probe(worker, counted_elsewhere=["shop.p?st", "shop.po*"])
            assert told(told_elsewhere).idle  # which is why it has to be counted elsewhere
            assert not worker.noted("end")
            for end in ends:
                end.touch()

    def test_a_strategy_of_ones_own(self, tmp_path: Path, redis_url: str) -> None:
        """So of any other strategy, also where the task is named as Celery's own are."""
        with Worker(tmp_path, redis_url, more=[f"{APPS}.celery_own_strategy"]) as worker:
            asked = probe(worker)
            end = worker.send("celery.shop.wrap")
            wait_until(lambda: worker.noted("begin"), "it is at work")
            assert "celery.shop.wrap has a Strategy of its own" in refusal(asked, "Strategy")
            assert not is_idle(asked)
            end.touch()

    def test_a_pool_of_ones_own(self, tmp_path: Path, redis_url: str) -> None:
        """A pool that is none of Celery's may call a task ended that has just begun."""
        own = {"CELERY_CUSTOM_WORKER_POOL": POOL}
        with Worker(tmp_path, redis_url, pool="custom", environment=own) as worker:
            asked = probe(worker)
            end = worker.send()
            wait_until(lambda: worker.noted("begin"), "it is at work")
            assert "its pool is " + POOL in refusal(asked, "its pool is")
            assert not is_idle(asked)
            assert told(probe(worker, counted_elsewhere=[POOL])).idle
            end.touch()

    def test_a_consumer_step(self, tmp_path: Path, redis_url: str) -> None:
        """A step that takes messages is named; one that does not is no hindrance."""
        with Worker(tmp_path, redis_url, more=[f"{APPS}.celery_consumer_step"]) as worker:
            assert f"the consumer step {STEP}," in refusal(probe(worker), "consumer step")
            assert told(probe(worker, counted_elsewhere=[STEP])).idle

    def test_a_task_of_celerys_name_with_a_rate_limit(self, tmp_path: Path, redis_url: str) -> None:
        """A limit that was set by remote control counts, and so does one of Celery's own tasks."""
        with Worker(tmp_path, redis_url) as worker, worker.client() as client:
            asked = probe(worker)
            assert told(asked).idle
            client.control.rate_limit("celery.chunks", "1/h", destination=[worker.name], reply=True)
            assert "'celery.chunks' has a rate limit" in refusal(asked, "rate limit")
            assert told(probe(worker, counts=["active"])).idle

    def test_rate_limits_that_are_not_in_force(self, tmp_path: Path, redis_url: str) -> None:
        """Where the worker has them disabled, nothing waits for one."""
        settings = {"worker_disable_rate_limits": True}
        with Worker(tmp_path, redis_url, rate="1/h", settings=settings) as worker:
            ends = [worker.send() for _ in range(3)]
            asked = probe(worker)
            wait_until(lambda: told(asked).in_flight["tasks"] == 3, "all three work", limit=60)
            for end in ends:
                end.touch()
            wait_until(lambda: told(asked).idle, "it is idle", limit=60)


class TestSilence:
    def test_remote_control_is_off_in_the_settings(self, tmp_path: Path, redis_url: str) -> None:
        """The reason names the setting."""
        settings = {"worker_enable_remote_control": False}
        with Worker(tmp_path, redis_url, settings=settings) as worker:
            end = worker.send()
            wait_until(lambda: worker.noted("begin"), "it is at work")
            asked = probe(worker)
            assert "worker_enable_remote_control off" in refusal(asked, "did not reply to stats")
            end.touch()

    def test_remote_control_is_off_on_the_command_line(
        self, tmp_path: Path, redis_url: str
    ) -> None:
        """Where only the worker knows of it, the reason says that it may be so."""
        off = ["--", "worker.enable_remote_control=no"]
        with Worker(tmp_path, redis_url, command_line=off) as worker:
            why = refusal(probe(worker), "did not reply to stats")
            assert "started with remote control off" in why

    def test_a_solo_worker_at_work(self, tmp_path: Path, redis_url: str) -> None:
        """It cannot answer while it works; what it has prefetched is told before and after."""
        with Worker(tmp_path, redis_url, pool="solo") as worker:
            asked = probe(worker)
            assert told(asked).idle
            end = worker.send()
            wait_until(lambda: worker.noted("begin"), "it is at work")
            with pytest.raises(ProbeError, match="as a solo worker is while it works"):
                asked.read(0.0)
            end.touch()
            wait_until(lambda: is_idle(asked), "it is idle", limit=60)
            assert worker.noted("end")
