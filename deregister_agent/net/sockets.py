"""
Sockets whose timeout is a limit for all that follows, not for each operation.

A limit for each read is not enough: a server that sends a byte now and then would hold
the reader for ever. Here settimeout() sets a deadline, and each send and receive after that
gets what is left until then.
"""

import errno
import queue
import socket
import ssl
import threading
import time
from typing import Any


class DeadlineSocket(socket.socket):
    """A socket whose operations all end at one deadline, until settimeout() sets another."""

    deadline = 0.0

    def settimeout(self, limit: float | None) -> None:
        """Let everything from now on be over in *limit* seconds."""
        self.deadline = float("inf") if limit is None else time.monotonic() + limit
        super().settimeout(limit)

    def take_what_is_left(self) -> None:
        """Let the next operation end at the deadline. Raises TimeoutError if that has passed."""
        super().settimeout(min(_left(self.deadline), threading.TIMEOUT_MAX))

    def send(self, *args: Any) -> int:
        """Send what fits."""
        self.take_what_is_left()
        return super().send(*args)

    def sendall(self, *args: Any) -> None:
        """Send everything."""
        self.take_what_is_left()
        super().sendall(*args)

    def recv_into(self, *args: Any) -> int:
        """Receive what is there."""
        self.take_what_is_left()
        return super().recv_into(*args)


class DeadlineTlsSocket(DeadlineSocket, ssl.SSLSocket):
    """The same over TLS; see ssl.SSLContext.sslsocket_class. A handshake is one operation."""


def connect_to_host(host: str, port: int, deadline: float) -> DeadlineSocket:
    """Connect to the first address of *host* that answers; each gets its share of the time."""
    addresses = _resolved(host, port, deadline)
    error: OSError = OSError(0, f"{host} has no address")
    for tried, (family, address) in enumerate(addresses):
        share = _left(deadline) / (len(addresses) - tried)
        try:
            connection = _connected(family, address, share, deadline)
        except OSError as e:
            error = e
            continue
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    raise error


def connect_to_file(path: str, deadline: float) -> DeadlineSocket:
    """Connect to the Unix socket at *path*."""
    return _connected(socket.AF_UNIX, path, _left(deadline), deadline)


def addresses_of(host: str, port: int, deadline: float) -> list[str]:
    """Return the IP addresses that *host* stands for. Raises OSError, and TimeoutError late."""
    return [str(address[0]) for _, address in _resolved(host, port, deadline)]


def _left(deadline: float) -> float:
    """Return the seconds until *deadline*. Raises TimeoutError if there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def _connected(family: int, address: Any, limit: float, deadline: float) -> DeadlineSocket:
    """Return a socket connected in *limit* seconds, and whose *deadline* is that of the call."""
    connection = DeadlineSocket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(limit)
        connection.connect(address)
        connection.settimeout(_left(deadline))
    except OSError:
        connection.close()
        raise
    return connection


def _resolved(host: str, port: int, deadline: float) -> list[tuple[int, Any]]:
    """Return the addresses of *host*. The resolver knows no deadline, so a thread asks it."""
    host = host.replace("%25", "%")  # before the zone of an IPv6 address (RFC 6874)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        asking = threading.Thread(target=_ask, args=(host, port, answers), daemon=True)
        try:
            asking.start()
            found = answers.get(timeout=_left(deadline))
        except queue.Empty:
            raise TimeoutError(f"no address for {host} in time") from None
        except RuntimeError as e:
            raise OSError(errno.EAGAIN, f"no thread to ask for the address of {host}: {e}") from e
        if isinstance(found, OSError):
            raise found from None
    return [(family, address) for family, _, _, _, address in found]


def _ask(host: str, port: int, answers: "queue.SimpleQueue[Any]") -> None:
    try:
        answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as e:
        answers.put(e if isinstance(e, OSError) else OSError(0, f"{host!r} is no host name"))
