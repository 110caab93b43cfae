"""
A program of the how-tos, run as its readers would run it, with a function that keeps a record.

What it begins and ends stands in a file, one line each, written at once and at the end of
the file: so a kill loses none of it.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deregister_agent.demo.stage import free_ports
from deregister_agent.net.fetcher import Fetcher, FetchError
from tests.servers.child import Child

ROOT = Path(__file__).parents[2]
SHOP = '''
import itertools, os, random, time

record = os.open("record", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
tries = itertools.count(1)
known = set()
LONG = float(os.environ.get("SHOP_LONG", "0.3"))  # seconds


def handle_order(body):
    """Take some time; when tried first, each fifth order fails and each seventh takes long."""
    number, first = int(body), body not in known
    known.add(body)
    this = f"{number} {os.getpid()}-{next(tries)}"
    os.write(record, f"begin {this}\\n".encode())
    time.sleep(LONG if first and number % 7 == 0 else random.uniform(0.002, 0.02))
    failed = first and number % 5 == 0
    os.write(record, f"{'failed' if failed else 'end'} {this}\\n".encode())
    if failed:
        raise ValueError(number)
'''


def program(page: str, heading: str) -> str:
    """Return the Python program below that heading of a how-to."""
    text = (ROOT / "docs" / "how-to" / page).read_text()
    _, _, section = text.partition(f"\n## {heading}\n")
    (found, *_) = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return str(found)


class Recipe(Child):
    """The program in a process of its own; *environment* tells it where its broker is."""

    def __init__(self, folder: Path, source: str, environment: Mapping[str, str]) -> None:
        (self.port,) = free_ports(1)
        self._record = folder / "record"
        self._record.touch()
        (folder / "shop.py").write_text(SHOP)
        (folder / "consumer.py").write_text(source)
        self.url = f"http://127.0.0.1:{self.port}/-/work"
        self._page = Fetcher(self.url, timeout=40.0)
        super().__init__(
            [sys.executable, "consumer.py"],
            folder / "log",
            environment={
                **environment,
                "WORK_PORT": str(self.port),
                "PYTHONPATH": f"{ROOT}:{folder}",
            },
            folder=folder,
        )
        self.wait_ready(self._answers)

    def record(self) -> list[str]:
        """Return what it has begun and ended so far."""
        return self._record.read_text().splitlines()

    def handled(self) -> set[int]:
        """Return the orders that were handled to their end."""
        return {int(line.split()[1]) for line in self.record() if line.startswith("end ")}

    def ask(self, what: str) -> int:
        """Ask it to stop or to start, and return the status of the answer."""
        return self._page.call("POST", f"/{what}").status

    def report(self) -> Any:
        """Return what it tells the agent."""
        return self._page.call("GET", "").json()

    def must_tell_the_truth(self) -> None:
        """Fail if a report does not tell of work that was in hand before, and is after it."""
        before = in_hand(self.record())
        report = self.report()
        throughout = before & in_hand(self.record())
        assert sum(report["in_flight"].values()) >= len(throughout), throughout

    def _answers(self) -> bool:
        try:
            return self._page.call("GET", "").status == 200
        except FetchError:
            return False


def in_hand(record: Sequence[str]) -> set[str]:
    """Return what was begun and has neither ended nor failed, each try for itself."""
    tries: dict[bool, set[str]] = {True: set(), False: set()}
    for kind, _, this in (line.partition(" ") for line in record):
        tries[kind == "begin"].add(this)
    return tries[True] - tries[False]
