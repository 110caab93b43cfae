"""
Agents whose wall clock can be stepped while they run, and no other process's.

By libfaketime, preloaded: all that the process is told of CLOCK_REALTIME is shifted, in
C as in Python. ``python -m bench.stepped ...`` is the agent's command line, started so.
"""

import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import SupportsIndex
from urllib.parse import quote

from compose.places import agent_of
from compose.stack import Local
from deregister_agent.cli.main import main
from deregister_agent.net.fetcher import Fetcher
from tests.servers import find


@contextmanager
def stepped(here: Local) -> Iterator[None]:
    """Start the agents again, with a clock that can be stepped."""
    environment = {
        "LD_PRELOAD": str(_library()),
        "FAKETIME_TIMESTAMP_FILE": str(_offset(here)),
        "FAKETIME_NO_CACHE": "1",  # the file is read at every look at a clock, which costs time
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # CLOCK_BOOTTIME too
        "NO_FAKE_STAT": "1",
    }
    settings = [f"{name}={value}" for name, value in environment.items()]
    step(here, 0.0)
    here.processes.use(
        "deregister-agent", ["env", *settings, sys.executable, "-m", "bench.stepped"]
    )
    for agent in here.place.agents:
        here.processes.kill(agent)
    here.start_agents()
    yield


def step(here: Local, offset: float) -> None:
    """Set the agents' wall clock to that of the host and *offset* seconds, at once."""
    new = _offset(here).with_suffix(".new")
    new.write_text(f"{offset:+.0f}s")
    new.rename(_offset(here))


def ahead(here: Local, name: str) -> float:
    """Return how many seconds the clock of an instance's agent is before the host's."""
    socket = quote(here.place.socket(agent_of(name)), safe="")
    said = Fetcher(f"http+unix://{socket}", timeout=5.0).call("GET", "/healthz").headers["Date"]
    return parsedate_to_datetime(said).timestamp() - time.time()


def _offset(here: Local) -> Path:
    return Path(here.place.root, "offset")


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
