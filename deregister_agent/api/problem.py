"""Errors of the HTTP API in the form of RFC 9457: application/problem+json."""

import json
from collections.abc import Mapping
from http import HTTPStatus

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from deregister_agent.errors import (
    CannotRestore,
    JournalError,
    NeverSeen,
    OtherRegistrations,
    Refused,
    TooFewOthers,
    UnknownRegistry,
)

MEDIA_TYPE = "application/problem+json"
ALWAYS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""The headers of every answer."""
NEVER_SEEN = "urn:deregister-agent:never-seen"
"""The problem type of a stop-traffic that is refused because a registry has never shown it."""
OTHER_REGISTRATIONS = "urn:deregister-agent:other-registrations"
"""That of one that is refused because a registry has it under other names too."""


class Problem(Exception):  # noqa: N818 - the word of RFC 9457
    """A request that failed: an HTTP status, and a sentence that says what to do next."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})

    def body(self, path: str) -> bytes:
        """Return the document about a request for *path*."""
        document = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "instance": path,
            **self.extra,
        }
        return json.dumps(document).encode()


def try_later(detail: str) -> Problem:
    """Return a 503 that asks for another try in a second."""
    return Problem(503, detail, headers={"Retry-After": "1"})


def explain_errors(app: Flask) -> None:
    """Let *app* answer every error with a problem."""
    app.register_error_handler(Problem, _answer)
    app.register_error_handler(Refused, _refused)
    app.register_error_handler(UnknownRegistry, lambda error: _answer(Problem(400, str(error))))
    app.register_error_handler(CannotRestore, lambda error: _answer(Problem(409, str(error))))
    app.register_error_handler(JournalError, lambda error: _answer(try_later(str(error))))
    app.register_error_handler(HTTPException, _http_error)


def _answer(problem: Problem) -> Response:
    body = problem.body(request.path)
    return Response(body, problem.status, problem.headers, content_type=MEDIA_TYPE)


def _refused(error: Refused) -> Response:
    extra: dict[str, object] = {"registry": error.registry, "blocking": [str(error)]}
    match error:
        case TooFewOthers():
            extra |= {
                "others": error.others,
                "min_others": error.min_others,
                "blocking": [f"{error.registry} lists {error.others} other instance(s)"],
            }
        case NeverSeen():
            extra |= {"type": NEVER_SEEN, "look_alikes": error.look_alikes}
        case OtherRegistrations():
            extra |= {"type": OTHER_REGISTRATIONS, "other_registrations": error.found}
    return _answer(Problem(409, str(error), extra=extra))


def _http_error(error: HTTPException) -> Response:
    """Answer what Flask itself refuses, and a bug, which Flask has logged."""
    headers = {}
    detail = error.description or error.name
    if isinstance(error, NotFound):
        detail = "there is nothing at this path: see /openapi.json"
    elif isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(error.valid_methods or ())
        detail = f"{request.method} is not for this path; it takes {headers['Allow']}"
    return _answer(Problem(error.code or 500, detail, headers=headers))
