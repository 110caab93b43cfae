"""
Kept connections: an answer says that its connection ends, so the client opens its next elsewhere.

Only the word makes it safe (RFC 9112, section 9.6): a connection that closes without it loses
what its client sends meanwhile. So no socket is closed here. Nothing is said to HTTP/2, which
has no such word, and nothing where the connection becomes another protocol's: a WebSocket's.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Field = tuple[bytes, bytes]

UNKNOWN = (
    "clients of %s keep their connections while the app is stopped: no way is known to tell them "
    "through this server, so limit how long it keeps idle ones; see connections-that-stay.md"
)
HIDDEN = (
    "clients of %s keep their connections while the app is stopped: another middleware stands "
    "between work.wsgi and the server; put work.wsgi outermost, or see connections-that-stay.md"
)

_log = logging.getLogger(__name__)


def asgi_send(scope: Message, send: Send, letting_go: Callable[[], bool]) -> Send:
    """
    Return *send* such that an answer says that its connection ends, if *letting_go* then.

    It is *send* itself where the header may not be: HTTP/2 and 3 have no such word, and below a
    bridge (a2wsgi/asgi.py gives ``wsgi_environ``) the header is an error to some servers of WSGI.
    """
    version = scope.get("http_version", "") if scope["type"] == "http" else ""
    if not version.startswith("1.") or "wsgi_environ" in scope:
        return send

    def say(message: Message) -> Awaitable[None]:
        begins = message["type"] == "http.response.start"
        if begins and letting_go() and message["status"] != HTTPStatus.SWITCHING_PROTOCOLS:
            message = {**message, "headers": closing(message.get("headers", ()))}
        return send(message)

    return say


def closing(headers: Iterable[Field]) -> list[Field]:
    """
    Return *headers* with ``connection: close``, and with nothing that says the opposite.

    In a line of its own: uvicorn reads no other (httptools_impl.py: send).
    """
    kept: list[Field] = []
    for name, value in headers:
        if name.lower() == b"connection":
            words = [word.strip() for word in value.split(b",")]
            rest = [word for word in words if word.lower() not in (b"keep-alive", b"close")]
            kept += [(name, b", ".join(rest))] if rest else []
        elif name.lower() != b"keep-alive":
            kept.append((name, value))
    return [*kept, (b"connection", b"close")]


def wsgi_closing(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the same for the headers of a WSGI app."""
    sent = ((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers)
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in closing(sent)]


class WsgiServer:
    """
    The server below a WSGI app, and its own way to end a connection after an answer.

    PEP 3333 forbids the header to apps; to waitress and wsgiref it is an error that the client
    gets as a 500. So each server has its own way, and one that is not known is left alone.
    """

    def __init__(self, letting_go: Callable[[], bool]) -> None:
        self._letting_go = letting_go
        self._told = False

    def start_response(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Return *start_response* such that the answer's connection ends, if letting go then."""

        def started(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            if self._letting_go() and may_end(environ):
                headers = self._end(environ, start_response, headers)
            return start_response(status, headers, *more)

        return started

    def _end(
        self, environ: dict[str, Any], start_response: Any, headers: list[tuple[str, str]]
    ) -> list[tuple[str, str]]:
        """Have the server end the connection, and return the headers that it is to be given."""
        name = environ.get("SERVER_SOFTWARE", "a server without a name")
        # What stands behind these two is no part of WSGI: it may look otherwise in a version
        # that is not known here.
        try:
            if "gunicorn.socket" in environ:  # gunicorn/http/wsgi.py: Response
                start_response.__self__.force_close()
            elif "waitress.client_disconnected" in environ:  # waitress/task.py: WSGITask
                channel = environ["waitress.client_disconnected"].__self__
                for request in channel.requests[:1]:
                    request.headers["CONNECTION"] = "close"
            elif "Cheroot/" in name:  # cheroot/wsgi.py: Gateway; CherryPy names itself first
                start_response.__self__.req.close_connection = True
            elif "uwsgi.version" in environ or name == "Granian":
                return wsgi_closing(headers)
            elif not name.startswith("Werkzeug/"):  # it keeps none (werkzeug/serving.py)
                self._tell(UNKNOWN, name)
        except AttributeError:
            self._tell(HIDDEN, name)
        return headers

    def _tell(self, sentence: str, name: str) -> None:
        if not self._told:
            self._told = True
            _log.warning(sentence, name)


def may_end(environ: dict[str, Any]) -> bool:
    """
    Tell whether a request came on a connection that can end after it.

    Only a WebSocket takes the connection over: ``Upgrade: h2c``, which clients of Java and
    ``curl --http2`` send with any request, is answered like a request without it.
    """
    protocol: str = environ.get("SERVER_PROTOCOL", "")
    upgrade: str = environ.get("HTTP_UPGRADE", "")
    return protocol.startswith("HTTP/1.") and upgrade.lower() != "websocket"
