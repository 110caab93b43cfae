"""
Apps with work that is held open, and the probes that should tell exactly of it.

For tests and measurements of a whole drain: each stand is one real source (an app, a broker,
the kernel) with a piece of work of each kind that the source knows.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Counts = Mapping[str, int]


@dataclass(frozen=True)
class Stand:
    """One app whose work begins and ends as it is told, and the probe's table for it."""

    table: Mapping[str, Any]
    port: int
    in_hand: Counts  # what the probe says while the work is held
    begin: Callable[[], object]  # returns when the app has it in hand
    end: Callable[[], float]  # returns when it has ended, or a moment before: time.monotonic()
    counts: Callable[[], Counts]  # what the source itself says, past the probe
    late: float = 0.0  # seconds that the probe is configured to distrust its source


Opened = AbstractContextManager[Stand]


def stands() -> Mapping[str, Callable[[Path], Opened]]:
    """Return how each stand is set up in a folder of its own, by what it is."""
    from tests.held_work import brokers, local, web  # noqa: PLC0415 - these need Stand

    return {
        "http_json, Flask on gunicorn": web.flask_json,
        "http_json, FastAPI on uvicorn": web.fastapi_json,
        "prometheus, Flask on gunicorn": web.flask_metrics,
        "prometheus, FastAPI on uvicorn": web.fastapi_metrics,
        "grpc": local.grpc,
        "rabbitmq": brokers.rabbitmq,
        "redis_stream": brokers.redis_stream,
        "pulsar (answers of a stand-in)": brokers.pulsar,
        "celery": brokers.celery,
        "command": local.command,
        "tcp, all connections": local.tcp,
        "tcp, with still": local.tcp_still,
    }
