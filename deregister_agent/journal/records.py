"""How drains and announcements are spelt in the journal."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from deregister_agent.errors import JournalError
from deregister_agent.model import (
    Drain,
    DrainKind,
    Event,
    Instance,
    OnDeadline,
    Outcome,
    Phase,
    Process,
)


def _process(record: Mapping[str, Any] | None) -> Process | None:
    if record is None:
        return None
    pids = tuple((int(pid), int(start)) for pid, start in record["pids"])
    return Process(**{**record, "pids": pids, "sockets": tuple(record["sockets"])})


@contextmanager
def _of_this_version(what: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError) as e:
        raise JournalError(
            f"the journal holds {what} that this program cannot read ({e}): "
            "run the version that wrote it, or start with a new journal"
        ) from e


def drain(text: str) -> Drain:
    """Return the drain that *text* records. Raises JournalError if it records none."""
    with _of_this_version("a drain"):
        record = json.loads(text)
        record["phase"] = Phase(record["phase"])
        record["on_deadline"] = OnDeadline(record["on_deadline"])
        record["outcome"] = Outcome(record["outcome"]) if record["outcome"] else None
        record["process"] = _process(record["process"])
        record["kind"] = DrainKind(record.get("kind", DrainKind.DRAIN))
        record["vouched"] = tuple(record.get("vouched", ()))
        if "announced" in record:
            record["announced"] = Outcome(record["announced"]) if record["announced"] else None
        elif record["phase"] is Phase.DRAINED:  # of a version that did not write it down
            record["announced"] = record["outcome"]
        return Drain(**record)


def process(text: str) -> Process | None:
    """Return the process that *text* records. Raises JournalError if it records none."""
    with _of_this_version("a process"):
        return _process(json.loads(text))


def event(text: str) -> Event:
    """Return the announcement that *text* records. Raises JournalError if it records none."""
    with _of_this_version("an announcement"):
        record = json.loads(text)
        record["instance"] = Instance(**record["instance"])
        record["process"] = _process(record["process"])
        return Event(**record)
