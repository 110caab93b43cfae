"""What the agent knows of one instance, as people and pipelines are shown it."""

import hashlib

from deregister_agent.engine.blockers import blocking, not_ready
from deregister_agent.engine.knowledge import Knowledge
from deregister_agent.engine.presence import is_waited_for
from deregister_agent.engine.probe_view import ProbeView
from deregister_agent.engine.registry_view import RegistryView, RegistryWord
from deregister_agent.engine.schedule import ready_checks
from deregister_agent.host.clock import iso
from deregister_agent.model import UNFINISHED, Drain, Phase
from deregister_agent.status import DrainStatus, ProbeStatus, ProcessStatus, RegistryStatus, Status


def status_of(known: Knowledge) -> Status:
    """Return the status of an instance, as the HTTP API shows it: all that this agent knows."""
    offset = known.clock.wall() - known.clock.now()
    drain, unfinished = known.drain, known.drain.phase in UNFINISHED
    return Status(
        instance=known.instance,
        phase=drain.phase,
        since=iso((drain.since if drain.id else known.since) + offset),
        deadline=iso(drain.deadline + offset) if unfinished else None,
        remaining=max(0.0, drain.deadline - known.clock.now()) if unfinished else None,
        drain=_drain(drain) if drain.id else None,
        in_flight=in_flight(known),
        blocking=tuple(blocking(known)),
        notes=tuple(notes(known)),
        registries=tuple(_registry(view, offset) for view in known.registries),
        probes=tuple(_probe(view, offset) for view in known.probes),
        process=_process(known),
        ready=known.is_ready if ready_checks(known) else None,
        error=str(known.error) if known.error else None,
        cursor=cursor(known),
    )


def cursor(known: Knowledge) -> str:
    """
    Return a fingerprint that changes whenever the phase or a registry's word does.

    How many old routes are left counts, but not how old they are: their age changes all the time.
    """
    words = [_said(view.word) for view in known.registries]
    seen = repr((known.drain.id, known.drain.phase, known.drain.since, words))
    return hashlib.blake2b(seen.encode(), digest_size=8).hexdigest()


def _said(word: RegistryWord | None) -> tuple[bool, int] | None:
    return None if word is None else (word.listed, len(word.awaited))


def in_flight(known: Knowledge) -> dict[str, int]:
    """Return what is in hand by kind, added up over the probes that know."""
    total: dict[str, int] = {}
    for view in known.probes:
        for kind, count in (view.reading.in_flight if view.reading else {}).items():
            total[kind] = total.get(kind, 0) + count
    return total


def _drain(drain: Drain) -> DrainStatus:
    return DrainStatus(
        id=drain.id,
        outcome=drain.outcome,
        reason=drain.reason,
        asked_by=drain.asked_by,
        forced=drain.forced,
        on_deadline=drain.on_deadline,
        kind=drain.kind,
        refusal=drain.refusal,
        pids=tuple(pid for pid, _ in drain.process.pids) if drain.process else (),
    )


def notes(known: Knowledge) -> list[str]:
    """Return what a person should know of the instance, besides how it stands."""
    notes = [known.set_back] if known.set_back else []
    for view in known.registries:
        notes += view.registry.notes(known.registration(view))
        if note := _not_waited_for(known, view):
            notes.append(note)
        if view.registry.keeps and known.drain.phase is Phase.SERVING and not_ready(known):
            why = "; ".join(not_ready(known))
            notes.append(f"{view.name}: kept there only while the app is ready, and now: {why}")
    return notes


def _not_waited_for(known: Knowledge, view: RegistryView) -> str:
    """Say that a registry's word does not count in this drain, and on whose word."""
    drain = known.drain
    if drain.phase is Phase.SERVING:
        return ""
    if view.name in drain.vouched:
        why = f" ({drain.reason})" if drain.reason else ""
        return f"{view.name}: not waited for: vouched for by {drain.asked_by or 'somebody'}{why}"
    if view.name in known.may_be_absent and not is_waited_for(known, view):
        return f'{view.name}: not waited for: it did not have it, and absent = "withdrawn"'
    return ""


def _registry(view: RegistryView, offset: float) -> RegistryStatus:
    word, error = view.word, view.error or view.look_error or view.keep_error
    return RegistryStatus(
        name=view.name,
        listed=word.listed if word else None,
        listing=word.look.listing if word else None,
        out_by=word.look.out_by if word else "",
        acknowledged=view.acknowledged is not None,
        stragglers=tuple(word.awaited) if word else (),
        others=view.others,
        asked=iso(word.asked + offset) if word else None,
        error=str(error) if error else None,
    )


def _probe(view: ProbeView, offset: float) -> ProbeStatus:
    reading = view.reading
    return ProbeStatus(
        name=view.name,
        in_flight=dict(reading.in_flight) if reading else None,
        started=reading.started if reading else None,
        asked=None if view.asked is None else iso(view.asked + offset),
        error=str(view.error) if view.error else None,
    )


def _process(known: Knowledge) -> ProcessStatus:
    process = known.process
    return ProcessStatus(
        pids=tuple(pid for pid, _ in process.app.pids) if process.app else (),
        exited=process.exited,
        note=process.presence.note if process.presence else "",
    )
