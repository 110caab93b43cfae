"""How measurements are summed up and printed."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, and the goal it is held against."""

    what: str
    value: float
    unit: str
    goal: float | None = None

    def line(self) -> str:
        """Return the row as the table shows it."""
        verdict = ""
        if self.goal is not None:
            verdict = f"goal <= {self.goal:g}  {'met' if self.value <= self.goal else 'MISSED'}"
        return f"{self.what:68} {self.value:10.2f} {self.unit:6} {verdict}"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that *share* of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def report(measure: Callable[[], list[Row]]) -> None:
    """Measure, and print a table or, with ``--json``, one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    as_json = parser.parse_args().json
    rows = measure()
    as_one = {"rows": [asdict(row) for row in rows]}
    print(json.dumps(as_one) if as_json else "\n".join(map(Row.line, rows)))
