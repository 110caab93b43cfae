"""What processes need, and how that has grown from the begin of a long run to its end."""

import os
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.table import Row

PAGE = os.sysconf("SC_PAGE_SIZE")
ENDS = 5  # the begin, and the end, is the median of so many, or of a third if there are fewer


@dataclass(frozen=True, slots=True)
class Size:
    """What one process needs; memory, which is resident, in MiB."""

    memory: float
    threads: float
    files: float

    @classmethod
    def of(cls, pid: int) -> "Size":
        """Return what the kernel says of it (man 5 proc)."""
        here = Path(f"/proc/{pid}")
        pages = int((here / "statm").read_text().split()[1])
        threads, files = (len(list((here / what).iterdir())) for what in ("task", "fd"))
        return cls(pages * PAGE / 2**20, threads, files)


@dataclass(slots=True)
class Run:
    """What has been seen of a long run so far."""

    requests: int = 0
    seconds: float = 0.0
    by_kind: Counter[str] = field(default_factory=Counter)
    retried: int = 0
    late: float = 0.0  # seconds by which the sender was behind its plan
    slowest: float = 0.0  # seconds by which an answer came later than its work needed
    beyond: list[float] = field(default_factory=list)  # the ideal, for each replacement
    agents: dict[str, list[Size]] = field(default_factory=dict)
    apps: list[Size] = field(default_factory=list)  # each when it was about to be taken away
    journal: list[float] = field(default_factory=list)  # MiB

    def rows(self) -> list[Row]:
        """Return the table: how far it came, and what has grown."""
        found = [
            Row("requests sent", self.requests, ""),
            *(Row(f"of them {kind}", count, "") for kind, count in self.by_kind.most_common()),
            Row("GETs sent again on a new connection", self.retried, ""),
            Row("instances replaced", len(self.beyond), ""),
            Row("time", self.seconds / 60, "min"),
            Row("beyond the ideal: mean", statistics.fmean(self.beyond), "s"),
            Row("beyond the ideal: worst", max(self.beyond), "s"),
            Row("latest answer: later than its work needed", self.slowest, "s"),
            Row("sender: behind its plan at worst", self.late, "s"),
        ]
        for what, sizes in {**self.agents, "apps before a drain": self.apps}.items():
            for name, unit in (("memory", "MiB"), ("threads", ""), ("files", "")):
                found += _grown(f"{what}, {name}", [getattr(size, name) for size in sizes], unit)
        return found + _grown("journals and their logs", self.journal, "MiB")


def _grown(what: str, values: Sequence[float], unit: str) -> list[Row]:
    few = max(1, min(ENDS, len(values) // 3))
    first, last = statistics.median(values[:few]), statistics.median(values[-few:])
    return [Row(f"{what}: at the begin", first, unit), Row(f"{what}: growth", last - first, unit)]
