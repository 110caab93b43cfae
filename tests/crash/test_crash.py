"""An agent killed at any of its side effects goes on as if nothing had happened."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Protocol

import pytest

from deregister_agent.host.files import locked, replace_durably
from tests.crash.stage import Platform, Victim, Work, app, until
from tests.servers import consul as consul_server

CONFIG = """
[agent]
journal = "{folder}/journal.db"
[server]
listen = ["unix:{folder}/agent.sock"]
[[instance]]
name = "web"
service = "web"
port = {port}
quiet = 0.2
[[instance.probe]]
kind = "http_json"
url = "http://127.0.0.1:{port}/-/work"
in_flight = {{ requests = "/in_flight/requests" }}
[[instance.notifier]]
kind = "webhook"
url = "{platform}"
secret = {{ env = "CRASH_SECRET" }}
{registry}
"""


class World(Protocol):
    """A registry's own truth, apart from what the agent says of it."""

    def table(self) -> str: ...
    def listed(self) -> bool: ...
    def others_untouched(self) -> bool: ...


class FileWorld:
    """A file_sd file with the instance and a neighbour in it."""

    def __init__(self, folder: Path, port: int) -> None:
        self._path, self._target = folder / "targets.json", f"127.0.0.1:{port}"
        groups = [{"labels": {"env": "prod"}, "targets": ["10.0.0.1:80", self._target]}]
        self._path.write_text(json.dumps(groups))

    def table(self) -> str:
        return f'[[instance.registry]]\nkind = "file"\npath = "{self._path}"\n'

    def _targets(self) -> list[str]:
        return [one for group in json.loads(self._path.read_text()) for one in group["targets"]]

    def listed(self) -> bool:
        return self._target in self._targets()

    def remove(self) -> None:
        """Take the instance out, as somebody else would."""
        groups = json.loads(self._path.read_text())
        groups[0]["targets"].remove(self._target)
        with locked(self._path, 10.0):
            replace_durably(self._path, json.dumps(groups).encode())

    def others_untouched(self) -> bool:
        return "10.0.0.1:80" in self._targets()


class ConsulWorld:
    """A service in a real Consul, and a neighbour."""

    def __init__(self, folder: Path, port: int) -> None:
        self._consul = consul_server.shared()
        self._service = f"web-{port}"
        for name, at in (("web", port), ("other", 1)):
            self._consul.register(
                {"ID": f"{self._service}-{name}", "Name": self._service, "Port": at}
            )

    def table(self) -> str:
        return (
            f'[[instance.registry]]\nkind = "consul"\nurl = "{self._consul.url}"\n'
            f'service_id = "{self._service}-web"\n'
        )

    def remove(self) -> None:
        """Take the instance out, as somebody else would."""
        self._consul.deregister(f"{self._service}-web")

    def _ids(self) -> list[str]:
        return [entry["Service"]["ID"] for entry in self._consul.entries(self._service)]

    def listed(self) -> bool:
        return f"{self._service}-web" in self._ids()

    def others_untouched(self) -> bool:
        return f"{self._service}-other" in self._ids()


@contextmanager
def scene(
    folder: Path, kind: Callable[[Path, int], World], port: int
) -> Iterator[tuple[Victim, World, Work, Platform]]:
    """Set up a request for an app, its registry, a platform and an agent not yet begun."""
    folder.mkdir()
    world = kind(folder, port)
    work = Work(port, 1.0)
    platform = Platform(work.busy)
    with platform.listening() as url:
        text = CONFIG.format(folder=folder, port=port, platform=url, registry=world.table())
        if isinstance(world, ConsulWorld):
            text = text.replace('service = "web"', f'service = "web-{port}"')
        victim = Victim(folder, text, counting=isinstance(world, FileWorld))
        try:
            yield victim, world, work, platform
        finally:
            victim.end()
            work.end()


def play(victim: Victim, world: World, work: Work, platform: Platform, die_at: int | str) -> None:
    """Drain and restore, dying once on the way, unless there are fewer side effects."""
    victim.start(die_at)
    victim.insist(lambda agent: agent.get("/v1/instances"), 200)
    work.begin()
    victim.insist(lambda agent: agent.post("/stop-traffic", {"reason": "crash test"}), 202)
    victim.insist(lambda agent: agent.get("/traffic-drained", wait=0.5), 200)
    assert not work.busy.is_set(), "drained while a request was in hand"
    assert not world.listed()
    until(lambda: victim.alive() and platform.ids("drained"), "announced drained")
    victim.insist(lambda agent: agent.post("/start-traffic", {}), 202)
    victim.insist(lambda agent: agent.get("/traffic-started", wait=0.5), 200)
    assert world.listed()
    assert world.others_untouched()
    until(lambda: victim.alive() and platform.ids("serving"), "announced serving")
    assert len(platform.ids("drained")) == 1, platform.got
    assert not [each for each in platform.got if each[1] == "drained" and each[2]], "too early"
    assert work.answer == 200


SLICES = 6
"""Into how many tests the places to die at are dealt out, so that workers share them."""


def dies_anywhere(folder: Path, kind: Callable[[Path, int], World], first: int) -> None:
    """Play it with a death at every SLICES-th side effect from *first*, until none is left."""
    with app() as apps:
        for die_at in count(first, SLICES):
            with scene(folder / str(die_at), kind, apps.ports["web"]) as actors:
                play(*actors, die_at)
            victim = actors[0]
            if not victim.deaths:
                break
    assert die_at > first, "it never died"  # how often it can depends on who is faster


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(1, SLICES + 1))
@pytest.mark.parametrize("kind", [FileWorld, ConsulWorld])
def test_dies_anywhere(tmp_path: Path, kind: type[FileWorld | ConsulWorld], first: int) -> None:
    """Killed at any side effect and started again, the drain and the restore end the same way."""
    dies_anywhere(tmp_path, kind, first)


@pytest.mark.parametrize("place", ["before keep_registration", "after keep_registration"])
@pytest.mark.parametrize("kind", [FileWorld, ConsulWorld])
def test_dies_between_the_sight_and_the_withdraw(
    tmp_path: Path, kind: type[FileWorld | ConsulWorld], place: str
) -> None:
    """Killed when it writes down what it has seen, before anything has been withdrawn."""
    with app() as apps, scene(tmp_path / "play", kind, apps.ports["web"]) as actors:
        play(*actors, place)
        victim = actors[0]
    lines = victim.did()
    life = lines[: [line.partition(" ")[0] for line in lines].index("1", 1)]
    assert (victim.deaths, life[-1].partition(" ")[2]) == (1, place)
    assert not [each for each in life if each.endswith(("replace", "call"))], "too late"
