"""The shapes of the HTTP API's JSON, as JSON Schema (2020-12, which OpenAPI 3.1 uses)."""

from typing import Any

from deregister_agent.model import OnDeadline, Outcome, Phase

Json = dict[str, Any]

TEXT: Json = {"type": "string"}
YES_NO: Json = {"type": "boolean"}
COUNT: Json = {"type": "integer", "minimum": 0}
TEXTS: Json = {"type": "array", "items": TEXT}
TIME: Json = {"type": "string", "format": "date-time"}


def _object(**properties: Json) -> Json:
    """Return an object that has all of these."""
    return {"type": "object", "required": list(properties), "properties": properties}


def _status(**properties: Json) -> Json:
    """Return a status, which also has what was sent to be sent back."""
    found = _object(**properties)
    nonce = {**TEXT, "description": "The nonce of the request, if it had one."}
    return {**found, "properties": {**properties, "nonce": nonce}}


def _or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(name: str) -> Json:
    return {"type": "array", "items": _ref(name)}


_COUNTS: Json = {"type": "object", "additionalProperties": COUNT}

_DRAIN: dict[str, Json] = {
    "id": TEXT,
    "outcome": _or_null(_ref("Outcome")),
    "reason": TEXT,
    "asked_by": TEXT,
    "forced": YES_NO,
}
_RECORD: dict[str, Json] = {
    **_DRAIN,
    "instance": TEXT,
    "phase": _ref("Phase"),
    "started": TIME,
    "ended": _or_null(TIME),
}

SCHEMAS: Json = {
    "Phase": {"type": "string", "enum": list(Phase)},
    "Outcome": {"type": "string", "enum": list(Outcome)},
    "OnDeadline": {"type": "string", "enum": list(OnDeadline)},
    "Instance": _object(name=TEXT, service=TEXT, address=TEXT, port=COUNT),
    "Status": _status(
        instance=_ref("Instance"),
        phase=_ref("Phase"),
        since=_or_null(TIME),
        deadline=_or_null(TIME),
        remaining=_or_null({"type": "number"}),
        drain=_or_null(_object(**_DRAIN, on_deadline=_ref("OnDeadline"))),
        in_flight=_COUNTS,
        blocking={**TEXTS, "description": "What stands between here and drained, or serving."},
        notes={**TEXTS, "description": "Warnings for a person."},
        registries=_list("Registry"),
        probes=_list("Probe"),
        process=_object(
            pids={"type": "array", "items": {"type": "integer"}}, exited=YES_NO, note=TEXT
        ),
        ready=_or_null(YES_NO),
        error=_or_null(TEXT),
        cursor={**TEXT, "description": "Another one with each phase and each registry's word."},
    ),
    "Registry": _object(
        name=TEXT,
        listed=_or_null(YES_NO),
        acknowledged=YES_NO,
        stragglers={**TEXTS, "description": "What may still send work along old routes."},
        others=_or_null(COUNT),
        asked=_or_null(TIME),
        error=_or_null(TEXT),
    ),
    "Probe": _object(
        name=TEXT,
        in_flight=_or_null(_COUNTS),
        started=_or_null(COUNT),
        asked=_or_null(TIME),
        error=_or_null(TEXT),
    ),
    "StatusList": _object(instances=_list("Status")),
    "DrainRecord": _object(**_RECORD),
    "DrainList": _object(drains=_list("DrainRecord")),
    "DrainWithEvents": _object(**_RECORD, events=_list("TimelineEvent")),
    "TimelineEvent": _object(id={"type": "integer"}, kind=TEXT, at=TIME, detail={"type": "object"}),
    "Event": _object(
        id={"type": "integer"},
        kind=TEXT,
        instance=TEXT,
        drain=TEXT,
        at=TIME,
        detail={"type": "object"},
    ),
    "Health": _object(status={"const": "ok"}),
    "Document": _object(openapi=TEXT, info={"type": "object"}, paths={"type": "object"}),
    "Problem": {
        **_object(type=TEXT, title=TEXT, status={"type": "integer"}, detail=TEXT, instance=TEXT),
        "description": "RFC 9457; detail names the key, field or command to use next.",
    },
}
"""The components of the OpenAPI document, by name."""
