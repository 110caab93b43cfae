"""A task for the shop that works on many messages at a time, with celery-batches."""

import importlib
from typing import Any


def add_to(app: Any) -> None:
    """Give the app the task shop.post, which works until the file of its last message is there."""
    batches = importlib.import_module("celery_batches")  # only some environments have it

    from tests.apps.celery_shop import work  # noqa: PLC0415 - that module imports this one

    @app.task(name="shop.post", base=batches.Batches, flush_every=2, flush_interval=1)  # type: ignore[untyped-decorator]
    def post(requests: Any) -> None:
        for request in requests:
            work(request.args[0])
