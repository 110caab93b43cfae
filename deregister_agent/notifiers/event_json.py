"""The JSON of an event, the same for every notifier."""

import json
from datetime import UTC, datetime
from typing import Any

from deregister_agent.model import Event


def payload(event: Event) -> dict[str, Any]:
    """
    Return *event* as the plain JSON that receivers get: type, timestamp and data.

    The same event always gives the same JSON, so a repeated announcement is equal
    to the first. The shape is that of Standard Webhooks (standardwebhooks.com).
    """
    instance, process = event.instance, event.process
    return {
        "type": f"drain.{event.kind}",
        "timestamp": happened(event),
        "data": {
            "id": event.id,
            "kind": event.kind,
            "drain": event.drain,
            "instance": {
                "name": instance.name,
                "service": instance.service,
                "address": instance.address,
                "port": instance.port,
            },
            "pids": [pid for pid, _ in process.pids] if process is not None else [],
            "detail": dict(event.detail),
        },
    }


def encoded(event: Event) -> bytes:
    """Return the JSON of *event* as one line of UTF-8."""
    return json.dumps(payload(event), ensure_ascii=False, separators=(",", ":")).encode()


def happened(event: Event) -> str:
    """Return when *event* happened, as in ``2026-11-21T03:45:00.000Z``."""
    at = datetime.fromtimestamp(event.wall, UTC).isoformat(timespec="milliseconds")
    return at.replace("+00:00", "Z")
