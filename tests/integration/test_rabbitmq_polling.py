"""Apps that ask RabbitMQ for messages: what they were given counts, though it is hardly in hand."""

from pathlib import Path

import pytest

from deregister_agent.model import Outcome, Phase, StopRequest
from tests.apps.rabbit_consumer import Consumer
from tests.integration.rabbit_stage import Poller, draining, error, probe, started, told
from tests.loops import eventually, until
from tests.servers.child import wait_until
from tests.servers.rabbitmq import RabbitMQ

pytestmark = pytest.mark.usefixtures("rabbit_password")

MANY = 20  # messages that are taken during the drain: many more than its statistics are late


def take(consumer: Consumer) -> None:
    """Ask for one message that is there, and acknowledge it."""
    consumer.take(1)
    consumer.take(0)


APPS: dict[str, dict[str, bool]] = {
    "acknowledged": {},
    "without acknowledgement": {"auto_ack": True},
    "a channel for each message": {"new_channels": True},
    "in vain": {"publishes": False},
}


@pytest.mark.parametrize("app", APPS)
def test_a_drain_waits_for_an_app_that_asks(
    tmp_path: Path, rabbit: RabbitMQ, vhost: str, app: str
) -> None:
    """Never "drained" while the app asks for messages, which it may be given at any moment."""
    asked = probe(rabbit.url, lag=rabbit.lag, vhost=vhost)
    with Poller(rabbit, vhost, **APPS[app]) as poller, draining(tmp_path, asked) as (loop, _):
        loop.stop_traffic(StopRequest())
        until(loop, lambda drain: drain.phase is Phase.DRAINING, "draining")
        began = poller.asked
        eventually(
            lambda: loop.drain.phase is not Phase.DRAINING or poller.asked >= began + MANY,
            f"{MANY} more are taken",
        )
        assert loop.drain.phase is Phase.DRAINING, f"after {poller.asked - began} messages"
        poller.end()
        assert until(loop, lambda d: d.outcome is not None, "an end").outcome is Outcome.DRAINED


class TestStarted:
    def test_each_message_counts_once(self, rabbit: RabbitMQ, vhost: str) -> None:
        """However it is taken: by asking or by a consumer, acknowledged or not."""
        asked = probe(rabbit.url, lag=rabbit.lag, vhost=vhost)
        with Consumer(rabbit, host=vhost) as consumer:
            wait_until(lambda: started(asked) == 0, "it has begun nothing")
            take(consumer)
            wait_until(lambda: started(asked) == 1, "the first shows")
            consumer.channel.basic_publish("", "orders", b"x")
            assert consumer.channel.basic_get("orders", auto_ack=True)[0] is not None
            wait_until(lambda: started(asked) == 2, "the second shows")
            for acknowledges in (True, False):
                consumer.consume(acknowledges=acknowledges)
                consumer.channel.basic_publish("", "orders", b"x")
                consumer.wait_for(1)
                consumer.cancel()
                if acknowledges:
                    consumer.take(0)
                consumer.held.clear()
            wait_until(lambda: started(asked) == 4, "the others show")

    def test_channels_that_close(self, rabbit: RabbitMQ, vhost: str) -> None:
        """What a closed channel was given is not forgotten, nor taken for that of the next."""
        asked = probe(rabbit.url, lag=rabbit.lag, vhost=vhost)
        with Consumer(rabbit, host=vhost) as consumer:
            known = [0]
            for _ in range(3):  # each is number 1 of the same connection, and is given one message
                take(consumer)
                wait_until(lambda: (started(asked) or 0) > known[-1], "it shows")
                known.append(started(asked) or 0)
                consumer.new_channel()
        wait_until(lambda: "it has no connection" in error(asked), "it has gone")

    def test_messages_that_go_back(self, rabbit: RabbitMQ, vhost: str) -> None:
        """What a closed channel had in hand is no longer in hand; taken again, it counts again."""
        asked = probe(rabbit.url, lag=rabbit.lag, vhost=vhost)
        with Consumer(rabbit, host=vhost) as consumer:
            consumer.take(2)
            wait_until(lambda: started(asked) == 2, "they show")
            consumer.new_channel()
            wait_until(
                lambda: (told(asked) or {}).get("messages") == 0, "they are back in the queue"
            )
            again = started(asked)
            assert again is not None
            assert again > 2
            take(consumer)
            wait_until(lambda: (started(asked) or 0) > again, "it shows")


def test_where_rabbitmq_counts_no_messages(tmp_path: Path) -> None:
    """With rates_mode = none whatever a channel does counts, so nothing is missed."""
    settings = {"management.rates_mode": "none"}
    with RabbitMQ(tmp_path, settings=settings) as blind, Consumer(blind) as consumer:
        asked = probe(blind.url, lag=blind.lag)
        wait_until(lambda: started(asked) is not None, "its channel shows")
        take(consumer)
        before = started(asked)
        assert before is not None
        wait_until(lambda: (started(asked) or 0) > before, "it shows")
        steady = {before}
        while len(steady) > 1 or steady == {before}:
            steady = {started(asked) or before for _ in range(3)}


def test_statistics_that_are_not_collected(tmp_path: Path) -> None:
    """Where RabbitMQ's statistics are switched off, nothing is known."""
    settings = {"management_agent.disable_metrics_collector": "true"}
    with RabbitMQ(tmp_path, settings=settings) as blind, Consumer(blind) as consumer:
        consumer.take(1)
        assert "statistics are switched off" in error(probe(blind.url))
