"""When the next reading of each backend is due, and for how long none is."""

import math
from collections.abc import Sequence

from deregister_agent.engine.actions import action, keeping
from deregister_agent.engine.knowledge import Knowledge
from deregister_agent.engine.peers_view import PeersView
from deregister_agent.engine.probe_view import ProbeView, ReadyView
from deregister_agent.engine.process_view import ProcessView
from deregister_agent.engine.quiet_window import lateness, quiet_since
from deregister_agent.engine.registry_view import RegistryView
from deregister_agent.engine.view_context import AT_REST
from deregister_agent.model import UNFINISHED, Phase

_View = RegistryView | ProbeView | ReadyView | ProcessView | PeersView


def begin_looks(known: Knowledge) -> None:
    """Begin every reading that is due. Reads only."""
    now = known.clock.now()
    windows = known.quiet_windows()
    began = quiet_since(windows)
    if began is not None and known.drain.phase is Phase.DRAINING:
        enough = max(began + known.policy.quiet, known.clear() or 0.0)
        known.process.read_at(enough)
        for probe in known.probes:
            probe.read_at(enough + probe.window.late)
        for view in known.registries:
            view.look_at(enough + lateness(windows))
    for each in _looked_at(known):
        each.look(now)


def rest(known: Knowledge) -> float:
    """Return for how many seconds nothing is due."""
    now, drain = known.clock.now(), known.drain
    dues = [due for view in _looked_at(known) for due in view.dues()] + [now + AT_REST]
    if action(known) is not None:
        dues += [due for view in known.registries for due in view.act_dues()]
    if known.is_ready:
        dues += [due for view in known.registries for due in view.keep_dues()]
    if drain.phase in UNFINISHED:
        dues.append(drain.deadline)
    if drain.phase is Phase.SETTLING:
        dues.append(known.since + known.policy.settle)
    dues.append(restore_due(known))
    return max(0.0, min(dues) - now)


def restore_due(known: Knowledge) -> float:
    """Return when it is to be announced that the instance is not restored; never: infinity."""
    if known.drain.phase is not Phase.RESTORING or known.drain.overdue:
        return math.inf
    return known.since + known.policy.restore_deadline


def _looked_at(known: Knowledge) -> Sequence[_View]:
    """Return what is looked at in this phase."""
    ready = ready_checks(known)
    return (*known.registries, *known.probes, *ready, known.process, known.peers)


def ready_checks(known: Knowledge) -> Sequence[ReadyView]:
    """Return the readiness checks that are asked in this phase: where something hangs on them."""
    waited_for = known.drain.phase in {Phase.GONE, Phase.RESTORING}
    kept_for = known.drain.phase is Phase.SERVING and keeping(known)
    return known.ready if waited_for or kept_for else ()
