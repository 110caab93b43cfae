"""Many agents at one Nginx, each a process of its own: no edit of the one file is ever lost."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from deregister_agent.demo.stage import free_ports
from deregister_agent.model import Instance
from deregister_agent.registries.nginx.conf import ConfPaths
from deregister_agent.registries.nginx.options import Options
from deregister_agent.registries.nginx.parse import read
from deregister_agent.registries.nginx.processes import Worker, Workers
from deregister_agent.registries.nginx.registry import NginxUpstream
from deregister_agent.registries.nginx.reload import run
from deregister_agent.registries.nginx.running import RunningNginx
from deregister_agent.registries.nginx.site import Site
from tests.servers.nginx import VERSIONS, nginx

AGENTS = 8
CHAPTERS = 8
LIMIT = 100.0  # seconds for one chapter, however busy the machine is
HTTP = """
    upstream app {{ server 127.0.0.1:8000; server 127.0.0.1:8001 weight=2;
        server 127.0.0.1:8002; # server 127.0.0.1:8000;
        server "127.0.0.1:8003"; }}
    upstream other {{
        server 127.0.0.1:8004 max_fails=3; server 127.0.0.1:8005; }}
    upstream third {{ server 127.0.0.1:8006; server 127.0.0.1:8007; server 127.0.0.1:8000; }}
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://app; }} }}
"""
UPSTREAMS = ("app", "app", "app", "app", "other", "other", "third", "third")


class CountedNginx(RunningNginx):
    """Stands for Nginx where it would cost too much: its one worker is the number in a file."""

    def check(self, paths: ConfPaths, edited: Iterable[Path]) -> None:
        """Accept every layout."""

    def workers(self, until: float) -> Workers:
        """Return the number."""
        number = int(self.pid_file.read_text())
        return Workers((Worker(number, 0, "nginx: worker process"),), (), 0)

    def alive(self) -> frozenset[str]:
        """Return the number: those before it have gone."""
        return self.workers(0.0).ids

    def loaded_after(self, ids: frozenset[str], changed: float, *, strictly: bool) -> bool:
        """Tell nothing by time."""
        return False

    def reload(self, until: float) -> frozenset[str]:
        """Run the command, and count on."""
        run(self.command, until - time.monotonic())
        self.pid_file.write_text(str(int(self.pid_file.read_text()) + 1))
        return self.workers(until).ids


class AtCountedNginx(NginxUpstream):
    """The registry, with Nginx's part played by a number."""

    def _site(self) -> Site:
        site = super()._site()
        number = site.paths.main.parent / "number"
        return replace(site, running=CountedNginx(number, ("true",), None), test=("true",))


@dataclass(frozen=True)
class Play:
    """What all agents do: this many edits in each chapter, or one less."""

    registry: type[NginxUpstream]
    table: dict[str, object]
    edits: int

    def count(self, agent: int, chapter: int) -> int:
        """Return how often an agent edits in a chapter: it ends now with one word, now another."""
        return self.edits - (agent * chapter + agent) % 2

    def is_down(self, agent: int, chapter: int) -> bool:
        """Tell what an agent has done last at the end of a chapter."""
        return sum(self.count(agent, one) for one in range(chapter + 1)) % 2 == 1

    @property
    def total(self) -> int:
        """Return how many edits all make in all chapters."""
        return sum(self.count(agent, one) for agent in range(AGENTS) for one in range(CHAPTERS))

    def work(self, agent: int, quiet: Barrier) -> None:
        """Be an agent in a process of its own; one that fails ends the play for all."""
        with ExitStack() as failed:
            failed.callback(quiet.abort)
            self._work(agent, quiet)
            failed.pop_all()

    def _work(self, agent: int, quiet: Barrier) -> None:
        """Withdraw and restore, each as it comes, and look what came of it."""
        instance = Instance(f"app-{agent}", "app", "127.0.0.1", 8000 + agent)
        table = self.table | {"upstream": UPSTREAMS[agent]}
        registry = self.registry(Options.model_validate(table, strict=False), instance)
        snapshot, down = registry.snapshot(), False
        for chapter in range(CHAPTERS):
            for _ in range(self.count(agent, chapter)):
                down = not down
                if down:
                    registry.withdraw()
                else:
                    registry.restore(snapshot)
            assert registry.lists() is not down
            quiet.wait(LIMIT)  # all have ended the chapter
            quiet.wait(LIMIT)  # the file has been looked at
        if down:
            registry.restore(snapshot)

    def run(self, main: Path) -> None:
        """Have all agents at work, and look at the file whenever they pause."""
        before, spawn = main.read_bytes(), get_context("spawn")
        quiet = spawn.Barrier(AGENTS + 1)
        agents = [
            spawn.Process(target=self.work, args=(agent, quiet), daemon=True)
            for agent in range(AGENTS)
        ]
        try:
            for agent in agents:
                agent.start()
            for chapter in range(CHAPTERS):
                quiet.wait(LIMIT)
                wanted = {8000 + agent for agent in range(AGENTS) if self.is_down(agent, chapter)}
                assert found_down(main) == wanted
                assert len(main.read_bytes()) == len(before) + 5 * len(wanted)
                quiet.wait(LIMIT)
            for agent in agents:
                agent.join(LIMIT)
        finally:
            for agent in agents:
                agent.kill()
                agent.join()
        assert [agent.exitcode for agent in agents] == [0] * AGENTS
        assert main.read_bytes() == before


def found_down(main: Path) -> set[int]:
    """Return the ports of the servers that the file marks down."""
    blocks = read(ConfPaths(main)).upstreams.values()
    return {int(s.address.split(b":")[1]) for block in blocks for s in block.servers if s.down}


def table(main: Path, **options: object) -> dict[str, object]:
    """Return what every agent's options have in common."""
    return {"kind": "nginx", "config": main, "timeout": 60.0, **options}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder in memory, if there is any: syncing a disk so often is only waiting."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with TemporaryDirectory(dir=memory) as name:
        yield Path(name)


@pytest.mark.nightly
@pytest.mark.timeout(300)
def test_agents_that_edit_at_once_a_thousand_times(folder: Path) -> None:
    """
    Eight processes make a thousand edits of one file: none lost, none left, at no time.

    All of the registry is real but for Nginx, which is a number that "true" counts up: a
    reload costs Nginx a tenth of a second, whatever it loads. The next test has a real one.
    """
    main = folder / "nginx.conf"
    main.write_text(f"http {{ {HTTP.format(port=1)} }}\n")
    (folder / "number").write_text("0")
    play = Play(AtCountedNginx, table(main, pid_file=folder / "none", gather=0.0), edits=17)
    assert play.total >= 1000
    play.run(main)
    assert 0 < int((folder / "number").read_text()) <= play.total + AGENTS


@pytest.mark.timeout(300)
def test_agents_that_edit_at_once_under_a_real_nginx(
    folder: Path, record_property: Callable[[str, object], None]
) -> None:
    """The same with a real Nginx, which tests and loads every edit, many of them together."""
    with nginx(VERSIONS[1], folder, HTTP.format(port=free_ports(1)[0])) as server:
        commands = {"test": server.command("-t", "-q"), "reload": server.command("-s", "reload")}
        play = Play(NginxUpstream, table(server.conf, gather=0.05, **commands), edits=2)
        play.run(server.conf)
        record_property("edits", play.total)
        record_property("reloads", server.reloads())
        assert server.reloads() < play.total
