"""An agent killed at any side effect of putting back what was lost in service ends serving."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from deregister_agent.cli.client import AgentClient, Unreachable
from tests.crash.stage import LIMIT, Platform, Victim, app, until
from tests.crash.test_crash import ConsulWorld, FileWorld, scene

SLICES = 3


def serves(agent: AgentClient) -> bool:
    """Ask for it to be put back, and whether it is."""
    try:
        return (
            agent.post("/start-traffic", {"anyway": True}).status == 202
            and agent.get("/traffic-started", wait=0.5).status == 200
        )
    except Unreachable:
        return False


def history(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Return the kind, phase and outcome of each record of the journal."""
    with closing(sqlite3.connect(folder / "journal.db")) as db:
        for (text,) in db.execute("SELECT record FROM drains").fetchall():
            record = json.loads(text)
            yield record["kind"], record["phase"], record["outcome"]


def play(victim: Victim, world: FileWorld | ConsulWorld, platform: Platform, die_at: int) -> None:
    """Lose the registration in service, and have it put back, dying once on the way."""
    victim.start(die_at, unarmed=True)
    until(lambda: any("after keep_registration" in each for each in victim.did()), "it was seen")
    world.remove()
    victim.arm()
    until(lambda: victim.alive() and serves(victim.client), "it is back")
    assert world.listed()
    assert world.others_untouched()
    until(lambda: victim.alive() and platform.ids("serving"), "announced serving")
    assert {kind for _, kind, _ in platform.got} == {"serving"}


@pytest.mark.timeout(10 * LIMIT)
@pytest.mark.parametrize("first", range(1, SLICES + 1))
@pytest.mark.parametrize("kind", [FileWorld, ConsulWorld])
def test_dies_anywhere(tmp_path: Path, kind: type[FileWorld | ConsulWorld], first: int) -> None:
    """Killed at any side effect: the registration is back, and one record says who asked."""
    with app() as apps:
        for die_at in count(first, SLICES):
            folder = tmp_path / str(die_at)
            with scene(folder, kind, apps.ports["web"]) as (victim, world, _, platform):
                assert isinstance(world, FileWorld | ConsulWorld)
                play(victim, world, platform, die_at)
            assert list(history(folder)) == [("restore", "serving", "restored")]
            if not victim.deaths:
                break
    assert die_at > first, "it never died"
