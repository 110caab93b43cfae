"""A step for the shop's workers that takes messages by itself, as Celery's guide shows."""

from typing import Any

from celery import bootsteps  # type: ignore[import-untyped]
from kombu.entity import Queue
from kombu.messaging import Consumer

CLASSES: tuple[Any, Any] = (Queue, Consumer)  # which say nothing of their types
QUEUE = CLASSES[0]("notes", routing_key="notes")


class NotesStep(bootsteps.ConsumerStep):  # type: ignore[misc]
    """Takes notes, and acknowledges them at once."""

    def get_consumers(self, channel: Any) -> list[Any]:
        return [CLASSES[1](channel, queues=[QUEUE], callbacks=[lambda body, note: note.ack()])]


class Heartbeat(bootsteps.StartStopStep):  # type: ignore[misc]
    """Takes no messages."""


def add_to(app: Any) -> None:
    """Let each worker of the app take notes."""
    app.steps["consumer"] |= {f"{__name__}:{NotesStep.__name__}", Heartbeat}
