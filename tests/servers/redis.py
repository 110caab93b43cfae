"""Real Redis, as a child process on a free port of loopback."""

from collections.abc import Sequence
from pathlib import Path

from deregister_agent.probes.redis_stream.resp import Line, Reply, RespError
from tests.servers import find
from tests.servers.child import Child, free_ports


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

    def call(self, *command: str) -> Reply:
        """Ask one thing, past whatever is under test, as nobody in particular."""
        (reply,) = self.calls([command])
        return reply

    def calls(self, commands: Sequence[Sequence[str]]) -> list[Reply]:
        """Ask several things on one connection."""
        line = Line(str(self.socket), timeout=10.0)
        try:
            return line.ask(commands)
        finally:
            line.close()

    def _answers(self) -> bool:
        try:
            return bool(self.call("PING"))
        except RespError:
            return False
