"""What the HTTP API answers with: JSON, or a problem."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from deregister_agent.api.problem import MEDIA_TYPE, Problem, try_later
from deregister_agent.errors import JournalError, Refused


def as_json(status: int, content: Mapping[str, Any]) -> Response:
    """Answer with *content*; a 503 asks for another try in a second."""
    response = Response(json.dumps(content), status, content_type="application/json")
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = "1"
    return response


def explain_errors(app: Flask) -> None:
    """Let *app* answer every error with a problem."""
    app.register_error_handler(Problem, _problem)
    app.register_error_handler(Refused, _refused)
    app.register_error_handler(JournalError, _not_written)
    app.register_error_handler(HTTPException, _http_error)


def _problem(error: Problem) -> Response:
    body = error.body(request.path)
    return Response(body, error.status, error.headers, content_type=MEDIA_TYPE)


def _refused(error: Refused) -> Response:
    extra = {
        "registry": error.registry,
        "others": error.others,
        "min_others": error.min_others,
        "blocking": [f"{error.registry} lists {error.others} other instance(s)"],
    }
    return _problem(Problem(409, str(error), extra=extra))


def _not_written(error: JournalError) -> Response:
    return _problem(try_later(str(error)))


def _http_error(error: HTTPException) -> Response:
    """Answer what Flask itself refuses, and what is a bug: Flask has logged that one."""
    headers = {}
    detail = error.description or error.name
    if isinstance(error, NotFound):
        detail = "there is nothing at this path: see /openapi.json"
    elif isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(error.valid_methods or ())
        detail = f"{request.method} is not for this path; it takes {headers['Allow']}"
    return _problem(Problem(error.code or 500, detail, headers=headers))
