"""The OpenAPI 3.1 description of the HTTP API; a test holds it against the routes and answers."""

from typing import Any

from deregister_agent import __version__
from deregister_agent.api.openapi_schemas import schemas
from deregister_agent.api.problem import MEDIA_TYPE
from deregister_agent.api.requests import ASKED_BY, LONGEST_LOOK, LONGEST_WAIT, MARK
from deregister_agent.api.trust import WITHOUT_TOKEN

Json = dict[str, Any]

_PROBLEMS = {
    "400": "An unknown or wrong field, parameter or header; the sentence names it.",
    "401": "The bearer token is missing or wrong.",
    "403": "Host is not this agent, or the request comes from a web page of another origin.",
    "404": "No such instance or drain.",
    "408": "The body did not arrive in time.",
    "409": "Nobody asked for it, it is refused, or the short form is ambiguous.",
    "413": "The body is larger than 64 KiB.",
    "415": "The body is not declared as JSON.",
    "503": "Not now: the journal cannot be written, or too many requests wait. Try again.",
}
_ALWAYS = ("403", "503")
_READING = ("400", "401")
_WRITING = ("400", "401", "408", "413", "415")
_HEADERS: Json = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}


def document() -> Json:
    """Return the whole document, as plain JSON."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "deregister-agent",
            "version": __version__,
            "description": "Takes an instance out of traffic, proves it, and says when it is safe "
            "to kill. Nothing but 'drained' is 2xx on traffic-drained.",
        },
        "security": [{"token": []}],
        "paths": {**_actions(""), **_actions("/v1/instances/{name}"), **_views(), **_open()},
        "components": {
            "schemas": schemas(),
            "responses": {
                f"Problem{code}": _problem(code, what) for code, what in _PROBLEMS.items()
            },
            "parameters": _PARAMETERS,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "On TCP; the Unix socket needs none.",
                }
            },
        },
    }


_PARAMETERS: Json = {
    "name": {
        "name": "name",
        "in": "path",
        "required": True,
        "description": "The instance.",
        "schema": {"type": "string", "minLength": 1},
    },
    "drain": {
        "name": "drain",
        "in": "path",
        "required": True,
        "description": "The id of a drain.",
        "schema": {"type": "string", "minLength": 1},
    },
    "wait": {
        "name": "wait",
        "in": "query",
        "description": "Hold the answer for up to so many seconds, until it is not 503.",
        "schema": {"type": "number", "minimum": 0, "maximum": LONGEST_WAIT, "default": 0},
    },
    "look": {
        "name": "look",
        "in": "query",
        "description": "Ask each registry first, for up to so many seconds; 503 if one is late.",
        "schema": {"type": "number", "minimum": 0, "maximum": LONGEST_LOOK, "default": 0},
    },
    "hold": {
        "name": "wait",
        "in": "query",
        "description": "Hold the answer for up to so many seconds, while its cursor is that one.",
        "schema": {"type": "number", "minimum": 0, "maximum": LONGEST_WAIT, "default": 0},
    },
    "cursor": {
        "name": "cursor",
        "in": "query",
        "description": "The cursor of the status that is known already; for wait.",
        "schema": {"type": "string", "pattern": MARK},
    },
    "nonce": {
        "name": "nonce",
        "in": "query",
        "description": "Comes back in the answer, and shows to which request the answer belongs.",
        "schema": {"type": "string", "pattern": MARK},
    },
    "limit": {
        "name": "limit",
        "in": "query",
        "description": "How many to list at most.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50},
    },
    "after": {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "Begin after this event; without it, with the next one to come.",
        "schema": {"type": "integer", "minimum": 0, "maximum": 10**18 - 1},
    },
    "asked_by": {
        "name": ASKED_BY,
        "in": "header",
        "description": "Who asks, as the journal and the logs will have it.",
        "schema": {"type": "string", "pattern": "^[ -~]{0,100}$"},
    },
}


def _actions(before: str) -> Json:
    """Return the four verbs below *before*: the path of a named instance, or none."""
    named = ["name"] if before else []
    lost = ("404",) if before else ("409",)  # no such name; or more than one instance
    status = {"200": "Status", "503": "Status", "504": "Status"}
    return {
        f"{before}/stop-traffic": {
            "post": _operation(
                "Take the instance out of traffic; the same drain when repeated.",
                {"202": "Status"},
                (*lost, *_WRITING, "409"),
                parameters=[*named, "asked_by"],
                body="StopTraffic",
            )
        },
        f"{before}/traffic-drained": {
            "get": _operation(
                "Is it safe to kill? 200 yes, 503 not yet, 504 the deadline passed, 409 not asked.",
                status,
                (*lost, *_READING, "409"),
                parameters=[*named, "wait"],
            )
        },
        f"{before}/start-traffic": {
            "post": _operation(
                "Put the instance back.",
                {"202": "Status"},
                (*lost, *_WRITING),
                parameters=[*named, "asked_by"],
                body="StartTraffic",
            )
        },
        f"{before}/traffic-started": {
            "get": _operation(
                "Is it back? 200 yes, 503 not yet, 504 the deadline passed, 409 not asked.",
                status,
                (*lost, *_READING, "409"),
                parameters=[*named, "wait"],
            )
        },
    }


def _views() -> Json:
    one, of_one = "/v1/instances/{name}", (*_READING, "404")
    return {
        "/v1/instances": {
            "get": _operation("Every instance.", {"200": "StatusList"}, _READING),
        },
        one: {
            "get": _operation(
                "One instance.",
                {"200": "Status"},
                (*of_one, "503"),
                parameters=["name", "look", "hold", "cursor", "nonce"],
            ),
        },
        f"{one}/doctor": {
            "get": _operation(
                "Would a drain prove itself? Everything is asked once; nothing is changed.",
                {"200": "DoctorReport"},
                of_one,
                parameters=["name"],
            ),
        },
        f"{one}/drains": {
            "get": _operation(
                "Its drains, newest first.",
                {"200": "DrainList"},
                of_one,
                parameters=["name", "limit"],
            ),
        },
        f"{one}/drains/{{drain}}": {
            "get": _operation(
                "One drain and its timeline.",
                {"200": "DrainWithEvents"},
                of_one,
                parameters=["name", "drain"],
            ),
        },
        "/v1/events": {
            "get": _operation(
                "What happens, as server-sent events whose data is an EventRecord.",
                {"200": "text/event-stream"},
                _READING,
                parameters=["after"],
            ),
        },
    }


def _open() -> Json:
    """Return what is answered without a token."""
    what = {
        "/healthz": ("Does the process answer?", "Health"),
        "/readyz": ("Can the agent do its work?", "Health"),
        "/metrics": ("Metrics for Prometheus.", "text/plain"),
        "/openapi.json": ("This document.", "Document"),
    }
    return {
        path: {"get": {**_operation(*what[path][:1], {"200": what[path][1]}), "security": []}}
        for path in sorted(WITHOUT_TOKEN)
    }


def _operation(
    summary: str,
    answers: dict[str, str],
    refusals: tuple[str, ...] = (),
    *,
    parameters: list[str] | None = None,
    body: str = "",
) -> Json:
    responses = {code: _answer(code, content) for code, content in answers.items()}
    for code in sorted({*_ALWAYS, *refusals}):
        if code in responses:  # "not yet", with the status; or a problem, as everywhere
            responses[code]["content"][MEDIA_TYPE] = {"schema": _ref("schemas", "Problem")}
        else:
            responses[code] = _ref("responses", f"Problem{code}")
    operation: Json = {"summary": summary, "responses": responses}
    if parameters:
        operation["parameters"] = [_ref("parameters", name) for name in parameters]
    if body:
        content = {"application/json": {"schema": _ref("schemas", body)}}
        operation["requestBody"] = {"required": False, "content": content}
    return operation


def _answer(code: str, content: str) -> Json:
    text = content.startswith("text/")
    media_type = content if text else "application/json"
    schema = {"type": "string"} if text else _ref("schemas", content)
    answer: Json = {"description": _MEANING[code], "content": {media_type: {"schema": schema}}}
    if code == "503":
        answer["headers"] = _HEADERS
    return answer


_MEANING = {
    "200": "Yes.",
    "202": "Taken; this is the status now.",
    "503": "Not yet, and what is missing; or not now.",
    "504": "The deadline passed first.",
}


def _problem(code: str, description: str) -> Json:
    schema = {"schema": _ref("schemas", "Problem")}
    answer: Json = {"description": description, "content": {MEDIA_TYPE: schema}}
    if code == "503":
        answer["headers"] = _HEADERS
    return answer


def _ref(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}
