"""What the celery probe is told: the app, one of its workers, and which tasks are in hand."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from deregister_agent.config.options import BackendOptions, Secret, Timeout

TaskState = Literal["active", "reserved", "scheduled"]
NonEmpty = Annotated[str, Field(min_length=1)]


def _with_active(value: tuple[TaskState, ...]) -> tuple[TaskState, ...]:
    if "active" not in value:
        raise ValueError("must have active in it: the tasks that are at work")
    return value


def _expanded(value: str) -> str:
    if re.search("%[hndiIp]", value):
        raise ValueError(
            "must be the name as 'celery status' shows it: %h and its like are for 'celery "
            "worker -n', which fills in what it finds on the worker's own host"
        )
    return value


class Options(BackendOptions):
    """One worker of a Celery app."""

    app: NonEmpty
    """The app, as after ``celery -A``."""
    worker: Annotated[NonEmpty, AfterValidator(_expanded)]
    """The worker's name, as ``celery status`` shows it: ``celery@web-1``."""
    python: Annotated[tuple[str, ...], Field(min_length=1)]
    """The Python that runs the app, with arguments if need be: the one of its virtual
    environment."""
    counts: Annotated[tuple[TaskState, ...], AfterValidator(_with_active)] = (
        "active",
        "reserved",
        "scheduled",
    )
    """Which tasks are in hand: active, and with it others. Reserved ones were prefetched and have
    not begun; scheduled ones wait for their time."""
    counted_elsewhere: tuple[NonEmpty, ...] = ()
    """Tasks, pools and consumer steps whose work is in none of Celery's lists, and is counted by
    another probe; ``*`` stands for any characters."""
    folder: Path | None = None
    """The directory in which the app can be imported; the agent's own, unless it is given."""
    env: dict[str, str | Secret] = Field(default_factory=dict)
    """Environment variables that the app's settings need: a text, or a table that says where a
    secret is."""
    reply_timeout: Timeout = 1.0
    """How long the worker may take for each of its replies, in seconds."""
    timeout: Timeout = 10.0
    """The limit of one read, in seconds, the start of Python and the import of the app
    included."""
