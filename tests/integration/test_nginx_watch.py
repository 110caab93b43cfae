"""Real Nginx, watched: news comes at once where the kernel tells of it, and is never missed."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deregister_agent.model import Instance, Phase, Policy, StopRequest
from deregister_agent.registries.nginx import watch as watching
from deregister_agent.registries.nginx.registry import NginxUpstream
from tests.integration.nginx_stage import World, make_world
from tests.loops import agent_of
from tests.servers.child import wait_until
from tests.servers.nginx import VERSIONS, settled

ENDLESS = 60.0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Run Nginx in front of two apps."""
    with ExitStack() as stack:
        yield make_world(stack, VERSIONS[1], tmp_path)


def watch_while(registry: NginxUpstream, happens: Callable[[], object]) -> None:
    """Have *happens* come while the registry is watched; fail if the watch does not end by it."""
    cursor = registry.watch(None, ENDLESS)
    ended: list[str | None] = []
    watch = threading.Thread(target=lambda: ended.append(registry.watch(cursor, ENDLESS)))
    watch.start()
    happens()
    watch.join(ENDLESS / 2)
    assert ended, "the watch goes on"
    assert ended[0] != cursor


def test_the_exit_of_an_old_worker_ends_a_watch_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of it: no look at anything else is needed."""
    monkeypatch.setattr(watching, "_INTERVAL", 2 * ENDLESS)
    registry = world.nginx.registry(world.a.port)
    for _ in range(2):
        world.hold_a_request()
    registry.withdraw()
    assert registry.stragglers()
    watch_while(registry, world.release)
    wait_until(lambda: not registry.stragglers(), "no old worker is left")


def test_where_no_pidfd_is_to_be_had(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox may forbid them: then the exit is seen at the next look."""

    def forbidden(pid: int) -> int:
        raise PermissionError(pid)

    monkeypatch.setattr(os, "pidfd_open", forbidden)
    registry = world.nginx.registry(world.a.port)
    for _ in range(2):
        world.hold_a_request()
    registry.withdraw()
    watch_while(registry, world.release)


@pytest.mark.parametrize("what", ["a file", "workers", "the record", "a file that is new"])
def test_what_ends_a_watch(what: str, world: World) -> None:
    """A rewrite, a reload by others, another agent's record, a file that a pattern now finds."""
    (world.nginx.folder / "more").mkdir()
    world.rewrite("upstream app", "include more/*.conf;\nupstream app")
    world.reload()
    settled(world.nginx)
    happens: dict[str, Callable[[], object]] = {
        "a file": lambda: world.rewrite("worker_processes 2;", "worker_processes 3;"),
        "workers": world.reload,
        "the record": (world.nginx.folder / ".deregister-agent-nginx.json").touch,
        "a file that is new": (world.nginx.folder / "more" / "x.conf").touch,
    }
    watch_while(world.nginx.registry(world.a.port), happens[what])


def test_a_watch_without_news_ends_in_time(world: World) -> None:
    """With nothing new it ends when its time is over, with the same cursor."""
    registry = world.nginx.registry(world.a.port)
    cursor = registry.watch(None, ENDLESS)
    began = time.monotonic()
    assert registry.watch(cursor, 0.4) == cursor
    assert time.monotonic() - began >= 0.4


def test_a_drain_goes_on_when_the_last_old_worker_has_gone(world: World, tmp_path: Path) -> None:
    """The real loop waits for the old workers while the app is quiet already, by the watch."""
    registry = world.nginx.registry(world.a.port)
    instance = Instance("a", "app", "127.0.0.1", world.a.port)
    policy = Policy(deadline=ENDLESS, quiet=0.1, min_others=1)
    with agent_of(tmp_path, instance, [registry], policy) as running:
        for _ in range(2):
            world.hold_a_request()
        running.loop.stop_traffic(StopRequest())
        running.until(Phase.DRAINING)
        held = "old nginx worker"

        def only_workers() -> bool:
            blocking = running.loop.status().blocking
            return bool(blocking) and all(held in line for line in blocking)

        wait_until(only_workers, "it waits for nothing but workers")
        assert running.loop.drain.phase is Phase.DRAINING
        world.release()
        running.until(Phase.DRAINED)
    assert not world.reaches_a()
