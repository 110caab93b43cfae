"""The past as the HTTP API shows it: drains and the events of their timelines."""

from deregister_agent.host.clock import iso
from deregister_agent.journal.history import PastDrain, TimelineEvent
from deregister_agent.status import DrainRecord, EventRecord


def drain_record(past: PastDrain) -> DrainRecord:
    """Return a drain of the past as the API shows it."""
    drain = past.drain
    return DrainRecord(
        id=drain.id,
        instance=drain.instance,
        phase=drain.phase,
        outcome=drain.outcome,
        started=iso(past.started),
        ended=None if past.ended is None else iso(past.ended),
        reason=drain.reason,
        asked_by=drain.asked_by,
        forced=drain.forced,
        kind=drain.kind,
    )


def event_record(event: TimelineEvent) -> EventRecord:
    """Return an event of a timeline as the API shows it."""
    return EventRecord(
        id=event.id,
        kind=event.kind,
        instance=event.instance,
        drain=event.drain,
        at=iso(event.wall),
        detail=event.detail,
    )
