"""The server of the API: hypercorn, on sockets that are open already, until told to stop."""

import asyncio
import logging
import os
import signal
import socket
import ssl
import threading
from typing import Any

from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config, Sockets

from deregister_agent.api.held_requests import HeldRequests
from deregister_agent.api.listen import BACKLOG, UnixListener, close_listeners
from deregister_agent.api.systemd import notify, watchdog_every
from deregister_agent.api.wsgi_bridge import WsgiBridge, in_thread
from deregister_agent.config.server_options import ServerOptions
from deregister_agent.engine.agent import Agent
from deregister_agent.errors import AgentError
from deregister_agent.host.addresses import ListenAddress

log = logging.getLogger(__name__)

THREADS = 32
"""Requests that may be answered at once, besides those that wait."""
IDLE_TIME = 15.0
"""Seconds a connection may be silent, or take to send the head of a request."""
HANDSHAKE_TIME = 10.0
"""Seconds a TLS handshake may take."""


class ApiServer:
    """The API of *agent* on *sockets*, ready to run once."""

    def __init__(
        self,
        agent: Agent,
        bridge: WsgiBridge,
        held: HeldRequests,
        options: ServerOptions,
        sockets: list[socket.socket],
    ) -> None:
        self._agent, self._held, self._options, self._sockets = agent, held, options, sockets
        self._bridge = bridge
        self._config = _HypercornSettings(options, sockets)
        self._stop = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told: asyncio.Event | None = None
        logging.getLogger("hypercorn.error").setLevel(logging.WARNING)

    @property
    def addresses(self) -> list[str]:
        """The addresses that the server listens on, with the ports that the kernel has chosen."""
        return [str(_address(sock)) for sock in self._sockets]

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT or stop(); then let requests finish and stop the agent."""
        asyncio.run(self._run())

    def stop(self) -> None:
        """End run(). May be called from any thread, before run() too."""
        self._stop.set()
        loop, told = self._loop, self._told
        if loop is not None and told is not None and not loop.is_closed():
            loop.call_soon_threadsafe(told.set)

    def close(self) -> None:
        """Close the sockets and remove their files."""
        close_listeners(self._sockets)

    async def _run(self) -> None:
        loop, told = asyncio.get_running_loop(), asyncio.Event()
        self._loop, self._told = loop, told
        loop.set_exception_handler(_on_loop_error)
        if self._stop.is_set():
            told.set()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._signalled, number)
        serving = asyncio.create_task(
            hypercorn_serve(self._bridge, self._config, shutdown_trigger=told.wait, mode="asgi")  # type: ignore[arg-type]  # plain dicts are ASGI messages
        )
        watchdog = asyncio.create_task(_feed_watchdog())
        log.info("listening on %s", ", ".join(self.addresses))
        notify("READY=1")
        stopped = asyncio.create_task(told.wait())
        await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
        notify("STOPPING=1")
        await self._wind_up(serving)
        watchdog.cancel()

    async def _wind_up(self, serving: "asyncio.Task[None]") -> None:
        """End what waits, let requests finish, and stop the agent, each within its time."""
        limit = self._options.stop_within
        self._held.stopping.set()
        for loop in self._agent.instances.values():
            loop.close()
        done, _ = await asyncio.wait({serving}, timeout=limit + 1)  # hypercorn cuts at the limit
        if not done:
            log.warning("requests were cut: they had not finished within %g s", limit)
            serving.cancel()
        stopping = asyncio.create_task(in_thread("stop", self._agent.stop))
        _, late = await asyncio.wait({stopping}, timeout=limit)
        if late:
            log.warning("the agent's threads did not end within %g s; ending without them", limit)
        if done:
            await serving  # raises what made it end by itself

    def _signalled(self, number: int) -> None:
        """Stop; at once if this is the second time: the journal holds all that counts."""
        if self._stop.is_set():
            log.warning("second %s: ending at once", signal.Signals(number).name)
            self.close()
            os._exit(128 + number)
        log.info("%s: stopping", signal.Signals(number).name)
        self.stop()


class _HypercornSettings(Config):
    """Hypercorn's settings: a limit for everything, and sockets of our own."""

    accesslog = None
    alpn_protocols = ["http/1.1"]  # noqa: RUF012 - hypercorn's own form
    backlog = BACKLOG
    errorlog = logging.getLogger("hypercorn.error")
    h11_max_incomplete_size = 16 * 1024
    include_server_header = False
    keep_alive_timeout = IDLE_TIME
    # Would also end requests that wait, which send nothing: the bridge limits bodies instead.
    read_timeout = None
    ssl_handshake_timeout = HANDSHAKE_TIME

    def __init__(self, options: ServerOptions, sockets: list[socket.socket]) -> None:
        self._own = sockets
        self.graceful_timeout = options.stop_within
        if options.tls is not None:
            self.keyfile_password = ""  # else OpenSSL asks on the terminal
            self.certfile, self.keyfile = str(options.tls.certificate), str(options.tls.key)
            self.ca_certs = str(options.tls.client_ca)
            self.verify_mode = ssl.CERT_REQUIRED

    def create_sockets(self) -> Sockets:
        """Return the sockets that are open already; Unix sockets are never TLS."""
        unix: list[socket.socket] = [s for s in self._own if isinstance(s, UnixListener)]
        tcp = [s for s in self._own if not isinstance(s, UnixListener)]
        if self.ssl_enabled:
            return Sockets(secure_sockets=tcp, insecure_sockets=unix, quic_sockets=[])
        return Sockets(secure_sockets=[], insecure_sockets=tcp + unix, quic_sockets=[])


def check_certificates(options: ServerOptions) -> None:
    """Raise AgentError if what ``tls`` names cannot be used."""
    try:
        _HypercornSettings(options, []).create_ssl_context()
    except OSError as e:
        raise AgentError(f"server.tls: certificate, key and client_ca cannot be used: {e}") from e


async def _feed_watchdog() -> None:
    """Tell systemd, for as long as this event loop turns, that it turns."""
    every = watchdog_every()
    while every is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(every)


def _on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """
    Pass over a connection that its client broke, or that was cut at the stop.

    Every other error is logged as an error.
    """
    harmless = (OSError, asyncio.CancelledError)
    error = context.get("exception")
    rest = error.split(harmless)[1] if isinstance(error, BaseExceptionGroup) else error
    if error is not None and (rest is None or isinstance(rest, harmless)):
        log.debug("a connection broke: %r", error)
    else:
        loop.default_exception_handler(context)


def _address(sock: socket.socket) -> ListenAddress:
    if isinstance(sock, UnixListener):
        return ListenAddress(path=sock.path)
    return ListenAddress(*sock.getsockname()[:2])
