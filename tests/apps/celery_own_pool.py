"""A pool for the shop's workers that is none of Celery's: it says "done" before it has begun."""

import threading
import time
from typing import Any

from celery.concurrency.base import BasePool  # type: ignore[import-untyped]


class HastyPool(BasePool):  # type: ignore[misc]
    """Gives each task a thread, and tells Celery at once that the task has ended."""

    def on_apply(
        self,
        target: Any,
        args: Any = (),
        kwargs: Any = None,
        callback: Any = None,
        accept_callback: Any = None,
        **_: Any,
    ) -> None:
        accept_callback(1, time.monotonic())
        threading.Thread(target=target, args=args, kwargs=kwargs or {}).start()
        callback((0, None, 0.0))
