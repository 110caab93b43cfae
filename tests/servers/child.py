"""Runs a server as a child process that a test can freeze and kill, and that always ends."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

START = 30.0
"""How long a server may take to start, in seconds; the machine may be busy."""


def wait_until(
    condition: Callable[[], object], what: str, *, limit: float = 20.0, pause: float = 0.02
) -> None:
    """Return once *condition* holds. Fails the test, with *what*, if it does not in *limit* s."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {limit} s in vain until {what}")
        time.sleep(pause)


class Child:
    """
    One process and all that it starts, with its output in a file. Use it in a ``with``.

    It has a session of its own, so signals reach the whole family and none is left over.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self.pid = self.process.pid

    def wait_ready(self, ready: Callable[[], object], *, limit: float = START) -> None:
        """Return once *ready* holds; if it does not, fail with the end of the log."""
        try:
            wait_until(
                lambda: self.process.poll() is not None or ready(), "it is ready", limit=limit
            )
        except AssertionError as e:
            raise AssertionError(f"{e}; its log ends:\n{self.tail()}") from None
        if self.process.poll() is not None:
            raise AssertionError(f"it ended by itself; its log ends:\n{self.tail()}")

    def tail(self) -> str:
        """Return the end of what it has written."""
        return self.log.read_text(errors="replace")[-4000:]

    def stop(self) -> None:
        """Freeze it: connections are still accepted by the kernel, and nothing answers."""
        self.signal(signal.SIGSTOP)
        wait_until(self._is_frozen, "each of its threads has stopped")

    def _is_frozen(self) -> bool:
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/stat")
        return all(task.read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)

    def cont(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it, as a crash would, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and to what it has started."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return

    def close(self) -> None:
        """End it: politely first, and then not."""
        self.cont()
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=5)
        self.kill()

    def __enter__(self) -> Self:
        """Return itself: it runs already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it, whatever has happened."""
        self.close()
