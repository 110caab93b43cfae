"""Real Redis, as a child process on a free port of loopback."""

from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from deregister_agent.demo.stage import free_ports
from tests.servers import find
from tests.servers.child import Child


class Redis(Child):
    """One running Redis, in memory only; *more* are lines of its configuration."""

    def __init__(self, folder: Path, *more: str) -> None:
        (self.port,) = free_ports(1)
        self.socket = folder / "s"
        self.url = f"redis://127.0.0.1:{self.port}"
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            'save ""',
            f"dir {folder}",
            f"unixsocket {self.socket}",
            *more,
        ]
        (folder / "redis.conf").write_text("\n".join(lines) + "\n")
        command = [*find("redis"), str(folder / "redis.conf")]
        super().__init__(command, folder / "log", folder=folder)
        self.wait_ready(self._answers)

    def call(self, *command: str) -> Any:
        """Ask one thing with the client that apps use, as nobody in particular."""
        once = Retry(NoBackoff(), 0)
        with redis.Redis(
            unix_socket_path=str(self.socket),
            socket_timeout=10.0,
            protocol=2,
            decode_responses=True,
            retry=once,
        ) as client:
            return client.execute_command(*command)

    def _answers(self) -> bool:
        try:
            return bool(self.call("PING"))
        except redis.ConnectionError:
            return False
