"""How the journal's records are spelt, and how they are shown to people."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from deregister_agent.errors import JournalError
from deregister_agent.model import Drain, Event, Instance, OnDeadline, Outcome, Phase, Process


def iso(wall: float | None) -> str | None:
    """Return *wall* as ISO 8601 in UTC, to the millisecond."""
    if wall is None:
        return None
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


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
        return Drain(**record)


def event(text: str) -> Event:
    """Return the announcement that *text* records. Raises JournalError if it records none."""
    with _of_this_version("an announcement"):
        record = json.loads(text)
        record["instance"] = Instance(**record["instance"])
        record["process"] = _process(record["process"])
        return Event(**record)


def shown(text: str, started: float, ended: float | None) -> dict[str, Any]:
    """Return a drain as the HTTP API shows it."""
    one = drain(text)
    return {
        "id": one.id,
        "instance": one.instance,
        "phase": one.phase,
        "outcome": one.outcome,
        "started": iso(started),
        "ended": iso(ended),
        "reason": one.reason,
        "asked_by": one.asked_by,
        "forced": one.forced,
    }


def line(row: tuple[int, str, str, str, float, str]) -> dict[str, Any]:
    """Return a line of the timeline as the HTTP API shows it."""
    number, kind, instance, of_drain, wall, detail = row
    return {
        "id": number,
        "kind": kind,
        "instance": instance,
        "drain": of_drain,
        "at": iso(wall),
        "detail": json.loads(detail),
    }
