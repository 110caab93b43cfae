"""How a probe is read for doctor: what it counts, and whether its own readings are counted."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from deregister_agent.host.clock import Clock
from deregister_agent.model import Reading
from deregister_agent.ports import IdleProbe
from deregister_agent.status import Finding, FindingKind

_FEWEST, _MOST = 4, 30  # readings that show whether they themselves are counted
_READ_FOR = 1.0  # seconds that they may take after the fewest
_NO_COUNTER = (
    "it has no counter of all work ever started, so it does not see work that begins and ends "
    "between two readings"
)
_UNCLEAR = (
    "so much work begins that it cannot be told whether its own readings are counted: ask again "
    "when there is less"
)


def of_probe(probe: IdleProbe, heard: Callable[[str], None], clock: Clock) -> list[Finding]:
    """Read a probe until it is clear whether its own readings are counted as work."""
    readings = list(_readings(probe, clock))
    last = readings[-1]
    heard(last.mark)
    counts = ", ".join(f"{count} {kind}" for kind, count in last.in_flight.items())
    ok, said, remedy = _judged(readings)
    said = f"in hand: {counts}; {said}"
    return [Finding(kind=FindingKind.PROBE, name=probe.name, ok=ok, said=said, remedy=remedy)]


def _readings(probe: IdleProbe, clock: Clock) -> Iterator[Reading]:
    """Read until two readings show the same counter, or it has risen often enough to judge."""
    last: int | None = None
    end = clock.now() + _READ_FOR
    for number in range(_MOST):
        reading = probe.read(0.0)
        yield reading
        if reading.started is None or reading.started == last:
            return
        if number >= _FEWEST and clock.now() >= end:
            return
        last = reading.started


def _judged(readings: Sequence[Reading]) -> tuple[bool | None, str, str]:
    """Return whether it is as it should be, what to say of the counter, and what to do."""
    started = readings[-1].started
    if started is None:
        return True, _NO_COUNTER, ""
    said, own = f"{started} started in all", own_starts(readings)
    if own is None:
        return True, f"{said}; its own readings are not counted", ""
    if not own:
        return None, f"{said}; {_UNCLEAR}", ""
    said += (
        f"; but in {len(readings)} readings one after the other that rose by {own} most times: the "
        "probe's own reading is counted as work, so the app can never be quiet"
    )
    remedy = f"have the app leave out its own page, or set own_starts = {own} where the kind has it"
    return False, said, remedy


def own_starts(readings: Sequence[Reading]) -> int | None:
    """
    Return by how much each of the readings has itself moved the counter of started work.

    None: by nothing, for two in a row show the same. 0: it cannot be told. Work of others
    comes at random: it does not begin in every gap, and not equally much in most of them.
    """
    rises = [after - before for before, after in pairwise(one.started or 0 for one in readings)]
    least = min(rises, default=0)
    if least <= 0:
        return None
    return least if 2 * rises.count(least) > len(rises) else 0
