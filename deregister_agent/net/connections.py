"""
Connections that end in time: every operation of a socket has the deadline of its call.

A limit for each read is not enough: a server that sends a byte now and then would hold
the reader for ever. So the deadline is set once, by Call.make(), and each connect,
handshake, send and receive gets what is left of it.
"""

import errno
import http.client
import os
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection

SYSTEM_CAS = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
"""Where Debian and Red Hat keep them: a Python built elsewhere may look in other places."""


@dataclass(slots=True)
class Call:
    """One call: when it must be over. The thread that makes it is inside make()."""

    deadline: float  # of time.monotonic()
    fresh: bool = False  # it opened a connection of its own

    @contextmanager
    def make(self) -> Iterator[None]:
        """Let the sockets that this thread uses know of this call."""
        token = _call.set(self)
        try:
            yield
        finally:
            _call.reset(token)

    def remaining(self) -> float:
        """Return the seconds that are left. Raises TimeoutError when there are none."""
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("timed out")
        return remaining


_call: ContextVar[Call] = ContextVar("_call")


class _Socket(socket.socket):
    """A socket whose every operation ends at the deadline of the call."""

    def send(self, *args: Any) -> int:
        self.settimeout(_call.get().remaining())
        return super().send(*args)

    def sendall(self, *args: Any) -> None:
        self.settimeout(_call.get().remaining())
        super().sendall(*args)

    def recv_into(self, *args: Any) -> int:
        self.settimeout(_call.get().remaining())
        return super().recv_into(*args)


class _TLSSocket(_Socket, ssl.SSLSocket):
    """The same over TLS; see ssl.SSLContext.sslsocket_class."""

    def do_handshake(self, *args: Any) -> None:
        self.settimeout(_call.get().remaining())
        super().do_handshake(*args)


class _Final(http.client.HTTPResponse):
    """
    The final answer: interim ones are passed over (RFC 9110, section 15.2).

    http.client passes over 100 only. It takes 103 for the answer, and the true answer
    would then be that to the next request on the connection.
    """

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not HTTPStatus.SWITCHING_PROTOCOLS < status < HTTPStatus.OK:
                return version, status, reason
            http.client.parse_headers(self.fp)


class _Opened:
    """
    A connection that says so when it was never opened.

    urllib3 passes over a reset while it sends, for an answer may have come before it;
    a reset while it connects it passes over too, and would then fail on the missing socket.
    """

    sock: socket.socket | None
    response_class: Any = _Final

    def getresponse(self) -> Any:
        if self.sock is None:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        return super().getresponse()  # type: ignore[misc]  # of the class it is mixed into


class Connection(_Opened, HTTPConnection):
    """A connection through such sockets, to *path* where there is one."""

    def __init__(self, *args: Any, path: str | None = None, **others: Any) -> None:
        super().__init__(*args, **others)
        self._path = path

    def _new_conn(self) -> socket.socket:
        _call.get().fresh = True
        if self._path is not None:
            return _reach(socket.AF_UNIX, self._path)
        return _dial(self.host.strip("[]"), self.port or self.default_port)


class TLSConnection(_Opened, HTTPSConnection):
    """The same over TLS. The certificates are read anew each time, as they are renewed on disk."""

    def __init__(self, *args: Any, tls: Callable[[], ssl.SSLContext], **others: Any) -> None:
        super().__init__(*args, **others)
        self._tls = tls

    def connect(self) -> None:
        """Connect and shake hands, with the certificates that are on disk now."""
        self.ssl_context = self._tls()
        super().connect()

    def _new_conn(self) -> socket.socket:
        _call.get().fresh = True
        return _dial(self.host.strip("[]"), self.port or self.default_port)


def trust(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """Return TLS settings that verify the server's name, against *ca* or the system's CAs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = _TLSSocket
    for path in filter(None, (ca, certificate, key)):
        with path.open("rb"):  # so that the error names the file, which OpenSSL's does not
            pass
    if ca is not None:
        context.load_verify_locations(ca)
    else:
        _trust_system(context)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def _trust_system(context: ssl.SSLContext) -> None:
    """Load the system's CAs from their own place, whatever SSL_CERT_FILE says."""
    paths = ssl.get_default_verify_paths()
    for file in filter(None, (paths.openssl_cafile, *SYSTEM_CAS)):
        if Path(file).is_file():
            context.load_verify_locations(cafile=file)
            break
    if Path(paths.openssl_capath).is_dir():
        context.load_verify_locations(capath=paths.openssl_capath)


def _dial(host: str, port: int) -> socket.socket:
    """Connect to the first address of *host* that answers; each gets its share of the time."""
    addresses = _resolve(host, port)
    error: OSError = OSError(0, f"{host} has no address")
    for tried, (family, address) in enumerate(addresses):
        try:
            return _reach(family, address, share=len(addresses) - tried)
        except OSError as e:
            error = e
    raise error


def _reach(family: int, address: Any, share: int = 1) -> socket.socket:
    connection = _Socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(_call.get().remaining() / share)
        connection.connect(address)
        connection.settimeout(_call.get().remaining())  # TLS begins with what is left
        if family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        connection.close()
        raise
    return connection


def _resolve(host: str, port: int) -> list[tuple[int, Any]]:
    """Return the addresses of *host*. The resolver knows no deadline, so a thread asks it."""
    host = host.replace("%25", "%")  # before the zone of an IPv6 address (RFC 6874)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=_ask, args=(host, port, answers), daemon=True).start()
        try:
            found = answers.get(timeout=_call.get().remaining())
        except queue.Empty:
            raise TimeoutError(f"no address for {host} in time") from None
        if isinstance(found, OSError):
            raise found from None
    return [(family, address) for family, _, _, _, address in found]


def _ask(host: str, port: int, answers: "queue.SimpleQueue[Any]") -> None:
    try:
        answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as e:
        answers.put(e if isinstance(e, OSError) else OSError(0, f"{host!r} is no host name"))
