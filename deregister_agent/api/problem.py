"""Errors of the HTTP API, as RFC 9457 has them: application/problem+json."""

import json
from collections.abc import Mapping
from http import HTTPStatus

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818 - the word of RFC 9457
    """An answer other than the wanted one: a status, and a sentence that says what to do next."""

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
        """Return the document; *path* is what was asked for."""
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
