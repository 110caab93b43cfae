"""A consumer of RabbitMQ for tests, which takes, keeps and acknowledges as it is told."""

from types import TracebackType
from typing import Self
from urllib.parse import quote

import pika
from pika.adapters.blocking_connection import BlockingChannel

from tests.servers.rabbitmq import RabbitMQ


class Consumer:
    """One connection with one channel; its messages are those of the queue *orders*."""

    def __init__(self, rabbit: RabbitMQ, name: str = "web-1", *, host: str = "/") -> None:
        self.rabbit, self.name, self.host = rabbit, name, host
        self.held: list[int] = []
        rabbit.call("PUT", f"/api/queues/{quote(host, safe='')}/orders", {})
        self.open()

    def open(self) -> None:
        """Connect."""
        parameters = pika.ConnectionParameters(
            "127.0.0.1",
            self.rabbit.port,
            self.host,
            heartbeat=0,
            client_properties={"connection_name": self.name},
        )
        self._connection = pika.BlockingConnection(parameters)
        self.channel = self._connection.channel()

    def new_channel(self) -> None:
        """Close the channel and open another; what is not acknowledged goes back to the queue."""
        self.held.clear()
        self.channel.close()
        self.channel = self._connection.channel()

    def more(self) -> BlockingChannel:
        """Open another channel of the same connection."""
        return self._connection.channel()

    def wait(self) -> None:
        """Let whatever has come in be taken."""
        self._connection.process_data_events(1)

    def close(self) -> None:
        """Disconnect; what is not acknowledged goes back to the queue."""
        self.held.clear()
        if self._connection.is_open:
            self._connection.close()

    def take(self, count: int) -> None:
        """Take or acknowledge messages until *count* are held."""
        while len(self.held) < count:
            self.channel.basic_publish("", "orders", b"x")
            method, _, _ = self.channel.basic_get("orders")
            if method is not None and method.delivery_tag is not None:
                self.held.append(method.delivery_tag)
        while len(self.held) > count:
            self.channel.basic_ack(self.held.pop(0))
        self._connection.process_data_events(0)

    def consume(self, *, acknowledges: bool = True) -> None:
        """Have messages delivered, and keep them."""
        self.channel.basic_qos(prefetch_count=5)
        self.channel.basic_consume(
            "orders",
            lambda _, method, *__: self.held.append(method.delivery_tag),
            consumer_tag="me",
            auto_ack=not acknowledges,
        )

    def wait_for(self, count: int) -> None:
        """Wait until *count* messages have been delivered."""
        while len(self.held) < count:
            self._connection.process_data_events(1)

    def cancel(self) -> None:
        """Take no more."""
        self.channel.basic_cancel("me")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
