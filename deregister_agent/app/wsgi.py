"""WSGI: a request counts from before the app is called until its body is closed (PEP 3333)."""

import threading
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any

from deregister_agent.app.board import Ticket
from deregister_agent.app.kept_connections import WsgiServer
from deregister_agent.app.page import PageRequest, WorkPage, held

WsgiApp = Callable[..., Iterable[bytes]]


class CountedBody:
    """
    The body of an answer. It ends its ticket when the server closes it.

    A server closes it after the last byte, and also when the client has gone. One
    that forgets to, or died on the way, lets it be collected, which ends it too.
    """

    __slots__ = ("_body", "_steps", "_ticket")

    def __init__(self, body: Iterable[bytes], ticket: Ticket) -> None:
        self._body, self._ticket = body, ticket
        self._steps: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the app's own body."""
        return self

    def __next__(self) -> bytes:
        """Return the next piece of the body."""
        if self._steps is None:
            self._steps = iter(self._body)
        return next(self._steps)

    def close(self) -> None:
        """Close the app's body, which may do work, and only then count the request as finished."""
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._ticket.end()

    def __del__(self) -> None:
        """Count the request as finished: nobody can ask for more of the body."""
        self._ticket.end()


class WsgiWork:
    """The middleware: it counts requests and answers the page itself."""

    def __init__(
        self,
        app: WsgiApp,
        begin: Callable[[], Ticket],
        page: WorkPage,
        letting_go: Callable[[], bool],
    ) -> None:
        self._app, self._begin, self._page = app, begin, page
        self._server = WsgiServer(letting_go)
        self._holding = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        path = environ.get("PATH_INFO", "")
        if self._page.has(path):
            return self._answer(environ, start_response)
        start_response = self._server.start_response(environ, start_response)
        if path in self._page.ignored:
            return self._app(environ, start_response)
        ticket = self._begin()
        try:
            return CountedBody(self._app(environ, start_response), ticket)
        except BaseException:
            ticket.end()
            raise

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        # Requests would wait behind the page on a server with one thread, so it is not held
        # there; elsewhere one question at a time is, or several would take every thread.
        patient = bool(environ.get("wsgi.multithread")) and self._holding.acquire(blocking=False)
        try:
            return self._held(environ, start_response, patient=patient)
        finally:
            if patient:
                self._holding.release()

    def _held(
        self, environ: dict[str, Any], start_response: Any, *, patient: bool
    ) -> Iterable[bytes]:
        asked = PageRequest(
            method=environ["REQUEST_METHOD"],
            path=environ["PATH_INFO"],
            query=environ.get("QUERY_STRING", ""),
            authorization=environ.get("HTTP_AUTHORIZATION", ""),
            origin=environ.get("HTTP_ORIGIN", ""),
            many=bool(environ.get("wsgi.multiprocess")),
            patient=patient,
        )
        status, headers, body = held(self._page.exchange(asked))
        start_response(f"{status} {HTTPStatus(status).phrase}", headers)
        return [] if asked.method == "HEAD" else [body]
