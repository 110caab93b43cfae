"""The past as the HTTP API shows it: drains and the lines of their timelines."""

from typing import Any

from deregister_agent.host.clock import iso
from deregister_agent.journal.history import PastDrain, TimelineEvent


def shown_drain(past: PastDrain) -> dict[str, Any]:
    """Return a drain as JSON."""
    drain = past.drain
    return {
        "id": drain.id,
        "instance": drain.instance,
        "phase": drain.phase,
        "outcome": drain.outcome,
        "started": iso(past.started),
        "ended": None if past.ended is None else iso(past.ended),
        "reason": drain.reason,
        "asked_by": drain.asked_by,
        "forced": drain.forced,
    }


def shown_event(event: TimelineEvent) -> dict[str, Any]:
    """Return a line of a timeline as JSON."""
    return {
        "id": event.id,
        "kind": event.kind,
        "instance": event.instance,
        "drain": event.drain,
        "at": iso(event.wall),
        "detail": event.detail,
    }
