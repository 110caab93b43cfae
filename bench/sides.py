"""The apps' other doors, as the stack has them: gRPC, a queue, and where the agent pauses it."""

from collections.abc import Sequence

from bench.targets import HTTP, QUEUE, RPC, Ports, Targets
from tests.servers.child import free_ports

HOST = "127.0.0.1"
_PAUSE = """
[[instance.registry]]
kind = "http"
name = "consumer"
preset = "app"
url = "http://{host}:{port}/-/work"
"""


class Sides:
    """Where they are, for each app."""

    def __init__(self, http: Ports, redis: int) -> None:
        ports = free_ports(2 * len(http))
        self.doors = {HTTP: http, RPC: dict(zip(http, ports[::2], strict=True))}
        self._own = dict(zip(http, ports[1::2], strict=True))
        self.queue: Targets = {QUEUE: [f"{HOST}:{redis}"]}

    def arguments(self, name: str) -> Sequence[str]:
        """Return what an app's command line has to say of them."""
        rpc, own = f"{HOST}:{self.doors[RPC][name]}", f"{HOST}:{self._own[name]}"
        return ["--rpc", rpc, "--own", own, "--stream", name]

    def table(self, name: str) -> str:
        """Return the registry that pauses an app's consumer."""
        return _PAUSE.format(host=HOST, port=self._own[name])
