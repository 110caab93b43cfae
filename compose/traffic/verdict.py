"""What became of every request: what clients were told, what Redis counted, what ledgers say."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from compose.stack import Stack
from compose.traffic.loads import KEPT, MESSAGE, Sent
from deregister_agent.cli.client import path_of
from deregister_agent.errors import AgentError

BACKGROUND, UNPROCESSED = "background work", "message"
"""What a loss is called where the client was told that all is well."""
PAUSE = 0.1  # seconds between two looks at Redis
MARKS = frozenset({"withdrawing", "settling", "draining", "drained", "expired"})

Mark = tuple[float, str]
"""A monotonic time, and the phase of a drain that began then."""


def cause_of(one: Sent) -> str:
    """Return what the loss of accepted work is called."""
    return UNPROCESSED if one.kind == MESSAGE.name else BACKGROUND


def finished(here: Stack, accepted: Sequence[Sent], limit: float) -> tuple[int, Mapping[str, int]]:
    """Return what Redis has counted, once all that was accepted is there or *limit* is over."""
    end = time.monotonic() + limit
    while True:
        counter, done = here.counts()
        if time.monotonic() >= end or all(one.work in done for one in accepted):
            return counter, done
        time.sleep(PAUSE)


def begun_twice(ledgers: Iterable[Path], sent: Sequence[Sent]) -> int:
    """
    Count the work that a process took in hand after another one, or it itself, had.

    But for the requests that a client may repeat: a GET on a kept connection.
    """
    may_repeat = {one.work for one in sent if one.kind == KEPT.name}
    begun = Counter(
        line.split()[1]
        for ledger in ledgers
        if ledger.exists()
        for line in ledger.read_text().splitlines()
        if line.startswith("+")
    )
    return sum(1 for work, times in begun.items() if times > 1 and work not in may_repeat)


def slowest(sent: Sequence[Sent]) -> float:
    """Return how much later than its work needed the latest of all answers came, in seconds."""
    return max((one.ended - one.at - one.seconds for one in sent if not one.lost), default=0.0)


def marks(here: Stack, names: Iterable[str]) -> Mapping[str, Sequence[Mark]]:
    """Return when each phase of each drain began, from the agent's own timeline."""
    offset = time.time() - time.monotonic()
    found: dict[str, list[Mark]] = {}
    for name in names:
        with suppress(AgentError):
            events = [event for drain in _drains(here, name) for event in drain["events"]]
            times = [(_seconds(event["at"]) - offset, event["kind"]) for event in events]
            found[name] = sorted(mark for mark in times if mark[1] in MARKS)
    return found


def _drains(here: Stack, name: str) -> list[dict[str, Any]]:
    ask = here.agent.get
    drains = ask(path_of(name, "drains")).body["drains"]
    return [ask(path_of(name, f"drains/{drain['id']}")).body for drain in drains]


def _seconds(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()
