"""The shapes of the HTTP API's JSON, as JSON Schema (2020-12, which OpenAPI 3.1 uses)."""

from typing import Any

from pydantic import TypeAdapter

from deregister_agent.api.requests import StartTraffic, StopTraffic
from deregister_agent.status import (
    DoctorReport,
    DrainList,
    DrainWithEvents,
    EventRecord,
    StatusList,
)

Json = dict[str, Any]

_REF = "#/components/schemas/{model}"
_TEXT: Json = {"type": "string"}


def schemas() -> Json:
    """Return the components of the OpenAPI document, by name."""
    found: Json = {}
    for model in (StatusList, DoctorReport, DrainList, DrainWithEvents, EventRecord):
        described = TypeAdapter(model).json_schema(mode="serialization", ref_template=_REF)
        found |= described.pop("$defs", {}) | {model.__name__: described}
    found["Status"]["required"].remove("nonce")  # only where the request had one
    for body in (StopTraffic, StartTraffic):
        described = body.model_json_schema(ref_template=_REF)
        found |= described.pop("$defs", {}) | {body.__name__: described}
    return found | {
        "Health": _object(status={"const": "ok"}),
        "Document": _object(openapi=_TEXT, info={"type": "object"}, paths={"type": "object"}),
        "Problem": {
            **_object(
                type=_TEXT, title=_TEXT, status={"type": "integer"}, detail=_TEXT, instance=_TEXT
            ),
            "description": "RFC 9457; detail names the key, field or command to use next.",
        },
    }


def _object(**properties: Json) -> Json:
    """Return an object that has all of these."""
    return {"type": "object", "required": list(properties), "properties": properties}
