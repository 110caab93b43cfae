"""What Grafana is to show: its queries, tried on the Prometheus of the stack during a deploy."""

import json
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compose.whole import Whole

FOLDER = Path(__file__).parent / "grafana" / "dashboards"
PAUSE = 3.0  # seconds between two rounds of questions


def panels() -> list[dict[str, Any]]:
    """Return the panels of all dashboards."""
    return [
        panel
        for path in sorted(FOLDER.glob("*.json"))
        for panel in json.loads(path.read_text())["panels"]
    ]


def expressions() -> list[str]:
    """Return every query."""
    return [target["expr"] for panel in panels() for target in panel["targets"]]


@contextmanager
def watched(whole: Whole) -> Iterator[list[str]]:
    """Ask all queries until each has had data; give a list of those that have had none yet."""
    missing, over = expressions(), threading.Event()

    def ask() -> None:
        while missing and not over.wait(PAUSE):
            asked = list(missing)
            for expression, series in zip(asked, whole.query(*asked), strict=True):
                if _has_data([each["value"][1] for each in series]):
                    missing.remove(expression)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield missing
    finally:
        over.set()
        asking.join()


def _has_data(values: Sequence[str]) -> bool:
    return any(not math.isnan(float(value)) for value in values)
