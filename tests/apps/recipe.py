"""
A program of the how-tos, run as its readers would run it, with a function that keeps a record.

What it begins and ends stands in a file, one line each, written at once and at the end of
the file: so a kill loses none of it.
"""

import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deregister_agent.demo.stage import free_ports
from deregister_agent.net.fetcher import Fetcher, FetchError
from tests.servers.child import Child

ROOT = Path(__file__).parents[2]
SHOP = '''
import os, random, threading, time

record = os.open("record", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
failed = set()


def handle_order(body):
    """Take some milliseconds; each fifth order fails when it is tried for the first time."""
    number = int(body)
    os.write(record, b"begin %d\\n" % number)
    time.sleep(random.uniform(0.002, 0.02))
    if number % 5 == 0 and number not in failed:
        failed.add(number)
        os.write(record, b"failed %d\\n" % number)
        raise ValueError(number)
    os.write(record, b"end %d\\n" % number)
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
        self._page = Fetcher(f"http://127.0.0.1:{self.port}", timeout=40.0)
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
        return {int(line[4:]) for line in self.record() if line.startswith("end ")}

    def ask(self, what: str) -> int:
        """Ask it to stop or to start, and return the status of the answer."""
        return self._page.call("POST", f"/-/work/{what}").status

    def report(self) -> Any:
        """Return what it tells the agent."""
        return self._page.call("GET", "/-/work").json()

    def must_tell_the_truth(self) -> None:
        """Fail if the record shows work that a report made at the same time does not tell of."""
        before = self.record()
        report = self.report()
        if self.record() == before:
            assert report["in_flight"]["messages"] >= in_hand(before), before[-9:]

    def _answers(self) -> bool:
        try:
            return self._page.call("GET", "/-/work").status == 200
        except FetchError:
            return False


def in_hand(record: list[str]) -> int:
    """Return how much was begun and not ended."""
    kinds = Counter(line.partition(" ")[0] for line in record)
    return kinds["begin"] - kinds["end"] - kinds["failed"]
