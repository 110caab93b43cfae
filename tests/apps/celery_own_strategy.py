"""A task for the shop that gives messages to a thread of its own, past Celery's requests."""

import threading
from collections.abc import Callable
from typing import Any


def in_a_thread(task: Any, app: Any, consumer: Any, **more: Any) -> Callable[..., None]:
    """Treat a message as no task of Celery's: acknowledge, and begin."""

    def handle(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **_: Any) -> None:
        arguments = message.payload[0]
        message.ack()
        threading.Thread(target=task.run, args=arguments).start()

    return handle


def add_to(app: Any) -> None:
    """Give the app the task celery.shop.wrap, which is named as Celery's own are."""
    from tests.apps.celery_shop import work  # noqa: PLC0415 - that module imports this one

    strategy = f"{__name__}:{in_a_thread.__name__}"
    app.task(name="celery.shop.wrap", Strategy=strategy)(work)
