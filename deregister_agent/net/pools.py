"""
Connections kept open for the next call, and shared by all in this process who call one server.

An agent with many instances would else hold several idle connections to its registry for
each of them, and a registry takes only so many of one address (Consul: 200). Nobody waits
for a connection: where none is free, a new one is opened.
"""

import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Hashable
from functools import partial
from urllib.parse import SplitResult, unquote, urlsplit

from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection

from deregister_agent.net.answer import FetchError
from deregister_agent.net.connections import Connection, TlsConnection
from deregister_agent.net.sockets import connect_to_file, connect_to_host
from deregister_agent.net.tls import TlsFiles

MOST_IDLE = 256  # connections kept for one server
IDLE_TIMEOUT = 10.0  # then an idle connection is closed, by the next call to its server
UNIX = "http+unix"


class IdleConnections:
    """
    The connections of a pool that wait for a call: all that a pool uses of a queue.

    The connection used last is given first, so that the others grow old and are closed.
    """

    def __init__(self, _: int) -> None:
        self._idle: deque[tuple[float, HTTPConnection]] = deque()  # each with the time of its use
        self._lock = threading.Lock()

    def get(self, **_: object) -> HTTPConnection:
        """Return the connection that was used last. Raises queue.Empty if there is none."""
        with self._lock:
            if not self._idle:
                raise queue.Empty
            return self._idle.pop()[1]

    def put(self, connection: HTTPConnection | None, **_: object) -> None:
        """Keep a connection whose answer has been read to its end; close those kept too long."""
        if connection is None or connection.is_closed:
            return
        now, old = time.monotonic(), []
        with self._lock:
            self._idle.append((now, connection))
            while len(self._idle) > MOST_IDLE or self._idle[0][0] < now - IDLE_TIMEOUT:
                old.append(self._idle.popleft()[1])
        for each in old:
            each.close()


class Pool(HTTPConnectionPool):
    """The connections to one server. Each that has something left to be read is closed."""

    ConnectionCls: type[Connection] = Connection
    QueueCls = IdleConnections  # type: ignore[assignment]  # no queue.LifoQueue, but enough of it

    def knock(self, deadline: float) -> None:
        """Open a connection of its own, TLS included, and close it: nothing is asked on it."""
        self.ConnectionCls(self.host, self.port, **self.conn_kw).open(deadline).close()


class TlsPool(Pool):
    """The same over TLS."""

    scheme = "https"
    ConnectionCls = TlsConnection


shared: "weakref.WeakValueDictionary[Hashable, Pool]" = weakref.WeakValueDictionary()
"""The pools in use, by all that a connection depends on: the server and the TLS files."""
_making = threading.Lock()


def open_pool(base: str, tls_files: TlsFiles) -> tuple[str, str, Pool]:
    """
    Return what to call the server of *base*, the base for URLs, and the pool of connections.

    All who call a server with the same files get the same pool, while anybody uses the pool.
    Raises FetchError if *base* cannot be used.
    """
    try:
        parts = urlsplit(base)
        _check(base, parts)
        key = (parts.scheme, parts.netloc, tls_files)
        with _making:
            pool = shared.get(key)
            if pool is None:
                pool = shared[key] = _new_pool(parts, tls_files)
    except ValueError as e:
        raise FetchError(f"{base!r} is no URL: {e}") from e
    path = parts.path.rstrip("/")
    if parts.scheme == UNIX:
        return unquote(parts.netloc), f"http://localhost{path}", pool
    return parts.netloc, f"{parts.scheme}://{parts.netloc}{path}", pool


def _check(base: str, parts: SplitResult) -> None:
    """Raise FetchError, or ValueError, unless *base* is the URL of a server."""
    if "@" in parts.netloc:
        raise FetchError("the URL must not hold a user name or a password")
    by_tcp = parts.scheme in ("http", "https") and parts.hostname and " " not in parts.netloc
    if not (by_tcp or (parts.scheme == UNIX and parts.netloc)) or parts.query or parts.fragment:
        raise FetchError(
            f"{base!r} is no URL of a server: write http://HOST:PORT, https://HOST:PORT "
            "or http+unix://%2Fpath%2Fto%2Fsocket"
        )


def _new_pool(parts: SplitResult, tls_files: TlsFiles) -> Pool:
    if parts.scheme == UNIX:
        return Pool("localhost", reach=partial(connect_to_file, unquote(parts.netloc)))
    host, port = parts.hostname or "", parts.port
    if parts.scheme == "http":
        return Pool(host, port, reach=partial(connect_to_host, host, port or 80))
    reach = partial(connect_to_host, host, port or 443)
    return TlsPool(host, port, reach=reach, tls_files=tls_files)
