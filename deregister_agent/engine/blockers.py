"""Why a drain is not where it should be yet, in sentences for a tired person."""

from deregister_agent.engine.arrivals import OF_LATE
from deregister_agent.engine.in_service import silent, unlisted
from deregister_agent.engine.knowledge import Knowledge
from deregister_agent.engine.presence import is_back, is_believed, never_seen
from deregister_agent.engine.probe_view import ProbeView
from deregister_agent.engine.quiet_window import lateness, quiet_for
from deregister_agent.engine.registry_view import RegistryView
from deregister_agent.engine.standing import doubts, works_on
from deregister_agent.model import Peer, Phase

RESTARTED = "the agent was restarted: each registry must be seen once more not to list it"
MOST_PEERS = 3  # that are named; the most active ones stand first
IDLE = 5.0  # seconds without a byte after which a connection is called idle
HABIT = 2  # registrations after stop-traffic from which on the app is said to keep doing so


def blocking(known: Knowledge) -> list[str]:
    """Return what stands between the instance and where its drain should go."""
    match known.drain.phase:
        case Phase.WITHDRAWING:
            lines = _listing(known)
        case Phase.SETTLING:
            left = known.since + known.policy.settle - known.clock.now()
            lines = [f"routes handed out before may be in use for another {max(0.0, left):.1f} s"]
        case Phase.DRAINING:
            lines = _listing(known)
            holding = [] if lines else _for_whom(known)
            lines += _work(known, enough=bool(lines)) + holding
        case Phase.DRAINED:
            lines = [RESTARTED] if known.in_doubt else []
            lines += doubts(known)
        case Phase.GONE if known.process.presence is None:
            lines = doubts(known)
        case Phase.GONE if known.process.vacant or known.process.left:
            lines = works_on(known)
        case Phase.EXPIRED:
            lines = _listing(known)
            lines += _in_hand_of(known) + ([] if lines else _for_whom(known))
        case Phase.RESTORING:
            lines = _missing(known)
        case Phase.SERVING:
            lines = unlisted(known) + silent(known)
        case _:
            lines = []
    return lines


def _listing(known: Knowledge) -> list[str]:
    lines = [line for view in known.registries if (line := _why_listed(known, view))]
    if known.drain.relisted >= HABIT:
        lines.append(
            f"the app keeps registering itself: listed again {known.drain.relisted} times since "
            "stop-traffic; turn its own registration off, or stop it by a hook before the drain"
        )
    return lines


def _why_listed(known: Knowledge, view: RegistryView) -> str:
    if view.name in known.drain.vouched and not view.sends:
        return ""
    if (trouble := view.refused or view.error) is not None:
        return str(trouble)
    word = view.says(0.0)
    if word is None:
        return str(view.look_error or f"{view.name} has not been asked since it was withdrawn")
    if word.listed:
        return f"{view.name} still lists it"
    if not is_believed(known, view, word.look):
        return never_seen(view)
    return "; ".join(f"{view.name}: {straggler}" for straggler in word.awaited)


def _work(known: Knowledge, *, enough: bool) -> list[str]:
    """Say what is in hand or how quiet the app is; nothing if quiet, where *enough* is said."""
    views = known.quiet_views()
    lines = [line for one in known.probes if one in views and (line := _in_hand(one))]
    if lines and known.process.left:
        lines.append(f"its process has exited, and somebody of it lives on: {known.process.left}")
    if lines:
        return lines
    windows = known.quiet_windows()
    late, quiet = lateness(windows), quiet_for(windows) or 0.0
    if enough and quiet >= known.policy.quiet:
        return []
    behind = f", by news that may be {late:g} s old" if late else ""
    gaps = sum(window.gaps for window in windows)
    again = f"; began again {gaps} times, as readings were too far apart" if gaps else ""
    return [f"quiet for {quiet:.1f} of {known.policy.quiet:g} s{behind}{again}"]


def _in_hand_of(known: Knowledge) -> list[str]:
    return [line for probe in known.probes if (line := _in_hand(probe))]


def _in_hand(probe: ProbeView) -> str:
    if probe.error is not None:
        return str(probe.error)
    if probe.reading is None:
        return f"{probe.name} has not been read yet"
    busy = probe.in_hand
    return f"{busy} in flight ({probe.name})" if busy else ""


def _for_whom(known: Knowledge) -> list[str]:
    """Say what arrives though every registry has let go, and who keeps a connection."""
    now = known.clock.now()
    lines = [line for probe in known.probes if (line := _arriving(probe, now))]
    peers = known.peers.found
    late = any(probe.in_hand or probe.arrivals.of_late(now) for probe in known.probes)
    if late and peers:
        named = "; ".join(_connected(peer) for peer in peers[:MOST_PEERS])
        more = len(peers) - MOST_PEERS
        lines.append(named + (f"; and those of {more} other peers" if more > 0 else ""))
    return lines


def _arriving(probe: ProbeView, now: float) -> str:
    arrivals = probe.arrivals
    if arrivals.since is None or not arrivals.total:
        return ""
    if of_late := arrivals.of_late(now):
        return (
            f"work keeps arriving though every registry has let go ({probe.name}): {of_late} in "
            f"the last {OF_LATE:g} s, {arrivals.total} in the last {now - arrivals.since:.0f} s"
        )
    return (
        f"work arrived though every registry had let go ({probe.name}): {arrivals.total}, "
        f"the last {now - arrivals.last:.0f} s ago"
    )


def _connected(peer: Peer) -> str:
    """Say how many connections a peer keeps, and whether they are at work."""
    said = f"{peer.connections} connection{'s' * (peer.connections != 1)} of {peer.who}"
    if peer.waiting:
        said += f", {peer.waiting} waiting for an answer"
    if not peer.used:
        return f"{said}, never used"
    if peer.last_byte is None:
        return said
    idle = not peer.waiting and peer.last_byte >= IDLE
    age = f"idle {peer.last_byte:.0f} s" if idle else f"last byte {peer.last_byte:.1f} s ago"
    return f"{said}, {age}"


def not_ready(known: Knowledge) -> list[str]:
    """Return why the app does not count as ready; empty if it does."""
    return [
        str(check.error or f"{check.check.name} has passed {check.passed} of {check.check.passes}")
        for check in known.ready
        if not check.ready
    ]


def _missing(known: Knowledge) -> list[str]:
    lines = [line for view in known.registries if (line := _why_missing(known, view))]
    return not_ready(known) or lines


def _why_missing(known: Knowledge, view: RegistryView) -> str:
    word = view.says(0.0)
    if is_back(known, view, word):
        return ""
    if view.error is not None:
        return str(view.error)
    if word is None:
        return str(view.look_error or f"{view.name} has not been asked since it was restored")
    if word.look.out_by:
        return f"{view.name} has it out by another hand ({word.look.out_by}): theirs to end"
    return f"{view.name} does not list it yet"
