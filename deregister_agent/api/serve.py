"""Start the API of an agent: open its sockets, serve it, and stop both."""

import ctypes
from contextlib import suppress

from deregister_agent.api.app import create_app
from deregister_agent.api.held_requests import HeldRequests
from deregister_agent.api.listen import open_listeners
from deregister_agent.api.server import THREADS, ApiServer, check_certificates
from deregister_agent.api.trust import Trust, ensure_token
from deregister_agent.api.wsgi_bridge import WsgiBridge
from deregister_agent.config.server_options import ServerOptions
from deregister_agent.engine.agent import Agent

ARENAS = 2
_M_ARENA_MAX = -8  # malloc.h of the GNU C library


def serve(agent: Agent, options: ServerOptions) -> None:
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
    with suppress(AttributeError, OSError):  # another C library does without
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)


def prepare(agent: Agent, options: ServerOptions) -> ApiServer:
    """Open the sockets and return a server that is ready to run. Raises AgentError."""
    check_certificates(options)
    tcp = any(address.path is None for address in options.addresses())
    trust = Trust(ensure_token(options.token_file) if tcp else "", options.allowed_hosts)
    held = HeldRequests(options.max_waits)
    app = create_app(agent, held)
    bridge = WsgiBridge(app, options.max_waits + THREADS, trust.check)
    return ApiServer(agent, bridge, held, options, open_listeners(options))
