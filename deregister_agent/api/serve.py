"""
Serving the API: what to listen on, whom to trust, and how to stop.

``ServerOptions`` is part of the configuration, so importing this stays cheap:
the web framework and the server are imported by serve() alone.
"""

import logging
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, field_validator, model_validator

from deregister_agent.api.listen import Place, UnixListener, open_tcp, open_unix, parse
from deregister_agent.api.trust import ensure_token
from deregister_agent.config.options import Table
from deregister_agent.errors import AgentError

if TYPE_CHECKING:
    from deregister_agent.api.server import Server
    from deregister_agent.engine.agent import Agent

log = logging.getLogger(__name__)

ARENAS = 2
_M_ARENA_MAX = -8  # malloc.h of the GNU C library


class TlsOptions(Table):
    """``[server.tls]``: TLS with client certificates, for every TCP listener."""

    certificate: Path
    """The agent's certificate chain, PEM. Read at start."""
    key: Path
    """Its private key, PEM, without a passphrase."""
    client_ca: Path
    """The CA that has signed the certificates of those who may connect, PEM."""


class ServerOptions(Table):
    """``[server]``: where the HTTP API listens, and whom it answers."""

    listen: Annotated[tuple[str, ...], Field(min_length=1)] = ("127.0.0.1:8650",)
    """``address:port``, ``[address]:port`` or ``unix:/path``. Not loopback: only with tls."""
    token_file: Path = Path("/var/lib/deregister-agent/token")
    """The bearer token for TCP; made at the first start, mode 0600. Read at start."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that Host may have besides loopback and the address of the listener itself."""
    tls: TlsOptions | None = None
    """TLS with client certificates; needed where other hosts can connect."""
    max_waits: Annotated[int, Field(ge=1, le=4096)] = 512
    """How many requests may wait at once (``wait``, events); more are answered 503."""
    socket_mode: Annotated[str, Field(pattern="^0[0-7]{2}0$")] = "0600"
    """The mode of Unix sockets, octal; who may write to the socket may stop traffic."""
    socket_group: str = ""
    """The group of Unix sockets; the agent's own if empty. Goes with socket_mode 0660."""
    stop_within: Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)] = 5.0
    """How long requests in hand may take to finish when the agent is told to stop."""

    @field_validator("listen")
    @classmethod
    def _places(cls, listen: tuple[str, ...]) -> tuple[str, ...]:
        for entry in listen:
            parse(entry)
        return listen

    @model_validator(mode="after")
    def _only_with_certificates(self) -> Self:
        for place in self.places():
            if place.elsewhere and self.tls is None:
                raise ValueError(
                    f"listen: other hosts can reach {place}: set tls (certificate, key and "
                    "client_ca), or listen on 127.0.0.1, [::1] or unix:/path"
                )
        return self

    def places(self) -> list[Place]:
        """Return what listen names."""
        return [parse(entry) for entry in self.listen]


def serve(agent: "Agent", options: ServerOptions) -> None:
    """
    Serve the API of *agent* until SIGTERM or SIGINT, then stop both. Call it from the main thread.

    Raises AgentError if it cannot listen: the address is taken, the token file or
    a certificate cannot be used. *agent* is started once the sockets are open.
    """
    _share_arenas()
    server = prepare(agent, options)
    try:
        agent.start()
        server.run()
    finally:
        server.close()


def _share_arenas() -> None:
    """
    Have all threads take their memory from few arenas (mallopt(3), M_ARENA_MAX).

    By default glibc has up to eight for each core, and each keeps the most that a thread
    ever needed from it: on 2 cores that was half of the memory of an agent under load.
    """
    import ctypes  # noqa: PLC0415 - takes longer than the rest of this module

    with suppress(AttributeError, OSError):  # another C library does without
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)


def prepare(agent: "Agent", options: ServerOptions) -> "Server":
    """Open the sockets and return a server that is ready to run. Raises AgentError."""
    # Only a daemon needs these, and they take longer to import than check-config to run.
    from deregister_agent.api.app import create_app  # noqa: PLC0415 - see above
    from deregister_agent.api.held_requests import Waits  # noqa: PLC0415 - see above
    from deregister_agent.api.server import Server, check_certificates  # noqa: PLC0415 - see above
    from deregister_agent.api.trust import Trust  # noqa: PLC0415 - see above

    check_certificates(options)
    tcp = any(place.path is None for place in options.places())
    trust = Trust(ensure_token(options.token_file) if tcp else "", options.allowed_hosts)
    waits = Waits(options.max_waits)
    app = create_app(agent, trust, waits)
    return Server(agent, app, waits, options, open_all(options))


def open_all(options: ServerOptions) -> list[socket.socket]:
    """Open every listener, or none. Raises AgentError."""
    opened: list[socket.socket] = []
    try:
        for place in options.places():
            if place.path is None:
                opened.append(open_tcp(place))
            else:
                mode = int(options.socket_mode, 8)
                opened.append(open_unix(place.path, mode, options.socket_group))
    except AgentError:
        close_all(opened)
        raise
    return opened


def close_all(sockets: list[socket.socket]) -> None:
    """Close the listeners and remove the files of Unix sockets."""
    for sock in sockets:
        if isinstance(sock, UnixListener):
            sock.remove_file()
        sock.close()
