"""
HTTP with an end: every call is over, answered or not, when its time is.

``requests`` limits each read, not the whole call, so a server that sends a byte now
and then holds it for ever. Here every operation of the socket (connect, handshake,
send, receive) ends at the deadline of the call that the thread is making. Nothing in
the environment matters: no proxy, no netrc, no ``REQUESTS_CA_BUNDLE``.
"""

import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util import Timeout

from deregister_agent.errors import AgentError
from deregister_agent.net.answer import Answer, FetchError, check_head
from deregister_agent.net.connections import StaleConnectionError
from deregister_agent.net.pools import Pool, open_pool
from deregister_agent.net.stream import PIECE, Stream
from deregister_agent.net.tls import NO_FILES, TlsFiles

__all__ = ["Answer", "FetchError", "Fetcher"]

REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
"""Methods that may be sent twice (RFC 9110, section 9.2.2)."""
FRAMING = frozenset({"content-length", "transfer-encoding"})
"""Headers that say where a request ends: a wrong one would begin another request."""
FAILURES = (requests.RequestException, HTTPError, http.client.HTTPException, OSError)
"""What a call may fail with, by the library that notices."""


class _Adapter(HTTPAdapter):
    """Sends everything through one pool, with none of the settings of ``requests``."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self._pool = pool

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> Pool:
        """Return the pool."""
        return self._pool

    def cert_verify(self, *_: Any, **__: Any) -> None:
        """Leave TLS to the pool's connections."""


class Fetcher:
    """
    Calls one server. Any thread may use it, and all who call that server share connections.

    *base* is ``http://``, ``https://`` or ``http+unix://%2Frun%2Fx.sock``, with a path or
    without. *timeout* is the limit of a whole call in seconds. *headers* is asked at each
    call, so a secret can be renewed. *body_limit* is the most bytes that an answer may have.
    Raises FetchError if *base* cannot be used.
    """

    def __init__(
        self,
        base: str,
        *,
        timeout: float,
        headers: Callable[[], Mapping[str, str]] | None = None,
        tls_files: TlsFiles = NO_FILES,
        body_limit: int = 1_048_576,
    ) -> None:
        self._timeout = timeout
        self._headers = headers
        self._body_limit = body_limit
        self._where, self._base, pool = open_pool(base, tls_files)
        self._pool, self._adapter = pool, _Adapter(pool)

    def knock(self) -> None:
        """Connect, TLS included, and hang up without a request. Raises FetchError."""
        with self._explained(self._timeout):
            self._pool.knock(time.monotonic() + self._timeout)

    def call(
        self,
        method: str,
        target: str,
        *,
        params: Sequence[tuple[str, str]] = (),
        payload: object = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """
        Send one request and return the whole answer, whatever its status; 3xx is not followed.

        *target* is the path, already percent-encoded; it is sent as it stands. *payload* is
        sent as JSON, *body* as it is. *timeout* is this call's limit instead of the usual one.
        Raises FetchError if there is no answer, none in time, or one that is too large.
        """
        request = self._prepared(method, _with_params(target, params), payload, body, headers)
        limit = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        while True:
            try:
                return self._exchange(request, deadline)
            except FAILURES as e:
                # A server may close an idle connection at the moment it is used again:
                # that says nothing about the server. Each such connection is thrown away.
                if not (isinstance(e, StaleConnectionError) and method in REPEATABLE):
                    raise FetchError(self._reason(e, deadline, limit)) from e

    @contextmanager
    def stream(
        self,
        method: str,
        target: str,
        *,
        payload: object,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Iterator[Stream]:
        """
        Send one request, and give an answer that is read line by line while it comes.

        *timeout* is the limit until the answer begins; each line then has its own. The
        connection is closed at the end of the block. Raises FetchError as call() does.
        """
        request = self._prepared(method, target, payload, None, headers)
        limit = self._timeout if timeout is None else timeout
        with self._explained(limit):
            response = self._sent(request, time.monotonic() + limit)
        try:
            check_head(response)
            yield Stream(response, self._explained, self._body_limit)
        finally:
            response.close()

    @contextmanager
    def _explained(self, limit: float) -> Iterator[None]:
        """Turn what goes wrong inside the block, which has *limit* seconds, into a FetchError."""
        deadline = time.monotonic() + limit
        try:
            yield
        except FAILURES as e:
            raise FetchError(self._reason(e, deadline, limit)) from e

    def _prepared(
        self,
        method: str,
        target: str,
        payload: object,
        body: bytes | None,
        headers: Mapping[str, str] | None,
    ) -> requests.PreparedRequest:
        sent = {"User-Agent": "deregister-agent", "Accept-Encoding": "identity"}
        if payload is not None:
            body = json.dumps(payload).encode()
            sent["Content-Type"] = "application/json"
        sent |= {**self._own_headers(), **(headers or {})}
        _check_headers(sent)
        if not target.isprintable():  # urlsplit() would silently leave it out
            raise FetchError(f"the path {target!r} has a character in it that cannot be sent")
        try:
            request = requests.Request(method, self._base, sent, data=body).prepare()
        except (requests.RequestException, ValueError) as e:
            raise FetchError(f"a request that cannot be sent: {e}") from e
        request.url = self._base + target  # prepare() would resolve ".." and quote once more
        return request

    def _own_headers(self) -> Mapping[str, str]:
        try:
            return self._headers() if self._headers else {}
        except AgentError as e:
            raise FetchError(str(e)) from e

    def _sent(self, request: requests.PreparedRequest, deadline: float) -> requests.Response:
        """Send *request* and return the head of the answer; the body has the same deadline."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        limit: Any = Timeout(total=left)  # which requests takes, and its types do not tell
        return self._adapter.send(request, stream=True, timeout=limit)

    def _exchange(self, request: requests.PreparedRequest, deadline: float) -> Answer:
        response = self._sent(request, deadline)
        try:
            check_head(response)
            body = bytearray()
            while piece := response.raw.read(PIECE, decode_content=False):
                body += piece
                if len(body) > self._body_limit:
                    raise FetchError(f"the answer is larger than {self._body_limit} bytes")
        finally:
            response.close()
        return Answer(response.status_code, response.headers, bytes(body))

    def _reason(self, error: Exception, deadline: float, limit: float) -> str:
        root = _root(error)
        if isinstance(root, TimeoutError) or time.monotonic() >= deadline:
            return f"no answer within {round(limit, 2)} s from {self._where}"
        match root:
            case ssl.SSLError():
                why = f"TLS failed: {root}"
            case OSError(filename=str(file)):
                why = f"cannot use {file}: {root.strerror}"
            case OSError(strerror=str(why)):
                pass
            case http.client.RemoteDisconnected():
                why = "it closed the connection without an answer"
            case http.client.IncompleteRead():
                why = "its answer breaks off"
            case http.client.HTTPException():
                why = f"it does not speak HTTP ({type(root).__name__})"
            case _:
                why = f"{type(root).__name__}: {root}"
        return f"{self._where}: {why}"


def _check_headers(headers: Mapping[str, str]) -> None:
    """Raise FetchError, which shows no value, unless *headers* read the same on the other side."""
    for name, value in headers.items():
        if name.lower() in FRAMING:
            raise FetchError(f"header {name} cannot be set: it follows from the body")
        # requests would refuse it as well, with the value, perhaps a secret, in its message.
        if not (value.isascii() and value.isprintable() and value == value.strip()):
            raise FetchError(f"header {name} has a character in it that cannot be sent")


def _with_params(target: str, params: Sequence[tuple[str, str]]) -> str:
    if not params:
        return target
    return f"{target}{'&' if '?' in target else '?'}{urlencode(params, quote_via=quote)}"


def _root(error: BaseException) -> BaseException:
    """Return the first error of a chain: each library wraps the error of the one below."""
    wrappers = (requests.RequestException, HTTPError)
    while isinstance(error, wrappers) and not isinstance(error, http.client.HTTPException):
        inner = error.__cause__ or next((a for a in error.args if isinstance(a, Exception)), None)
        if inner is None:
            return error
        error = inner
    return error
