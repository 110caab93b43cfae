"""How each kind of backend is asked for doctor, and what its answer means for a drain."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deregister_agent.errors import AgentError, NotifyError, TooFewOthers
from deregister_agent.model import GUARDED, Instance, Listing, Look, Peer, Phase, Process
from deregister_agent.ports import Notifier, ProcessFinder, ReadyCheck, Registry
from deregister_agent.status import Finding, FindingKind

UP = frozenset({Phase.SERVING, Phase.RESTORING})
"""The phases in which the app should be there and ready."""
GUARD_SPEAKS = UP | {Phase.EXPIRED, Phase.GONE}
"""The phases in which a stop-traffic would begin a drain, and ask the guard."""
MOST_PEERS = 10
"""The peers that are named one by one."""

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
    found = [_of_look(registry, look, others, rules), *_other_registrations(registry, rules)]
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
            by = f" ({look.out_by})" if look.out_by else ""
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


def _other_registrations(registry: Registry, rules: RegistryRules) -> list[Finding]:
    """Return what else there sends work to the instance; a drain would be refused for it."""
    try:
        also = registry.other_registrations()
    except AgentError as e:
        also = [f"cannot be told: {e}"]
    ok = None if rules.phase is Phase.GONE else False
    remedy = "take it out there, or correct the options; stop-traffic would be refused"
    return [_registry(registry.name, ok, f"what else sends it work: {one}", remedy) for one in also]


def _guarded(name: str, others: int, rules: RegistryRules) -> Finding:
    refused = TooFewOthers(rules.instance.name, name, others, rules.min_others)
    remedy = "start another instance first, or set min_others to how many must stay"
    return _registry(name, False, f"the guard would refuse: {refused}", remedy)


def _registry(name: str, ok: bool | None, said: str, remedy: str = "") -> Finding:
    return Finding(kind=FindingKind.REGISTRY, name=name, ok=ok, said=said, remedy=remedy)


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


def of_connections(name: str, peers: Callable[[], Sequence[Peer]]) -> list[Finding]:
    """Say who keeps connections to the port now, those with the most of them first."""
    found = sorted(peers(), key=lambda one: (-one.connections, one.who))
    total = sum(one.connections for one in found)
    named = ", ".join(f"{one.connections} of {one.who}" for one in found[:MOST_PEERS])
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
