"""Servers that misbehave on the socket: they hang, trickle, reset, break off."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
TRICKLE = 0.05

Talk = Callable[[socket.socket, threading.Event], None]


class Server:
    """A server of one socket; *talk* is what it does with each connection, until it is over."""

    def __init__(self, listener: socket.socket, talk: Talk, tls: ssl.SSLContext | None) -> None:
        self.listener, self.talk, self.tls = listener, talk, tls
        self.over = threading.Event()
        self.connections = 0
        self.open: list[socket.socket] = []
        self.threads: list[threading.Thread] = []

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def end(self) -> None:
        self.over.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()

    def run(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections += 1
                self.open.append(connection)
                thread = threading.Thread(target=self.serve, args=(connection,))
                self.threads.append(thread)
                thread.start()

    def serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(10)
            if self.tls is None:
                self.talk(connection, self.over)
                return
            with self.tls.wrap_socket(connection, server_side=True) as wrapped:
                self.talk(wrapped, self.over)


@contextmanager
def talking(talk: Talk, *, path: str = "", tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run a server on a free port, or on a Unix socket at *path*, until the block ends."""
    if path:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
    else:
        listener = socket.create_server(("127.0.0.1", 0))
    server = Server(listener, talk, tls)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.end()
        thread.join()


def answering(data: bytes, *, keep: bool = False) -> Talk:
    """Answer each request with *data*; then close, or wait for the next."""

    def talk(connection: socket.socket, over: threading.Event) -> None:
        while connection.recv(65536):
            connection.sendall(data)
            if not keep:
                _finish(connection)
                return

    return talk


def _finish(connection: socket.socket) -> None:
    """Close after the rest of the request has come: closing before would reset the connection."""
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(65536):
        pass


def trickling(data: bytes, at_once: int) -> Talk:
    """Send *at_once* bytes, then one now and then: each read is quick, the whole never ends."""

    def talk(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(data[:at_once])
        for byte in data[at_once:]:
            if over.wait(TRICKLE):
                return
            connection.sendall(bytes([byte]))

    return talk


def hanging(connection: socket.socket, over: threading.Event) -> None:
    """Take the request and say nothing."""
    connection.recv(65536)
    over.wait(20)


def resetting(connection: socket.socket, over: threading.Event) -> None:
    """Take the request and reset the connection."""
    connection.recv(65536)
    linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
