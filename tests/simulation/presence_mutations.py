"""Ways to break what the agent makes of presence, and of being in service."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from deregister_agent.engine import (
    actions,
    first_look,
    in_service,
    instance_loop,
    newcomer,
    presence,
    sighting,
)
from deregister_agent.engine.knowledge import Knowledge
from deregister_agent.engine.registry_view import RegistryView
from deregister_agent.model import Outcome

Mutation = Any  # a context manager: the agent is broken while it is entered


@contextmanager
def _all(*patches: Mutation) -> Iterator[None]:
    """Break the agent in several places at once: each of them makes up for the others."""
    with ExitStack() as stack:
        for one in patches:
            stack.enter_context(one)
        yield


def nobody_asks_before() -> Mutation:
    """Take it out before anybody has shown it."""
    return patch.object(first_look, "_refuse_unseen", lambda *_: None)


def absences_are_believed() -> Mutation:
    """Take what a registry does not show for what is out, seen there or not."""
    return _all(
        patch.object(presence, "is_believed", lambda *_: True),
        patch.object(presence, "check", lambda *_: None),
    )


def what_was_seen_counts_for_ever() -> Mutation:
    """Believe an absence of the next version, as its predecessor was seen."""
    return _all(
        patch.object(RegistryView, "forget", lambda *_: None),
        patch.object(first_look, "forget", lambda _: None),
        patch.object(newcomer, "forget", lambda _: None),
        patch.object(newcomer, "forget_untaken", lambda _: None),
    )


def other_names_are_not_looked_for() -> Mutation:
    """Take it out under the name that is configured, and ask for no other."""
    return _all(
        patch.object(first_look, "check_alone", lambda *_: None),
        patch.object(presence, "check_alone", lambda *_: None),
    )


def other_names_are_looked_for_in_time_only() -> Mutation:
    """Do not ask again whoever has not answered before the drain began."""
    return patch.object(presence, "check_alone", lambda *_: None)


def serving_is_the_phase() -> Mutation:
    """Answer "serving" by the phase alone."""
    return patch.object(instance_loop, "is_served", lambda *_: True)


def serving_outlives_its_words() -> Mutation:
    """Answer "serving" by words from before the question."""
    return patch.object(in_service, "unheard", lambda *_: [])


def what_a_refusal_left_is_served() -> Mutation:
    """Forget, after a drain that was refused, who does not have it."""
    true = presence.is_needed

    def is_needed(known: Knowledge, view: RegistryView) -> bool:
        return true(known, view) and (view.seen or known.drain.outcome is not Outcome.REFUSED)

    return patch.object(in_service, "is_needed", is_needed)


def what_is_lost_stays_lost() -> Mutation:
    """Do not put back what was lost in service."""
    return patch.object(instance_loop, "lost", lambda *_: [])


def marks_are_lifted() -> Mutation:
    """Put back, in service, what an operator has out."""

    def put_back(known: Knowledge, view: RegistryView) -> None:
        if presence.is_waited_for(known, view):
            view.registry.restore(known.registration(view))

    return patch.object(actions, "_put_back", put_back)


def marks_are_waited_for() -> Mutation:
    """Wait for what an operator had out before, too."""
    return _all(
        patch.object(sighting, "is_left_alone", lambda *_: False),
        patch.object(presence, "is_left_alone", lambda *_: False),
    )


def what_need_not_be_there_is_waited_for() -> Mutation:
    """Wait for whoever never had it, once it is to be restored."""
    return patch.object(presence, "is_waited_for", lambda *_: True)


PRESENCE_MUTATIONS: tuple[Callable[[], Mutation], ...] = (
    nobody_asks_before,
    absences_are_believed,
    what_was_seen_counts_for_ever,
    other_names_are_not_looked_for,
    other_names_are_looked_for_in_time_only,
    serving_is_the_phase,
    serving_outlives_its_words,
    what_a_refusal_left_is_served,
    what_is_lost_stays_lost,
    marks_are_lifted,
    marks_are_waited_for,
    what_need_not_be_there_is_waited_for,
)
