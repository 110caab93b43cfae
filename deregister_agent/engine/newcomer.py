"""A process that has taken the place of the app: whose drain it belongs to, if to any."""

from dataclasses import dataclass, replace

from deregister_agent.engine.knowledge import Knowledge
from deregister_agent.engine.presence import forget, forget_untaken
from deregister_agent.model import UNFINISHED, Drain, Outcome, Phase


@dataclass(frozen=True, slots=True)
class Newcomer:
    """What to make of a process that was not there before."""

    drain: Drain
    restarted: bool  # the app has crashed in mid-drain, and is drained on as the newcomer


def meet(known: Knowledge) -> Newcomer | None:
    """
    Tell what the process that is there now means for the drain; None where it is to be left.

    Before "drained" a restart changes nothing: the new process is drained in the place
    of the old one, where it was we who took that one out. After it, the process that was
    drained is remembered. In service, what registries have shown of the old one, or of
    nobody knows whom, says nothing of the new one.
    Raises JournalError.
    """
    process, drain = known.process, known.drain
    presence = process.presence
    if presence is None or presence.running is None or presence.running == process.app:
        return None
    if process.exited and drain.phase in {Phase.DRAINED, Phase.EXPIRED}:
        return None
    if drain.phase is Phase.DRAINED and drain.outcome is Outcome.ABSENT:
        return None  # what was waited for: the first version has been started
    unfinished = drain.phase in UNFINISHED
    if process.exited and unfinished and drain.announced is not None:
        return None  # killed by the word that was taken back: this is the next version
    unknown = process.app is None and any(view.seen for view in known.registries)
    if drain.phase is Phase.SERVING and (process.exited or unknown):
        forget(known)
    if process.exited and unfinished:
        forget_untaken(known)
    if unfinished:
        drain = replace(drain, process=presence.running)
    return Newcomer(drain, restarted=unfinished and process.exited)
