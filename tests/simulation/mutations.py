"""Ways to break the agent. The simulation must notice each of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from deregister_agent import drain
from deregister_agent.engine import instance_loop, quiet_window, registry_view, schedule, sighting
from deregister_agent.engine.calls import CallResult
from deregister_agent.engine.knowledge import Knowledge
from deregister_agent.engine.last_instance_guard import Guard
from deregister_agent.engine.outbox import Outbox
from deregister_agent.engine.process_view import ProcessView
from deregister_agent.engine.quiet_window import QuietWindow
from deregister_agent.engine.registry_view import RegistryView, RegistryWord
from deregister_agent.engine.view_context import ViewContext
from deregister_agent.journal.journal import Journal
from deregister_agent.model import (
    UNFINISHED,
    Drain,
    Listing,
    Look,
    Phase,
    Policy,
    Reading,
    Sighting,
)

Mutation = Any  # a context manager of unittest.mock: the agent is broken while it is entered


def _seen(change: Callable[[Sighting], Sighting]) -> Mutation:
    """Let the machine see something else than what was seen."""

    def wrong(at: Drain, seen: Sighting, policy: Policy, now: float) -> Phase:
        return drain.next_phase(at, change(seen), policy, now)

    return patch.object(instance_loop, "next_phase", wrong)


def unknown_is_withdrawn() -> Mutation:
    """Take a registry that cannot be asked for one that has let go."""
    true = RegistryView.says

    def says(view: RegistryView, since: float) -> RegistryWord:
        return true(view, since) or RegistryWord(Look(Listing.OUT), since)

    return patch.object(RegistryView, "says", says)


def old_words_count() -> Mutation:
    """Believe a word from before the app was quiet."""
    return patch.object(sighting, "_not_before", lambda *_, **__: 0.0)


def acknowledged_is_withdrawn() -> Mutation:
    """Take 200 OK for proof."""
    return _seen(lambda seen: replace(seen, withdrawn=seen.withdrawn or seen.acknowledged))


def acknowledgements_are_never_doubted() -> Mutation:
    """Do not act again where a registry's word contradicts what it acknowledged."""
    return patch.object(RegistryView, "_contradicts", lambda *_: False)


def stragglers_are_ignored() -> Mutation:
    """Forget old routes that a registry still serves."""
    true = registry_view._ask

    def ask(*args: Any, **kwargs: Any) -> Any:
        look, *rest = true(*args, **kwargs)
        return replace(look, stragglers=()), *rest

    return patch.object(registry_view, "_ask", ask)


def stragglers_end_in_silence() -> Mutation:
    """Take a reading from before the last old route ended for one from after it."""
    return patch.object(Knowledge, "clear", lambda _: 0.0)


def leases_are_kept_for_the_dead() -> Mutation:
    """Keep what was restored alive whether the app is ready or not."""

    def is_ready(known: Knowledge) -> bool:
        return known.drain.phase is Phase.SERVING or all(check.ready for check in known.ready)

    return patch.object(Knowledge, "is_ready", property(is_ready))


def leases_run_out() -> Mutation:
    """Do not keep what was restored."""
    return patch.object(RegistryView, "_to_keep", property(lambda _: False))


def snapshots_are_forgotten() -> Mutation:
    """Do not look, while serving, whether the app is ready for what hangs on the agent."""
    return patch.object(schedule, "keeping", lambda _: frozenset())


def overtaken_announcements_are_sent() -> Mutation:
    """Announce without asking whether it still holds."""
    return patch.object(Journal, "still_holds", lambda *_: True)


def nothing_is_overtaken() -> Mutation:
    """Keep announcements that are no longer true."""
    return patch.object(instance_loop, "overtaken", lambda *_: frozenset())


def one_try_is_enough() -> Mutation:
    """Take an announcement for delivered though the notifier refused it."""
    true = Outbox._answered

    def answered(self: Outbox, to: Any, announced: Any, result: CallResult) -> None:
        true(self, to, announced, replace(result, error=None, value=True))

    return patch.object(Outbox, "_answered", answered)


def work_in_hand_is_ignored() -> Mutation:
    """Take a busy app for an idle one."""
    return patch.object(Reading, "idle", property(lambda _: True))


def arrivals_are_ignored() -> Mutation:
    """Do not see work that came and went between two readings."""
    return patch.object(quiet_window, "has_arrived", lambda *_: False)


def any_idle_moment_is_quiet() -> Mutation:
    """Do not wait for the quiet time."""
    return patch.object(drain, "is_quiet", lambda seen, _: seen.quiet_for is not None)


def settling_is_skipped() -> Mutation:
    """Do not wait for routes that were handed out before."""

    def wrong(at: Drain, seen: Sighting, policy: Policy, now: float) -> Phase:
        return drain.next_phase(at, seen, replace(policy, settle=0.0), now)

    return patch.object(instance_loop, "next_phase", wrong)


def listed_again_is_ignored() -> Mutation:
    """Stand by a "drained" that no longer holds."""
    return _seen(lambda seen: replace(seen, listed=False))


def the_kill_is_not_noticed() -> Mutation:
    """Guard the instance against the version that comes after the kill."""
    return _seen(lambda seen: replace(seen, exited=False, replaced=False))


def deadlines_are_ignored() -> Mutation:
    """Let a drain go on for ever."""

    def wrong(at: Drain, seen: Sighting, policy: Policy, now: float) -> Phase:
        return drain.next_phase(replace(at, deadline=float("inf")), seen, policy, now)

    return patch.object(instance_loop, "next_phase", wrong)


def drained_outlives_the_agent() -> Mutation:
    """Announce after a restart what nobody has looked at since."""
    return patch.object(instance_loop.InstanceLoop, "stands_by", lambda *_: True)


def snapshots_are_not_kept() -> Mutation:
    """Withdraw without writing down what was there."""
    return patch.object(Journal, "keep_snapshot", lambda *_: None)


def the_guard_looks_away() -> Mutation:
    """Let any instance be taken out."""
    return patch.object(Guard, "check", lambda *_, **__: None)


def readiness_is_enough() -> Mutation:
    """Call it serving when the registries have only acknowledged."""
    return _seen(lambda seen: replace(seen, restored=seen.acknowledged))


def the_first_error_is_the_last() -> Mutation:
    """Do not try again after an action failed."""
    true = RegistryView._acted

    def acted(view: RegistryView, turn: int, result: CallResult) -> None:
        true(view, turn, result)
        if result.error is not None:
            view._act_again.due = float("inf")

    return patch.object(RegistryView, "_acted", acted)


def taken_back_forgets_who_was_announced() -> Mutation:
    """Take the version after the kill for the old one, once the word was taken back."""
    true = drain.moved

    def moved(at: Drain, phase: Phase, seen: Sighting, now: float) -> Drain:
        after = true(at, phase, seen, now)
        return replace(after, announced=None) if phase in UNFINISHED else after

    return patch.object(instance_loop, "moved", moved)


def work_after_drained_is_ignored() -> Mutation:
    """Stand by a "drained" whose process works again."""
    return _seen(lambda seen: replace(seen, working=False))


def the_answer_is_the_phase() -> Mutation:
    """Answer "drained" by the phase alone."""
    return patch.object(instance_loop, "doubts", lambda _: [])


def gaps_are_ignored() -> Mutation:
    """Take two idle readings, however far apart, for a quiet time."""
    return patch.object(ViewContext, "gap", lambda *_: float("inf"))


@contextmanager
def an_exit_outranks_the_probes() -> Iterator[None]:
    """Take an app whose process has exited for idle, whatever its probes say."""
    true = Knowledge.quiet_views

    def quiet_views(known: Knowledge) -> Any:
        return [known.process] if known.process.vacant else true(known)

    with (
        patch.object(Knowledge, "quiet_views", quiet_views),
        patch.object(QuietWindow, "starts_after", lambda *_: None),
    ):
        yield


def whoever_is_left_is_ignored() -> Mutation:
    """Take the exit of one process for the exit of the whole app."""
    return patch.object(ProcessView, "left", property(lambda _: ""))


MUTATIONS: tuple[Callable[[], Mutation], ...] = (
    unknown_is_withdrawn,
    old_words_count,
    acknowledged_is_withdrawn,
    acknowledgements_are_never_doubted,
    stragglers_are_ignored,
    stragglers_end_in_silence,
    leases_are_kept_for_the_dead,
    leases_run_out,
    snapshots_are_forgotten,
    overtaken_announcements_are_sent,
    nothing_is_overtaken,
    one_try_is_enough,
    work_in_hand_is_ignored,
    arrivals_are_ignored,
    any_idle_moment_is_quiet,
    settling_is_skipped,
    listed_again_is_ignored,
    the_kill_is_not_noticed,
    deadlines_are_ignored,
    drained_outlives_the_agent,
    snapshots_are_not_kept,
    the_guard_looks_away,
    readiness_is_enough,
    the_first_error_is_the_last,
    taken_back_forgets_who_was_announced,
    work_after_drained_is_ignored,
    the_answer_is_the_phase,
    gaps_are_ignored,
    an_exit_outranks_the_probes,
    whoever_is_left_is_ignored,
)
