"""How each kind of backend is asked for doctor, and what its answer means for a drain."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from deregister_agent.errors import AgentError, NotifyError, TooFewOthers
from deregister_agent.host.clock import Clock
from deregister_agent.model import GUARDED, Instance, Listing, Look, Phase, Process, Reading
from deregister_agent.ports import IdleProbe, Notifier, ProcessFinder, ReadyCheck, Registry
from deregister_agent.status import Finding, FindingKind

UP = frozenset({Phase.SERVING, Phase.RESTORING})
"""The phases in which the app should be there and ready."""
GUARD_SPEAKS = UP | {Phase.EXPIRED, Phase.GONE}
"""The phases in which a stop-traffic would begin a drain, and ask the guard."""
MOST_PEERS = 10
"""The peers that are named one by one."""

_FEWEST, _MOST = 4, 30  # readings of a probe that show whether they themselves are counted
_READ_FOR = 1.0  # seconds that they may take after the fewest
_EARLIER = Process(boot_id="", pids=((1, 0),))
"""Of a process of an earlier boot a finder knows that it has exited, and tells who is there now."""


@dataclass(frozen=True, slots=True)
class RegistryRules:
    """What the answer of one registry is judged by."""

    instance: Instance
    phase: Phase
    min_others: int
    may_be_absent: bool


def of_agent(name: str, phase: Phase, trouble: AgentError | None) -> Finding:
    """Return in which phase the instance is, and what keeps the agent from its work."""
    said = f"the phase is {phase}"
    if phase in GUARDED | {Phase.GONE}:
        said += ": that its registries send it nothing is as it should be"
    if trouble is not None:
        return Finding(kind=FindingKind.AGENT, name=name, ok=False, said=f"{said}; {trouble}")
    return Finding(kind=FindingKind.AGENT, name=name, ok=None, said=said)


def not_asked(name: str) -> list[Finding]:
    """Return that a registry which answers others itself can only be asked in a running agent."""
    return [
        _registry(
            name,
            False,
            "not asked: it answers others itself, and does so only while an agent of this "
            "version runs",
            "start the agent, and ask again",
        )
    ]


def of_registry(registry: Registry, rules: RegistryRules) -> list[Finding]:
    """Ask a registry what it shows, how many others there are, and what looks like the instance."""
    look = registry.look()
    try:
        others, uncounted = registry.others(), ""
    except AgentError as e:
        others, uncounted = None, str(e)
    found = [_of_look(registry, look, others, rules)]
    if uncounted:
        found.append(_registry(registry.name, False, uncounted))
    few = others is not None and others < rules.min_others
    if few and look.listed and rules.phase in GUARD_SPEAKS:
        found.append(_guarded(registry.name, others or 0, rules))
    return found


def _of_look(registry: Registry, look: Look, others: int | None, rules: RegistryRules) -> Finding:
    more = "" if others is None else f"; {others} other instance(s) get work there"
    if look.stragglers:
        more += "; old routes may still bring work: " + ", ".join(s.what for s in look.stragglers)
    match look.listing:
        case Listing.LISTED:
            ok = None if rules.phase is Phase.GONE else rules.phase not in _OUT
            return _registry(registry.name, ok, f"listed: it sends the instance work{more}")
        case Listing.OUT:
            by = f" ({look.mark})" if look.mark else ""
            said = f"there and out{by}: it sends the instance nothing{more}"
            serving = rules.phase is Phase.SERVING
            remedy = "if it should take traffic: lift what keeps it out there" if serving else ""
            return _registry(registry.name, None if rules.phase in UP else True, said, remedy)
    return _absent(registry, rules, more)


_OUT = GUARDED - {Phase.WITHDRAWING}
"""The phases in which a registry that lists the instance has taken it back."""


def _absent(registry: Registry, rules: RegistryRules, more: str) -> Finding:
    said = f"absent: it does not show the instance{more}"
    if rules.phase not in UP:
        return _registry(registry.name, True, said)
    if rules.may_be_absent:
        return _registry(registry.name, None, f'{said}; by choice (absent = "withdrawn")')
    try:
        alike = list(registry.look_alikes())
    except AgentError as e:
        alike = [f"cannot be told: {e}"]
    said += f"; what looks like it there: {'; '.join(alike)}" if alike else ""
    if rules.phase is Phase.RESTORING:
        return _registry(registry.name, None, said)
    return _registry(
        registry.name,
        False,
        f"{said}; stop-traffic would be refused unless the agent has seen it there",
        f"correct the options of {registry.name}, or register the app; or set "
        'absent = "withdrawn" there, if by choice it is not listed',
    )


def _guarded(name: str, others: int, rules: RegistryRules) -> Finding:
    refused = TooFewOthers(rules.instance.name, name, others, rules.min_others)
    remedy = "start another instance first, or set min_others to how many must stay"
    return _registry(name, False, f"the guard would refuse: {refused}", remedy)


def _registry(name: str, ok: bool | None, said: str, remedy: str = "") -> Finding:
    return Finding(kind=FindingKind.REGISTRY, name=name, ok=ok, said=said, remedy=remedy)


def of_probe(probe: IdleProbe, heard: Callable[[str], None], clock: Clock) -> list[Finding]:
    """Read a probe until it is clear whether its own readings are counted as work."""
    readings = list(_readings(probe, clock))
    heard(readings[-1].mark)
    last = readings[-1]
    counts = ", ".join(f"{count} {kind}" for kind, count in last.in_flight.items())
    said = f"in hand: {counts}"
    if last.started is None:
        said += (
            "; it has no counter of all work ever started, so it does not see work that begins "
            "and ends between two readings"
        )
        return [_probe(probe.name, True, said)]
    own, pairs = own_starts(readings)
    said += f"; {last.started} started in all"
    if own is None:
        said += "; its own readings are not counted"
        return [_probe(probe.name, True, said)]
    if not own:
        said += (
            "; so much work begins that it cannot be told whether its own readings are counted: "
            "ask again when there is less"
        )
        return [_probe(probe.name, None, said)]
    said += (
        f"; but that rose by {own} at most of {pairs} readings in a row: the probe's own reading "
        "is counted as work, so the app can never be quiet"
    )
    remedy = f"have the app leave out its own page, or set own_starts = {own} where the kind has it"
    return [_probe(probe.name, False, said, remedy)]


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


def own_starts(readings: Sequence[Reading]) -> tuple[int | None, int]:
    """
    Return by how much each of the readings has moved the counter, and of how many pairs.

    None: by nothing, for two in a row show the same. 0: it cannot be told. Work of others
    comes at random: it does not begin in every gap, and not equally much in most of them.
    """
    counts = [reading.started or 0 for reading in readings]
    rises = [after - before for before, after in pairwise(counts)]
    least = min(rises, default=0)
    if least <= 0:
        return None, len(rises)
    return (least if 2 * rises.count(least) > len(rises) else 0), len(rises)


def _probe(name: str, ok: bool | None, said: str, remedy: str = "") -> Finding:
    return Finding(kind=FindingKind.PROBE, name=name, ok=ok, said=said, remedy=remedy)


def of_ready(check: ReadyCheck) -> list[Finding]:
    """Ask a readiness check once."""
    check.ask()
    return [Finding(kind=FindingKind.READY, name=check.name, ok=True, said="it passes")]


def no_ready(name: str) -> list[Finding]:
    """Return that there is no readiness check."""
    said = "there is no readiness check: start-traffic is taken for the word that the app is ready"
    return [Finding(kind=FindingKind.READY, name=name, ok=None, said=said)]


def of_process(finder: ProcessFinder, phase: Phase, *, probes_know: bool) -> list[Finding]:
    """
    Look who the app is.

    That it cannot be seen is a note; that nobody is there, for certain, is a mistake where
    no probe has seen the app either.
    """
    presence = finder.look(_EARLIER)
    running, note = presence.running, presence.note
    if running is not None and running.pids:
        pids = f"pid {', '.join(str(pid) for pid, _ in running.pids)}"
        said = f"{pids}; {note}" if note else pids
        return [Finding(kind=FindingKind.PROCESS, name="process", ok=True, said=said)]
    nobody = presence.exited and running is None
    wrong = nobody and not probes_know and phase in UP
    return [
        Finding(
            kind=FindingKind.PROCESS,
            name="process",
            ok=False if wrong else None,
            said=note or _told_of_itself(running),
            remedy="start the app, or correct address, port or process" if wrong else "",
        )
    ]


def _told_of_itself(running: Process | None) -> str:
    """Return what an app that cannot be seen has told a probe of who it is."""
    mark = "" if running is None else running.mark
    return f"seen by its mark alone: {mark}" if mark else "it cannot be seen from here"


def of_connections(name: str, peers: Callable[[], Mapping[str, int]]) -> list[Finding]:
    """Say who keeps connections to the port now, those with the most of them first."""
    found = sorted(peers().items(), key=lambda one: (-one[1], one[0]))
    total = sum(count for _, count in found)
    named = ", ".join(f"{count} of {peer}" for peer, count in found[:MOST_PEERS])
    said = f"{total} kept: {named}" if found else "none is kept"
    if len(found) > MOST_PEERS:
        said += f", and those of {len(found) - MOST_PEERS} other peers"
    return [Finding(kind=FindingKind.CONNECTION, name=name, ok=None, said=said)]


def of_notifier(notifier: Notifier, finder: ProcessFinder, phase: Phase) -> list[Finding]:
    """Look whether a notifier could tell, without telling anything."""
    running = finder.look(None).running
    # A third party's may fulfil the contract of before, which had no such method.
    examine = getattr(notifier, "examine", None)
    ok: bool | None = True
    try:
        said = "" if examine is None else str(examine(running))
    except NotifyError as e:
        said = str(e).removeprefix(f"{notifier.name}: ")
        ok = None if phase is Phase.GONE and running is None else False
    if not said:
        ok, said = None, "whether it could be told cannot be looked at without telling it"
    return [Finding(kind=FindingKind.NOTIFIER, name=notifier.name, ok=ok, said=said)]
