"""Whose consumers and messages they are: replies, streams, other protocols, kinds of queues."""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rstream import Consumer as StreamConsumer

from deregister_agent.demo.stage import free_ports
from deregister_agent.errors import ProbeError
from deregister_agent.model import Outcome, StopRequest
from deregister_agent.probes.rabbitmq import warnings
from tests.apps.rabbit_consumer import Consumer
from tests.integration.rabbit_stage import (
    INSTANCE,
    draining,
    error,
    options,
    probe,
    started,
    told,
)
from tests.loops import until
from tests.servers.child import wait_until
from tests.servers.rabbitmq import RabbitMQ

pytestmark = pytest.mark.usefixtures("rabbit_password")

IDLE = {"messages": 0, "consumers": 0}


def ignore(*_: object) -> None:
    """Take a message, and do nothing with it."""


class Replies:
    """The consumer of an app's replies, as people set one up: *way* is a row of WAYS."""

    def __init__(self, consumer: Consumer, way: str) -> None:
        self.channel = consumer.channel if way == "on the same channel" else consumer.more()
        fixed = way == "fixed and acknowledged"
        declared = self.channel.queue_declare(
            "replies.web-1" if fixed else "", exclusive=not fixed, auto_delete=not fixed
        )
        self.queue = str(declared.method.queue)
        self.tag = self.channel.basic_consume(self.queue, ignore, auto_ack=not fixed)


WAYS = ("on a channel of its own", "on the same channel", "fixed and acknowledged")


class TestQueues:
    @pytest.mark.parametrize("way", WAYS)
    def test_a_drain_with_a_reply_consumer(
        self, tmp_path: Path, rabbit: RabbitMQ, vhost: str, way: str
    ) -> None:
        """It ends though the app goes on waiting for replies, and not while it consumes orders."""
        with Consumer(rabbit, host=vhost) as consumer:
            replies = Replies(consumer, way)
            consumer.consume()
            asked = probe(rabbit.url, lag=rabbit.lag, vhost=vhost, queues=["orders"])
            every = probe(rabbit.url, lag=rabbit.lag, vhost=vhost)
            wait_until(lambda: told(asked) == {"messages": 0, "consumers": 1}, "one works")
            wait_until(lambda: told(every) == {"messages": 0, "consumers": 2}, "two consume")
            with draining(tmp_path, asked) as (loop, _):
                loop.stop_traffic(StopRequest())
                wait_until(
                    lambda: loop.status().blocking == ("1 consumers in flight (rabbitmq)",),
                    "it waits for the consumer of orders",
                )
                consumer.cancel()
                drain = until(loop, lambda drain: drain.outcome is not None, "an end")
                assert drain.outcome is Outcome.DRAINED
            assert told(every) == {"messages": 0, "consumers": 1}
            replies.channel.basic_cancel(replies.tag)

    def test_direct_replies(self, rabbit: RabbitMQ, vhost: str) -> None:
        """The pseudo-queue of direct replies is no consumer, with and without ``queues``."""
        with Consumer(rabbit, host=vhost) as consumer:
            consumer.more().basic_consume("amq.rabbitmq.reply-to", ignore, auto_ack=True)
            for more in ({}, {"queues": ["orders"]}):
                asked = probe(rabbit.url, lag=rabbit.lag, vhost=vhost, **more)
                wait_until(lambda a=asked: told(a) == IDLE, "it has no consumer")  # type: ignore[misc]

    def test_replies_are_no_new_work(self, rabbit: RabbitMQ, vhost: str) -> None:
        """What comes to a consumer that is left out is no work; what is asked for there is."""
        with Consumer(rabbit, host=vhost) as consumer:
            replies = Replies(consumer, "on a channel of its own")
            asked = probe(rabbit.url, lag=rabbit.lag, vhost=vhost, queues=["orders"])
            every = probe(rabbit.url, lag=rabbit.lag, vhost=vhost)
            wait_until(lambda: started(every) == 0, "nothing was begun")
            assert started(asked) == 0
            consumer.channel.basic_publish("", replies.queue, b"x")
            wait_until(lambda: started(every) == 1, "the reply shows")
            assert started(asked) == 0
            consumer.channel.basic_publish("", "orders", b"x")
            assert replies.channel.basic_get("orders", auto_ack=True)[0] is not None
            wait_until(lambda: started(asked) == 1, "the order shows")

    def test_what_is_not_acknowledged_always_counts(self, rabbit: RabbitMQ, vhost: str) -> None:
        """A message that the app holds is in hand, of whichever queue it is."""
        with Consumer(rabbit, host=vhost) as consumer:
            replies = Replies(consumer, "fixed and acknowledged")
            asked = probe(rabbit.url, lag=rabbit.lag, vhost=vhost, queues=["orders"])
            consumer.channel.basic_publish("", replies.queue, b"x")
            wait_until(lambda: told(asked) == {"messages": 1, "consumers": 0}, "it shows")

    def test_a_queue_that_nobody_has_seen(self, rabbit: RabbitMQ, vhost: str) -> None:
        """A mistyped name would leave out all work: unknown, until such a queue was there."""
        with Consumer(rabbit, host=vhost) as consumer:
            consumer.consume()
            for name in ("ordres", "order", "orders?", "Orders", "*.orders"):
                asked = probe(rabbit.url, lag=rabbit.lag, vhost=vhost, queues=["orders", name])
                assert f"is called {name!r}" in error(asked)
            asked = probe(rabbit.url, lag=rabbit.lag, vhost=vhost, queues=["ord*", "jobs-é [1]"])
            assert "is called 'jobs-é [1]'" in error(asked)
            consumer.channel.queue_declare("jobs-é [1]")
            wait_until(lambda: told(asked) == {"messages": 0, "consumers": 1}, "both were seen")
            consumer.channel.queue_delete("jobs-é [1]")
            assert told(asked) is not None

    def test_a_user_who_only_watches(self, rabbit: RabbitMQ, vhost: str) -> None:
        """RabbitMQ shows queues only to who has a permission in their virtual host; even none."""
        rabbit.call("PUT", "/api/users/watcher", {"password": "guest", "tags": "monitoring"})
        with Consumer(rabbit, host=vhost) as consumer:
            consumer.consume()
            asked = probe(rabbit.url, lag=rabbit.lag, user="watcher", queues=["orders"])
            assert "give the user a permission in the virtual host" in error(asked)
            rights = {"configure": "", "write": "", "read": ""}
            rabbit.call("PUT", f"/api/permissions/{vhost}/watcher", rights)
            wait_until(lambda: (told(asked) or {}).get("consumers") == 1, "it is told")

    def test_who_cannot_be_asked(self) -> None:
        """Where RabbitMQ does not answer, check-config says what it could not tell."""
        (port,) = free_ports(1)
        with pytest.raises(ProbeError, match=r"cannot tell which consumers of .* leave out"):
            warnings(options(f"http://127.0.0.1:{port}", queues=["orders"]), INSTANCE)

    def test_what_is_left_out_is_said(self, rabbit: RabbitMQ, vhost: str) -> None:
        """check-config names the queues whose consumers are not waited for."""
        more: dict[str, Any] = {"lag": rabbit.lag, "vhost": vhost, "queues": ["orders"]}
        with Consumer(rabbit, host=vhost) as consumer:
            consumer.consume()
            (said,) = warnings(options(rabbit.url, **more), INSTANCE)
            assert said.startswith(
                "consumers of other queues than orders are not waited for: there are none now;"
            )
            replies = Replies(consumer, "fixed and acknowledged")
            named = f"those of {replies.queue};"
            wait_until(
                lambda: named in warnings(options(rabbit.url, **more), INSTANCE)[0], "it is named"
            )
            assert not warnings(options(rabbit.url, vhost=vhost), INSTANCE)


class TestKindsOfConsumers:
    def test_several_channels(self, rabbit: RabbitMQ, vhost: str) -> None:
        """The channels of a connection are added up."""
        with Consumer(rabbit, host=vhost) as consumer:
            asked = probe(rabbit.url, lag=rabbit.lag, vhost=vhost)
            for channel in (consumer.channel, consumer.more(), consumer.more()):
                channel.basic_publish("", "orders", b"x")
                channel.basic_consume("orders", ignore)
                consumer.wait()
            wait_until(lambda: told(asked) == {"messages": 3, "consumers": 3}, "all are told")

    def test_without_a_limit(self, rabbit: RabbitMQ, vhost: str) -> None:
        """With prefetch 0 all of the queue is in hand, also after the consumer was cancelled."""
        with Consumer(rabbit, host=vhost) as consumer:
            asked = probe(rabbit.url, lag=rabbit.lag, vhost=vhost)
            for _ in range(200):
                consumer.channel.basic_publish("", "orders", b"x")
            tag = consumer.channel.basic_consume("orders", ignore)
            wait_until(lambda: told(asked) == {"messages": 200, "consumers": 1}, "all are told")
            consumer.wait()  # pika gives back what it has not handed to the app
            consumer.channel.basic_cancel(tag)
            wait_until(lambda: told(asked) == {"messages": 200, "consumers": 0}, "none is lost")

    @pytest.mark.parametrize("kind", ["quorum", "stream"])
    def test_other_queues(self, rabbit: RabbitMQ, vhost: str, kind: str) -> None:
        """Replicated queues and streams count by AMQP 0-9-1 like others."""
        with Consumer(rabbit, host=vhost) as consumer:
            asked = probe(rabbit.url, lag=rabbit.lag, vhost=vhost)
            channel = consumer.more()
            channel.queue_declare("jobs", durable=True, arguments={"x-queue-type": kind})
            channel.basic_qos(prefetch_count=10)
            tag = channel.basic_consume("jobs", ignore)
            channel.basic_publish("", "jobs", b"x")
            wait_until(lambda: told(asked) == {"messages": 1, "consumers": 1}, "it is told")
            consumer.wait()
            channel.basic_cancel(tag)
            wait_until(lambda: told(asked) == {"messages": 1, "consumers": 0}, "it is still held")

    def test_one_that_waits_for_its_turn(self, rabbit: RabbitMQ, vhost: str) -> None:
        """With a single active consumer, one that waits may be the next at any moment."""
        with Consumer(rabbit, "web-1", host=vhost) as mine, Consumer(
            rabbit, "web-2", host=vhost
        ) as other:  # fmt: skip
            asked = probe(rabbit.url, lag=rabbit.lag, vhost=vhost, connection="web-1")
            keys = {"x-single-active-consumer": True}
            other.channel.queue_declare("jobs", durable=True, arguments=keys)
            other.channel.basic_consume("jobs", ignore)
            tag = mine.channel.basic_consume("jobs", ignore)
            wait_until(lambda: told(asked) == {"messages": 0, "consumers": 1}, "it may be next")
            mine.channel.basic_cancel(tag)
            wait_until(lambda: told(asked) == IDLE, "it is no more")


@pytest.fixture(scope="module")
def many_doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """Give a RabbitMQ that speaks MQTT, STOMP and its stream protocol as well."""
    plugins = ("rabbitmq_stream", "rabbitmq_mqtt", "rabbitmq_stomp")
    with RabbitMQ(tmp_path_factory.mktemp("doors"), plugins=plugins) as rabbit:
        yield rabbit


@contextmanager
def stream_consumer(rabbit: RabbitMQ, name: str) -> Iterator[None]:
    """Consume a stream by the plugin's protocol, with connections of that name."""

    async def consume() -> StreamConsumer:
        port = rabbit.doors["rabbitmq_stream"]
        consumer = StreamConsumer(
            "127.0.0.1", port, username="guest", password="guest", connection_name=name
        )
        await consumer.start()
        await consumer.create_stream("events", exists_ok=True)
        await consumer.subscribe("events", ignore)
        return consumer

    with asyncio.Runner() as runner:
        consumer = runner.run(consume())
        try:
            yield
        finally:
            runner.run(consumer.close())


@contextmanager
def stomp(rabbit: RabbitMQ) -> Iterator[Callable[[], object]]:
    """Hold a message by STOMP; give what acknowledges it and takes no more."""
    with socket.create_connection(("127.0.0.1", rabbit.doors["rabbitmq_stomp"]), 10) as link:
        link.sendall(b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\0")
        link.sendall(b"SEND\ndestination:/queue/by-stomp\n\nhello\0")
        link.sendall(b"SUBSCRIBE\nid:0\ndestination:/queue/by-stomp\nack:client-individual\n\n\0")
        heard = b""
        while b"hello\0" not in heard:
            heard += link.recv(4096)
        (ack,) = (line[4:] for line in heard.split(b"\n") if line.startswith(b"ack:"))
        yield lambda: link.sendall(b"ACK\nid:" + ack + b"\n\n\0UNSUBSCRIBE\nid:0\n\n\0")


@contextmanager
def mqtt(rabbit: RabbitMQ) -> Iterator[Callable[[], object]]:
    """
    Hold a message by MQTT 3.1.1, QoS 1; give what acknowledges it and says goodbye.

    RabbitMQ keeps the consumer of a subscription that has ended as long as its connection.
    """

    def text(value: bytes) -> bytes:
        return struct.pack(">H", len(value)) + value

    def packet(kind: int, *parts: bytes) -> bytes:
        body = b"".join(parts)
        return bytes([kind, len(body)]) + body

    with socket.create_connection(("127.0.0.1", rabbit.doors["rabbitmq_mqtt"]), 10) as link:
        names = (text(b"web-1"), text(b"guest"), text(b"guest"))
        link.sendall(packet(0x10, text(b"MQTT"), b"\x04\xc2\0\0", *names))
        link.sendall(packet(0x82, b"\0\1", text(b"jobs"), b"\1"))
        link.sendall(packet(0x32, text(b"jobs"), b"\0\2", b"hello"))
        heard = b""
        while b"hello" not in heard:
            heard += link.recv(4096)
        number = heard[heard.index(text(b"jobs")) + 6 :][:2]
        yield lambda: link.sendall(packet(0x40, number) + packet(0xE0))


class TestOtherProtocols:
    def test_a_stream_of_another_app(self, many_doors: RabbitMQ) -> None:
        """A consumer without a channel is known by its connection, and is not the app's."""
        asked = probe(many_doors.url, lag=many_doors.lag, connection="web-1*")
        every = probe(many_doors.url, lag=many_doors.lag)
        with Consumer(many_doors) as consumer, stream_consumer(many_doors, "web-2"):
            consumer.take(1)
            wait_until(lambda: (told(asked) or {}).get("messages") == 1, "it is told")
            consumer.take(0)
            wait_until(lambda: told(asked) == IDLE, "the stream is another's")
            consumers = many_doors.call("GET", "/api/consumers")
            assert isinstance(consumers, list)
            assert [c["channel_details"]["name"] for c in consumers] == [""]
            wait_until(lambda: "speaks stream" in error(every), "at the same address it may be")

    def test_a_stream_of_its_own(self, many_doors: RabbitMQ) -> None:
        """RabbitMQ does not tell what a stream's consumer has in hand, so it is unknown."""
        asked = probe(many_doors.url, lag=many_doors.lag, connection="web-1*", absent="zero")
        with stream_consumer(many_doors, "web-1-events"):
            wait_until(lambda: "speaks stream and has no channel" in error(asked), "it shows")
        wait_until(lambda: told(asked) == IDLE, "it has gone")

    @pytest.mark.parametrize("protocol", [stomp, mqtt], ids=["STOMP", "MQTT"])
    def test_by_channels(self, many_doors: RabbitMQ, protocol: Callable[[RabbitMQ], Any]) -> None:
        """Where other protocols have channels, their messages and consumers count."""
        asked = probe(many_doors.url, lag=many_doors.lag, absent="zero")
        with protocol(many_doors) as let_go:
            wait_until(lambda: told(asked) == {"messages": 1, "consumers": 1}, "it is told")
            assert (started(asked) or 0) > 0
            let_go()
            wait_until(lambda: told(asked) == IDLE, "it is idle")
