"""1000 of 1000: not one piece of background work is lost while all instances are replaced."""

import time

from compose.alternatives import WAYS
from compose.places import NAMES
from compose.rollout import Result, Took, replace, run
from compose.stack import Local
from compose.traffic.kinds import later
from compose.traffic.loads import LATER, Kind, Load

REQUESTS = 1000
START = 2.0  # seconds of load before the first replacement


def thousand(slug: str, count: int = REQUESTS, longest: float = 5.0) -> Result:
    """
    Send *count* requests whose work takes up to *longest* seconds after the answer.

    Meanwhile every instance is replaced with kill -9, the way of that name telling when.
    """
    way = next(way for way in WAYS if way.slug == slug)
    kind = Kind(LATER.name, later, 1.0, longest)

    def act(here: Local, load: Load) -> list[Took]:
        time.sleep(START)
        replaced = [replace(here, way, name) for name in NAMES]
        load.finish()
        return replaced

    return run(way, act, lambda _: kind, count=count)
