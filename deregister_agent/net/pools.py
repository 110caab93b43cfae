"""
Connections kept open for the next call, and shared by all in this process who call one server.

An agent with many instances would else hold several idle connections to its registry for
each of them, and a registry takes only so many of one address (Consul: 200). Nobody waits
for a connection: where none is free, a new one is opened.
"""

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError

from deregister_agent.net.answer import FetchError
from deregister_agent.net.connections import Connection, TLSConnection, trust

MOST = 256  # idle connections kept for one server
IDLE = 10.0  # seconds after which an idle one is closed, by the next call to its server

Files = tuple[Path | None, Path | None, Path | None]
"""The CAs to trust, a client certificate and its key."""
Kept = deque[tuple[float, HTTPConnection]]
"""Idle connections, and since when; the one used last is at the end."""


class _Keeps(HTTPConnectionPool):
    """A pool that keeps no connection which is old, dead or has something left to be read."""

    def __init__(self, *args: Any, **others: Any) -> None:
        super().__init__(*args, **others)  # its own queue stays as it is, and unused
        self._kept: Kept = deque()
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._kept)

    def _get_conn(self, timeout: float | None = None) -> Any:
        """Return the connection that was used last, if it is as good as new, or a new one."""
        del timeout
        while True:
            with self._lock:
                if not self._kept:
                    return self._new_conn()
                _, connection = self._kept.pop()
            if _is_clean(connection):
                return connection
            connection.close()

    def _put_conn(self, conn: Any) -> None:
        """Keep a connection whose answer has been read to its end."""
        if conn is None or conn.sock is None:
            return
        now, old = time.monotonic(), []
        with self._lock:
            self._kept.append((now, conn))
            while len(self._kept) > MOST or self._kept[0][0] < now - IDLE:
                old.append(self._kept.popleft()[1])
        for connection in old:
            connection.close()


class Pool(_Keeps):
    """Plain connections to one server; *path* is that of a Unix socket."""

    ConnectionCls = Connection


class TLSPool(_Keeps, HTTPSConnectionPool):
    """TLS connections to one server; *tls* makes their settings."""

    ConnectionCls = TLSConnection


def _is_clean(connection: HTTPConnection) -> bool:
    """
    Tell whether *connection* is open and nothing has come on it since its last answer.

    What has come, decrypted or not, would be taken for the answer to the next request.
    """
    pending = getattr(connection.sock, "pending", None)
    return connection.is_connected and not (pending and pending())


def _close_all(kept: Kept) -> None:
    while kept:
        kept.pop()[1].close()


_pools: "weakref.WeakValueDictionary[Hashable, HTTPConnectionPool]" = weakref.WeakValueDictionary()
_making = threading.Lock()


def _shared(key: Hashable, make: Callable[[], HTTPConnectionPool]) -> HTTPConnectionPool:
    """
    Return the pool that everybody with this *key* uses, for as long as somebody does.

    The key must say all that a connection depends on: the server, and by which files
    both sides know each other. What goes with each request (tokens) need not be in it.
    """
    with _making:
        pool = _pools.get(key)
        if pool is None:
            pool = _pools[key] = make()
        return pool


def open_pool(base: str, files: Files) -> tuple[str, str, HTTPConnectionPool]:
    """
    Return what to call the server, the base for URLs, and the pool of connections to it.

    *files* are those of trust(). Raises FetchError if *base* is none that can be used.
    """
    try:
        parts = urlsplit(base)
        host, port = parts.hostname, parts.port
    except ValueError as e:
        raise FetchError(f"{base!r} is no URL: {e}") from e
    if "@" in parts.netloc:
        raise FetchError("the URL must not hold a user name or a password")
    path = parts.path.rstrip("/")
    if parts.scheme == "http+unix" and parts.netloc:
        socket_path = unquote(parts.netloc)
        pool = _shared(socket_path, lambda: Pool("localhost", path=socket_path))
        return socket_path, "http://localhost" + path, pool
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise FetchError(
            f"{base!r} is no URL of a server: write http://HOST:PORT, https://HOST:PORT "
            "or http+unix://%2Fpath%2Fto%2Fsocket"
        )
    try:
        if parts.scheme == "https":
            tls = partial(trust, *files)
            pool = _shared((host, port, "TLS", files), lambda: TLSPool(host, port, tls=tls))
        else:
            pool = _shared((host, port), lambda: Pool(host, port))
    except HTTPError as e:
        raise FetchError(f"{base!r} is no URL: {e}") from e
    return parts.netloc, f"{parts.scheme}://{parts.netloc}{path}", pool
