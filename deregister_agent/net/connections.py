"""Connections that speak HTTP/1.1 on sockets with a deadline."""

import http.client
import socket
import ssl
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.util import ssl_wrap_socket

from deregister_agent.net.sockets import DeadlineSocket, DeadlineTlsSocket
from deregister_agent.net.tls import TlsFiles, tls_context


class StaleConnectionError(HTTPError):
    """The server closed a connection that was kept, and gave no answer on it."""


class FinalResponse(http.client.HTTPResponse):
    """
    The final answer: interim ones are passed over (RFC 9110, section 15.2).

    http.client passes over 100 only. It takes 103 for the answer, and the true answer
    would then be that to the next request on the connection.
    """

    def begin(self) -> None:
        """Read the head of the final answer."""
        super().begin()
        while HTTPStatus.SWITCHING_PROTOCOLS < self.status < HTTPStatus.OK:
            self.headers = None  # type: ignore[assignment]  # as before the first head
            super().begin()


class Connection(HTTPConnection):
    """A connection to one server; *reach* opens a socket to it by a deadline. See ``pools``."""

    response_class: Any = FinalResponse
    opened: socket.socket
    """The socket, also when the connection is to be closed after the answer, and has none."""

    def __init__(self, *args: Any, reach: Callable[[float], DeadlineSocket], **kw: Any) -> None:
        super().__init__(*args, **kw)
        self._reach, self._fresh = reach, True

    def connect(self) -> None:
        """
        Open the connection. Raises NewConnectionError.

        An OSError would not do: urllib3 passes over a reset while it sends, for an answer
        may have come before it, and would then fail on the missing socket.
        """
        self._fresh = True
        try:
            self.sock = self.opened = self.open(time.monotonic() + (self.timeout or 0.0))
        except OSError as e:
            raise NewConnectionError(self, str(e)) from e

    def open(self, deadline: float) -> socket.socket:
        """Return a new socket to speak HTTP on, whose deadline that is."""
        return self._reach(deadline)

    def getresponse(self) -> Any:
        """Return the answer. Raises StaleConnectionError if the call may be made once more."""
        fresh, self._fresh = self._fresh, False
        try:
            return super().getresponse()
        except ConnectionError as e:
            if fresh:
                raise
            raise StaleConnectionError from e


class TlsConnection(Connection):
    """The same over TLS. The files are read for each connection, as they are renewed on disk."""

    default_port = 443  # type: ignore[misc]  # as in urllib3's own

    def __init__(self, *args: Any, tls_files: TlsFiles, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self._tls_files = tls_files

    @property
    def is_connected(self) -> bool:
        """
        Whether the connection is open and nothing has come since its last answer.

        What has come, decrypted already or not, would be taken for the next answer.
        """
        decrypted = isinstance(self.sock, ssl.SSLSocket) and self.sock.pending()
        return super().is_connected and not decrypted

    def open(self, deadline: float) -> socket.socket:
        """Connect and shake hands, with the certificates that are on disk now."""
        context = tls_context(*self._tls_files)
        context.sslsocket_class = DeadlineTlsSocket
        plain = super().open(deadline)
        try:
            name = self.host.strip("[]").partition("%")[0]  # without the zone of an IPv6 address
            return ssl_wrap_socket(plain, server_hostname=name, ssl_context=context)
        except (OSError, ValueError):
            plain.close()
            raise
