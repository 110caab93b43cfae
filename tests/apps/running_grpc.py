"""Runs the gRPC app of ``grpc_app`` as a child process and tells it what to do."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from deregister_agent.demo.stage import free_ports


class GrpcApp:
    """A child process, which ends with the block."""

    def __init__(self, folder: Path, *tls: str) -> None:
        (self.port,) = free_ports(1)
        self._log = (folder / "log").open("wb")
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.apps.grpc_app", str(self.port), *tls],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self._hear("ready", folder)

    def tell(self, order: str) -> None:
        """Give an order, and return once it is carried out."""
        assert self._child.stdin
        self._child.stdin.write(f"{order}\n")
        self._child.stdin.flush()
        self._hear("done", Path(self._log.name).parent)

    def freeze(self) -> None:
        """Let it stand still: connections are accepted, and nothing answers."""
        os.kill(self._child.pid, signal.SIGSTOP)

    def _hear(self, word: str, folder: Path) -> None:
        assert self._child.stdout
        if (heard := self._child.stdout.readline().strip()) != word:
            self._end()
            raise AssertionError(f"heard {heard!r}: {(folder / 'log').read_text()[-2000:]}")

    def _end(self) -> None:
        self._child.kill()
        self._child.communicate()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
