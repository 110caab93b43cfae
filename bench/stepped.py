"""
An agent whose wall clock can be stepped while it runs, and no other process's.

By libfaketime, preloaded: all that the process is told of CLOCK_REALTIME is shifted, in
C as in Python. ``python -m bench.stepped ...`` is the agent's command line, started so.
"""

import os
import select
import sys
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import SupportsIndex
from urllib.parse import quote

from bench.stack import ROOT, Agent
from deregister_agent.cli import main
from deregister_agent.fetch import Fetcher
from tests.servers import find
from tests.servers.child import Child


class SteppedAgent(Agent):
    """The agent of a folder that has its configuration, with a clock of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, (folder / "agent.toml").read_text())
        self._offset = folder / "offset"
        self._asks = Fetcher(f"http+unix://{quote(f'{folder}/agent.sock', safe='')}", timeout=5.0)
        self.step(0.0)

    def start(self) -> None:
        """Start it, and return once it answers."""
        command = [sys.executable, "-m", "bench.stepped"]
        command += ["--config", str(self.folder / "agent.toml"), "serve"]
        environment = {
            "LD_PRELOAD": str(_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",  # the file is read at every look at a clock, which costs time
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # CLOCK_BOOTTIME too
            "NO_FAKE_STAT": "1",
        }
        log = self.folder / "agent.log"
        self.child = Child(command, log, environment=environment, folder=ROOT)
        self.child.wait_ready(self._answers)

    def step(self, offset: float) -> None:
        """Set its wall clock to that of the host and *offset* seconds, at once."""
        new = self._offset.with_suffix(".new")
        new.write_text(f"{offset:+.0f}s")
        new.rename(self._offset)

    def ahead(self) -> float:
        """Return how many seconds its wall clock is before the host's, as its answers say."""
        said = self._asks.call("GET", "/healthz").headers["Date"]
        return parsedate_to_datetime(said).timestamp() - time.time()


def _library() -> Path:
    """Return libfaketime, for programs with threads; it lies beside its own program."""
    (program,) = find("faketime")
    return next(Path(program).parents[2].glob("usr/lib/*/faketime/libfaketimeMT.so.1"))


def _sleep(seconds: float | SupportsIndex) -> None:
    select.select((), (), (), float(seconds))


if __name__ == "__main__":
    # libfaketime before 2024 takes the monotonic deadline of clock_nanosleep, which is
    # what time.sleep() calls, for one of the wall clock, and fails with EINVAL.
    time.sleep = _sleep
    os.environ.pop("LD_PRELOAD", None)  # for this process only
    main()
