"""The sockets on which the HTTP API listens."""

import contextlib
import errno
import grp
import os
import socket
import stat
import struct
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from deregister_agent.config.server_options import ServerOptions
from deregister_agent.errors import AgentError
from deregister_agent.host.addresses import ListenAddress

BACKLOG = 256
"""Connections that may wait to be accepted."""
LOST_AFTER = 30
"""Seconds after which a TCP client that takes nothing, or has vanished, is given up."""

unix_peer: ContextVar[str] = ContextVar("unix_peer", default="unix socket")
"""Who is at the other end of the Unix connection that the current task answers."""


class UnixListener(socket.socket):
    """A listening Unix socket that removes its file again, and notes who connects."""

    def __init__(self, path: Path) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self.path = path
        self._file: tuple[int, int] | None = None

    def accept(self) -> tuple[socket.socket, Any]:
        """
        Accept a connection, and note who opened it for the task that will answer.

        The server does not say which socket a request came by. But asyncio makes
        the connection's task right after this call, and a task inherits the context.
        """
        connection, address = super().accept()
        unix_peer.set(_peer_of(connection))
        return connection, address

    def made_file(self) -> None:
        """Remember the file that bind() has made."""
        found = self.path.lstat()
        self._file = (found.st_dev, found.st_ino)

    def remove_file(self) -> None:
        """Remove the file, unless another one has taken its place."""
        with contextlib.suppress(OSError):
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == self._file:
                self.path.unlink()


def _peer_of(connection: socket.socket) -> str:
    """Say who opened a Unix connection (man 7 unix: SO_PEERCRED)."""
    size = struct.calcsize("3i")
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, _ = struct.unpack("3i", raw)
    return f"uid {uid}"


def open_listeners(options: ServerOptions) -> list[socket.socket]:
    """Open every socket that *options* name, or none. Raises AgentError."""
    opened: list[socket.socket] = []
    try:
        for address in options.addresses():
            if address.path is None:
                opened.append(open_tcp(address))
            else:
                mode = int(options.socket_mode, 8)
                opened.append(open_unix(address.path, mode, options.socket_group))
    except AgentError:
        close_listeners(opened)
        raise
    return opened


def close_listeners(sockets: list[socket.socket]) -> None:
    """Close the listening sockets and remove the files of Unix sockets."""
    for sock in sockets:
        if isinstance(sock, UnixListener):
            sock.remove_file()
        sock.close()


def open_tcp(listen: ListenAddress) -> socket.socket:
    """Listen on an address. Raises AgentError, which says what to do."""
    family = socket.AF_INET6 if ":" in listen.address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Accepted sockets inherit these (man 7 tcp): a client that has vanished, or
        # takes nothing, does not keep its connection for ever.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, LOST_AFTER)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, LOST_AFTER // 3)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_AFTER * 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((listen.address, listen.port))
        sock.listen(BACKLOG)
    except OSError as e:
        sock.close()
        advice = "change server.listen"
        if e.errno == errno.EADDRINUSE:
            advice = f"see who has it with 'ss -ltnp sport = :{listen.port}', or {advice}"
        raise AgentError(f"cannot listen on {listen}: {e.strerror}; {advice}") from e
    sock.setblocking(False)
    return sock


def open_unix(path: Path, mode: int, group: str) -> UnixListener:
    """Listen on a Unix socket. Raises AgentError; touches nothing that is not a dead socket."""
    _clear(path)
    sock = UnixListener(path)
    try:
        sock.bind(str(path))
        sock.made_file()
        # Nobody can connect before listen(), so the file is never open to more than these.
        if group:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
        path.chmod(mode)
        sock.listen(BACKLOG)
    except (OSError, KeyError) as e:
        sock.remove_file()
        sock.close()
        raise AgentError(f"cannot listen on unix:{path}: {e}") from e
    sock.setblocking(False)
    return sock


def _clear(path: Path) -> None:
    """Remove a socket file that nobody listens on any more."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # nothing there, or bind() will say what is wrong
    if not stat.S_ISSOCK(mode):
        raise AgentError(f"{path} exists and is no socket: move it away, or change server.listen")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass  # it cannot be told; unknown is not dead
    raise AgentError(
        f"another process listens on {path}: see who with 'ss -lxp src {path}', stop it, "
        "or change server.listen"
    )
