"""Real NATS with JetStream, as a child process on a free port of loopback."""

import socket
from pathlib import Path

from deregister_agent.demo.stage import free_ports
from tests.servers import find
from tests.servers.child import Child


class Nats(Child):
    """One running NATS server, with its streams in *folder*."""

    def __init__(self, folder: Path) -> None:
        (self.port,) = free_ports(1)
        self.url = f"nats://127.0.0.1:{self.port}"
        listen = ["--addr", "127.0.0.1", "--port", str(self.port)]
        command = [*find("nats"), *listen, "--jetstream", "--store_dir", str(folder / "streams")]
        super().__init__(command, folder / "log", folder=folder)
        self.wait_ready(self._answers)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as link:
                return link.recv(4) == b"INFO"
        except OSError:
            return False
