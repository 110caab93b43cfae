"""An agent killed at any side effect of taking "drained" back never lets a busy app be killed."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from deregister_agent.cli.client import AgentAnswer, Unreachable
from tests.crash.stage import LIMIT, Busy, Platform, Victim, app, until
from tests.crash.test_crash import CONFIG, FileWorld

SLICES = 4


@contextmanager
def scene(folder: Path, port: int) -> Iterator[tuple[Victim, Busy, Platform]]:
    """Set up an app, a file that lists it, a platform and an agent not yet begun."""
    folder.mkdir()
    world, work = FileWorld(folder, port), Busy(port)
    platform = Platform(work.busy)
    with platform.listening() as url:
        text = CONFIG.format(folder=folder, port=port, platform=url, registry=world.table())
        victim = Victim(folder, text, counting=True)
        try:
            yield victim, work, platform
        finally:
            victim.end()
            work.end()


def answer(victim: Victim) -> int:
    """Ask once whether it is drained; 0 while the agent is away."""
    victim.alive()
    try:
        asked: AgentAnswer = victim.client.get("/traffic-drained", wait=0.05)
    except Unreachable:
        return 0
    return asked.status


def play(victim: Victim, work: Busy, platform: Platform, die_at: int) -> None:
    """Drain, work again until that was taken back, and drain for good; dying once on the way."""
    victim.start(die_at, unarmed=True)
    victim.insist(lambda agent: agent.post("/stop-traffic", {"reason": "crash test"}), 202)
    victim.insist(lambda agent: agent.get("/traffic-drained", wait=0.5), 200)
    until(lambda: platform.ids("drained"), "announced drained")
    victim.arm()
    work.begin()
    until(lambda: answer(victim) not in {0, 200}, "the work was seen")
    answers: list[int] = []

    def is_told() -> bool:
        answers.append(answer(victim))
        return bool(platform.ids("taken-back"))

    until(is_told, "it is taken back")
    victim.disarm()
    answers += [answer(victim) for _ in range(5)]
    assert 200 not in answers, "drained while work was in hand"
    work.end()
    victim.insist(lambda agent: agent.get("/traffic-drained", wait=0.5), 200)
    until(lambda: victim.alive() and len(platform.ids("drained")) == 2, "announced drained again")
    assert len(platform.ids("taken-back")) == 1, platform.got
    assert not [each for each in platform.got if each[1] == "drained" and each[2]], "too early"


def gone(victim: Victim) -> None:
    """Wait until the agent knows that the app was killed."""

    def is_gone() -> bool:
        found = victim.insist(lambda agent: agent.get("/v1/instances"), 200)
        return str(found["instances"][0]["phase"]) == "gone"

    until(is_gone, "it is gone")


@pytest.mark.timeout(10 * LIMIT)
@pytest.mark.parametrize("first", range(1, SLICES + 1))
def test_dies_anywhere(tmp_path: Path, first: int) -> None:
    """Killed at any side effect until "taken-back" is told: no 200 before the app is idle again."""
    for die_at in count(first, SLICES):
        with app() as apps, scene(tmp_path / str(die_at), apps.ports["web"]) as actors:
            play(*actors, die_at)
            victim = actors[0]
            apps.kill("web")
            gone(victim)
            if not victim.deaths:
                break
    assert die_at > first, "it never died"
