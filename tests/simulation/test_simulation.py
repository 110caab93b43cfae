"""The real agent code in simulated worlds: what must hold, holds in each of them."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.simulation.__main__ import broken_seeds, how_to_replay
from tests.simulation.mutations import MUTATIONS
from tests.simulation.presence_mutations import PRESENCE_MUTATIONS
from tests.simulation.world import run

PIECE = 250  # seeds of one test; xdist spreads the tests
PIECES = 8  # 'make test-all' runs 100,000 seeds
ENOUGH = 4000  # seeds within which a broken agent must be found out
SEEN_IN = {
    "absences_are_believed": 157,
    "marks_are_waited_for": 168,
    "what_need_not_be_there_is_waited_for": 79,
    "an_exit_outranks_the_probes": 115,
    "whoever_is_left_is_ignored": 427,
    "drained_outlives_the_agent": 201,
    "leases_run_out": 152,
    "gaps_are_ignored": 38,
    "listed_again_is_ignored": 134,
    "other_names_are_looked_for_in_time_only": 15468,
    "overtaken_announcements_are_sent": 179,
    "stragglers_end_in_silence": 490,
    "taken_back_forgets_who_was_announced": 822,
    "the_answer_is_the_phase": 201,
    "work_after_drained_is_ignored": 1805,
}
"""Worlds that noticed what few others do: tried first, as the search takes long."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, PIECES * PIECE, PIECE))
def test_what_must_hold_holds_in_every_world(first: int) -> None:
    """Never drained while listed or busy, every drain ends, nothing is left out of service."""
    found = broken_seeds(range(first, first + PIECE))
    assert not found, "\n".join(
        f"seed {seed}: {'; '.join(broken)}\n    {how_to_replay(seed)}" for seed, broken in found
    )


@pytest.mark.timeout(600)  # the rarest takes thousands of worlds, and the machine may be busy
@pytest.mark.parametrize(
    "mutation", [*MUTATIONS, *PRESENCE_MUTATIONS], ids=lambda one: one.__name__
)
def test_a_broken_agent_is_found_out(mutation: Callable[[], Any]) -> None:
    """The simulation bites: each way to break the agent breaks a world soon."""
    with mutation():
        seeds = (SEEN_IN.get(mutation.__name__, 0), *range(ENOUGH))
        assert any(run(seed) for seed in seeds), f"no world noticed: {mutation.__doc__}"


def test_a_seed_is_always_the_same_world() -> None:
    """What one seed brings can be followed again, line by line."""
    first: list[str] = []
    second: list[str] = []
    run(17, first.append)
    run(17, second.append)
    assert first == second
    assert len(first) > 10


def test_one_world_can_be_followed_from_the_command_line() -> None:
    """The command that a failure names works."""
    command = [sys.executable, *how_to_replay(17).split()[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "agent: withdrawing" in done.stdout
