"""Real Nginx under the real loop: what a person is told when it will not, or must not, go out."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deregister_agent.errors import Refused
from deregister_agent.model import Instance, OnDeadline, Outcome, Phase, Policy, StopRequest
from deregister_agent.registries.nginx.options import Options
from deregister_agent.registries.nginx.registry import build
from tests.integration.nginx_stage import World, make_world
from tests.loops import agent_of
from tests.servers.child import wait_until
from tests.servers.nginx import VERSIONS


@pytest.fixture(params=VERSIONS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Run each version in front of two apps."""
    with ExitStack() as stack:
        yield make_world(stack, request.param, tmp_path)


def a(world: World) -> Instance:
    return Instance("a", "app", "127.0.0.1", world.a.port)


def test_what_nginx_says_of_the_edit_is_in_status(world: World, tmp_path: Path) -> None:
    """The drain waits and says what nginx -t said, expires with it, and nothing has changed."""
    script, before = tmp_path / "test.sh", world.nginx.conf.read_bytes()
    script.write_text(f'! grep -q " down" "{world.nginx.conf}" || {{ echo "no down"; exit 1; }}')
    registry = world.nginx.registry(world.a.port, test=("sh", str(script)))
    policy = Policy(deadline=60.0, quiet=0.1, min_others=0, on_deadline=OnDeadline.RESTORE)
    with agent_of(tmp_path, a(world), [registry], policy) as running:
        running.loop.stop_traffic(StopRequest(deadline=4.0))
        wait_until(lambda: "no down" in str(running.loop.status().blocking), "status says so")
        assert "no down" in str(running.loop.status().registries[0].error)
        assert running.outcome() is Outcome.EXPIRED
        (detail,) = running.events(Phase.EXPIRED)
        assert "no down" in str(detail["blocking"])
        running.until(Phase.SERVING)
    assert world.nginx.conf.read_bytes() == before


def test_the_last_server_of_an_upstream_is_not_taken_out(world: World, tmp_path: Path) -> None:
    """With the other one down already, stop-traffic is refused and Nginx goes on serving."""
    world.nginx.registry(world.b.port).withdraw()
    before = world.nginx.conf.read_bytes()
    policy = Policy(deadline=60.0, quiet=0.1, min_others=1)
    registry = world.nginx.registry(world.a.port)
    with agent_of(tmp_path, a(world), [registry], policy) as running:
        wait_until(lambda: running.loop.status().registries[0].others == 0, "it has counted them")
        with pytest.raises(Refused, match="lists 0 other instance"):
            running.loop.stop_traffic(StopRequest())
    assert world.nginx.conf.read_bytes() == before
    assert world.reaches_a()


def test_a_prefix_places_what_is_relative(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With prefix, a relative pid directive and the commands of the default are enough."""
    programs, folder = tmp_path / "bin", world.nginx.folder
    programs.mkdir()
    (programs / "nginx").symlink_to(world.nginx.command()[0])
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    world.rewrite(f"pid {folder}/nginx.pid;", "pid nginx.pid;")
    table = {"kind": "nginx", "upstream": "app", "config": world.nginx.conf, "prefix": folder}
    registry = build(Options.model_validate(table, strict=False), a(world))
    snapshot, before = registry.snapshot(), world.nginx.conf.read_bytes()
    registry.withdraw()
    assert (registry.lists(), world.reaches_a()) == (False, False)
    registry.restore(snapshot)
    assert (registry.lists(), world.reaches_a()) == (True, True)
    assert world.nginx.conf.read_bytes() == before
