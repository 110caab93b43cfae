"""Real Nginx: what the registry says is what the running workers do, whatever goes wrong."""

import errno
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.demo.stage import free_ports
from deregister_agent.errors import RegistryError
from deregister_agent.host import files
from deregister_agent.model import Instance
from deregister_agent.registries.nginx import change, proof_record
from deregister_agent.registries.nginx import reload as reloading
from deregister_agent.registries.nginx.conf import ConfPaths
from deregister_agent.registries.nginx.options import Options
from deregister_agent.registries.nginx.parse import read
from deregister_agent.registries.nginx.registry import NginxUpstream, build, warnings
from deregister_agent.registries.nginx.server_address import ServerAddress
from tests.integration.nginx_stage import App, Gate, World, accepted, make_world
from tests.servers.child import wait_until
from tests.servers.nginx import VERSIONS, Nginx, conf_files, settled

CORPUS = Path(__file__).parents[1] / "nginx_corpus"


@pytest.fixture(params=VERSIONS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Run each version of Nginx in front of two apps."""
    with ExitStack() as stack:
        yield make_world(stack, str(request.param), tmp_path)


def test_withdraw_is_proved_and_restore_gives_the_file_back(world: World) -> None:
    """Out means that no request comes; back means the same file, byte for byte; each one reload."""
    registry, before = world.nginx.registry(world.a.port), world.nginx.conf.read_bytes()
    assert (registry.lists(), registry.others(), world.reaches_a()) == (True, 1, True)
    snapshot = registry.snapshot()
    registry.withdraw()
    assert (registry.lists(), world.reaches_a(), world.nginx.reloads()) == (False, False, 1)
    registry.withdraw()
    assert world.nginx.reloads() == 1
    registry.restore(snapshot)
    assert (registry.lists(), world.reaches_a(), world.nginx.reloads()) == (True, True, 2)
    registry.restore(snapshot)
    assert (world.nginx.reloads(), world.nginx.conf.read_bytes()) == (2, before)


def test_instances_that_go_together_cost_one_reload(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many withdrawn at once, each by a registry of its own, share one reload."""
    monkeypatch.setattr(change, "_GATHER_LIMIT", 30.0)  # a busy machine edits slowly
    ports = range(20001, 20013)
    more = "upstream many { " + " ".join(f"server 127.0.0.1:{p};" for p in ports) + " }"
    world.rewrite("upstream app", f"{more}\nupstream app")
    world.reload()
    registries = [world.nginx.registry(port, "many", gather=1.0) for port in ports]
    before = world.nginx.reloads()
    with ThreadPoolExecutor(len(registries)) as pool:
        list(pool.map(lambda registry: registry.withdraw(), registries))
    assert [registry.lists() for registry in registries] == [False] * len(registries)
    assert world.nginx.reloads() == before + 1


def test_a_file_marked_down_by_hand_is_not_the_running_state(world: World) -> None:
    """Until workers have loaded it, a server that is down in the file is still listed."""
    registry = world.nginx.registry(world.a.port)
    world.rewrite(f":{world.a.port};", f":{world.a.port} down;")
    assert registry.lists()
    written = world.nginx.conf.stat().st_mtime
    wait_until(lambda: time.time() > written + 0.05, "file times and start times differ")
    world.reload()
    assert (registry.lists(), world.reaches_a()) == (False, False)
    world.rewrite("worker_processes 2;", "worker_processes 1;")
    registry.withdraw()
    assert not registry.lists()


def test_a_look_waits_for_nobody_when_it_is_proved(world: World) -> None:
    """Others may be at work: what is proved is told at once, and the rest when they are done."""
    registry, other = world.nginx.registry(world.a.port), world.nginx.registry(world.b.port)
    registry.withdraw()
    with files.locked(record_of(world), 5):
        assert not registry.lists()
        world.rewrite("worker_processes 2;", "worker_processes 1;")
        assert not registry.lists()  # it is down in what the workers have loaded
        assert other.lists()
        world.rewrite(f":{world.b.port};", f":{world.b.port} down;")
        with pytest.raises(RegistryError, match="has held this lock"):
            world.nginx.registry(world.b.port, timeout=1.0).lists()
    assert other.lists()


def record_of(world: World) -> Path:
    """Return the file whose lock whoever changes this Nginx holds."""
    return world.nginx.conf.resolve().with_name(".deregister-agent-nginx.json")


def test_a_refused_reload_is_found_and_undone(world: World) -> None:
    """A listen port in use passes nginx -t and -s reload: it is reported, and all is put back."""
    registry = world.nginx.registry(world.a.port)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        world.rewrite("upstream app", f"server {{ listen 127.0.0.1:{port}; }} upstream app")
        before = world.nginx.conf.read_bytes()
        with pytest.raises(RegistryError, match=r"\[emerg\].*bind\(\).*taken back"):
            registry.withdraw()
    assert (registry.lists(), world.reaches_a()) == (True, True)
    assert world.nginx.conf.read_bytes() == before
    registry.withdraw()
    assert not registry.lists()


def test_a_refused_reload_is_undone_for_all_who_took_part(world: World) -> None:
    """Instances that shared a refused reload all hear why, and none of their edits stays."""
    registries = [world.nginx.registry(app.port, gather=0.4) for app in (world.a, world.b)]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        world.rewrite("upstream app", f"server {{ listen 127.0.0.1:{port}; }} upstream app")
        before = world.nginx.conf.read_bytes()

        def attempt(registry: NginxUpstream) -> str:
            with pytest.raises(RegistryError) as caught:
                registry.withdraw()
            return str(caught.value)

        with ThreadPoolExecutor(2) as pool:
            said = list(pool.map(attempt, registries))
    assert all("[emerg]" in one and "taken back" in one for one in said), said
    assert world.nginx.conf.read_bytes() == before


def test_a_configuration_broken_by_others_is_left_alone(world: World) -> None:
    """If nginx -t fails before any change, that is said, and the file is not even touched."""
    registry = world.nginx.registry(world.a.port)
    world.rewrite("upstream app", "no_such_directive on;\nupstream app")
    before = (world.nginx.conf.read_bytes(), world.nginx.conf.stat().st_ino)
    with pytest.raises(RegistryError, match=r"no_such_directive.*before any change of the agent's"):
        registry.withdraw()
    assert (world.nginx.conf.read_bytes(), world.nginx.conf.stat().st_ino) == before
    assert registry.lists()


def test_an_edit_that_nginx_refuses_is_put_back(world: World, tmp_path: Path) -> None:
    """If nginx -t fails on the new content, the old is back and the error holds nginx's words."""
    script = tmp_path / "test.sh"
    script.write_text(
        f'! grep -q " down" "{world.nginx.conf}" || {{ echo "no down here"; exit 1; }}'
    )
    registry = world.nginx.registry(world.a.port, test=("sh", str(script)))
    before = world.nginx.conf.read_bytes()
    with pytest.raises(RegistryError, match=r"no down here.*with the change.*taken back"):
        registry.withdraw()
    assert (world.nginx.conf.read_bytes(), world.nginx.reloads()) == (before, 0)


@pytest.mark.parametrize("state", ["killed", "another process", "no pid file"])
def test_nginx_not_running_is_not_withdrawn(state: str, world: World) -> None:
    """Without a running master nothing is known: an error that says so, and no file touched."""
    pid_file = world.nginx.folder / "nginx.pid"
    before = world.nginx.conf.read_bytes()
    if state == "killed":
        world.nginx.kill()
    elif state == "another process":
        pid_file.write_text(f"{os.getpid()}\n")
    else:
        pid_file.unlink()
    registry = world.nginx.registry(world.a.port)
    assert registry.lists()
    for call in (registry.withdraw, registry.stragglers):
        with pytest.raises(RegistryError, match="nginx is not running, or pid_file is wrong"):
            call()
    assert world.nginx.conf.read_bytes() == before
    world.rewrite(f":{world.a.port};", f":{world.a.port} down;")
    with pytest.raises(RegistryError, match="nginx is not running, or pid_file is wrong"):
        registry.lists()


def test_a_file_that_nothing_includes(world: World) -> None:
    """A file of the agent's own that Nginx never reads is an error, and is not left behind."""
    own = world.nginx.folder / "own.conf"
    registry = world.nginx.registry(9, file=own)
    with pytest.raises(RegistryError, match=r"own.conf is included by nothing.*taken back"):
        registry.restore(None)
    assert not own.exists()


def test_a_frozen_nginx_ends_the_call(world: World) -> None:
    """A master that does nothing is an error within the timeout, and the old file is back."""
    before = world.nginx.conf.read_bytes()
    registry = world.nginx.registry(world.a.port, timeout=1.5)
    os.kill(world.nginx.pid, signal.SIGSTOP)
    with pytest.raises(RegistryError, match=r"nginx \(master \d+\) .*taken back"):
        registry.withdraw()
    os.kill(world.nginx.pid, signal.SIGCONT)
    assert (world.nginx.conf.read_bytes(), registry.lists()) == (before, True)


def test_nginx_killed_in_the_middle_of_a_reload(world: World) -> None:
    """If the master dies under the reload, that is an error and the old file is back."""
    before = world.nginx.conf.read_bytes()
    reload = ("sh", "-c", f"kill -9 {world.nginx.pid}")
    registry = world.nginx.registry(world.a.port, reload=reload)
    parent = threading.Thread(target=world.nginx.process.wait)  # or a zombie would stay
    parent.start()
    with pytest.raises(RegistryError, match="taken back"):
        registry.withdraw()
    parent.join()
    assert world.nginx.conf.read_bytes() == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_file_that_cannot_be_written(
    number: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk or a read-only file is an error; nothing has changed, and nothing is reloaded."""
    real, main = files.replace_durably, world.nginx.conf

    def fail(path: Path, content: bytes) -> None:
        if path == main:
            raise OSError(number, os.strerror(number), str(path))
        real(path, content)

    monkeypatch.setattr(change, "replace_durably", fail)
    before = main.read_bytes()
    registry = world.nginx.registry(world.a.port)
    with pytest.raises(RegistryError, match=os.strerror(number)):
        registry.withdraw()
    assert (main.read_bytes(), world.nginx.reloads(), registry.lists()) == (before, 0, True)
    monkeypatch.undo()
    registry.withdraw()
    assert not registry.lists()


def test_restore_keeps_what_another_tool_has_changed(world: World) -> None:
    """Only our own word goes: a new server, a new weight and a comment by others stay."""
    registry = world.nginx.registry(world.a.port)
    snapshot = registry.snapshot()
    registry.withdraw()
    world.rewrite(
        f":{world.a.port} down;", f":{world.a.port} weight=3 down; # tuned\nserver 127.0.0.1:9;"
    )
    registry.restore(snapshot)
    assert f":{world.a.port} weight=3; # tuned\nserver 127.0.0.1:9;" in world.nginx.conf.read_text()
    assert registry.lists()


def test_a_server_that_was_down_before_stays_down(world: World) -> None:
    """What an operator had marked down is not brought up by a restore."""
    world.rewrite(f":{world.a.port};", f":{world.a.port} down;")
    registry, before = world.nginx.registry(world.a.port), world.nginx.conf.read_bytes()
    snapshot = registry.snapshot()
    assert snapshot == {"down": [True]}
    registry.withdraw()
    registry.restore(snapshot)
    assert (world.nginx.conf.read_bytes(), registry.lists()) == (before, False)


def test_a_server_removed_by_others_is_not_added_again(world: World) -> None:
    """A restore does not undo somebody's removal: it says so."""
    registry = world.nginx.registry(world.a.port)
    snapshot = registry.snapshot()
    registry.withdraw()
    world.rewrite(f"server 127.0.0.1:{world.a.port} down;", "")
    with pytest.raises(RegistryError, match="has no server"):
        registry.restore(snapshot)


def test_an_upstream_that_is_not_there(world: World) -> None:
    """A misspelled upstream is an error that lists what is there, for every operation."""
    registry = world.nginx.registry(world.a.port, "other")
    calls = (registry.look, registry.lists, registry.snapshot, registry.withdraw, registry.others)
    for call in (*calls, lambda: registry.restore(None), registry.look_alikes):
        with pytest.raises(RegistryError, match="no http upstream other; it has: app"):
            call()


def test_another_reload_changes_nothing(world: World) -> None:
    """Reloads, rewrites and worker crashes by others leave a withdrawn instance withdrawn."""
    registry = world.nginx.registry(world.a.port)
    registry.withdraw()
    world.rewrite("worker_processes 2;", "worker_processes 3;")
    assert not registry.lists()
    world.reload()
    assert not registry.lists()
    settled(world.nginx)
    victim = world.nginx.workers()[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(
        lambda: victim not in world.nginx.workers() and len(world.nginx.workers()) == 3,
        "a new worker is there",
    )
    assert not registry.lists()
    world.rewrite(f":{world.a.port} down;", f":{world.a.port};")
    assert registry.lists()
    registry.withdraw()
    assert (registry.lists(), world.reaches_a()) == (False, False)


def test_old_workers_are_waited_for(world: World) -> None:
    """A worker that still has a request is named until it exits."""
    registry = world.nginx.registry(world.a.port)
    for _ in range(2):
        world.hold_a_request()
    registry.withdraw()
    assert not registry.lists()
    said = [one.what for one in registry.stragglers()]
    retired = world.nginx.retiring()
    assert len(said) == len(retired) > 0
    assert all(any(f"worker {pid}," in one for one in said) for pid in retired), said
    assert any(f"1 connection(s) to 127.0.0.1:{world.a.port}" in one for one in said), said
    world.a.release.set()
    world.b.release.set()
    settled(world.nginx)
    assert not registry.stragglers()


def test_workers_that_knew_it_was_down_are_no_stragglers(world: World) -> None:
    """Old workers of a generation that had the server down already cannot reach it."""
    registry = world.nginx.registry(world.a.port)
    registry.withdraw()
    settled(world.nginx)
    world.hold_a_request()
    world.rewrite("worker_processes 2;", "worker_processes 1;")
    world.reload()
    assert world.nginx.retiring()
    assert not registry.stragglers()


HANG_UP = """
grep -q " down" {conf} && exit 0
kill -HUP {pid}
while grep -q "SigBlk:.0000000000000000" /proc/{pid}/status; do sleep 0.01; done
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_a_reload_that_began_before_the_edit_is_not_believed(version: str, tmp_path: Path) -> None:
    """New workers of somebody's reload that had read the old file are no proof of ours."""
    with ExitStack() as stack:
        gate = Gate(tmp_path / "gate")
        stack.callback(gate.close)
        world = make_world(stack, version, tmp_path, more=f"include {gate.path};")
        nginx, old = world.nginx, set(world.nginx.workers())
        # The test command, run before the edit, stands for somebody who reloads just then.
        script = tmp_path / "test.sh"
        script.write_text(HANG_UP.format(conf=nginx.conf, pid=nginx.pid))
        # nginx -s reload would read the configuration itself, and wait at the gate.
        commands: dict[str, Any] = {
            "test": ("sh", str(script)),
            "reload": ("kill", "-HUP", str(nginx.pid)),
        }
        registry = nginx.registry(world.a.port, **commands)
        gate.free = 0
        with ThreadPoolExecutor(1) as pool:
            out = pool.submit(registry.withdraw)
            wait_until(lambda: " down" in nginx.conf.read_text(), "the file is edited")
            assert set(nginx.workers()) == old
            with pytest.raises(TimeoutError):
                out.result(timeout=0.5)
            gate.free = 1  # the foreign reload ends, with the old file; ours has to wait
            wait_until(lambda: not old & set(nginx.workers()), "the foreign reload is done")
            with pytest.raises(TimeoutError):
                out.result(timeout=0.5)
            assert world.reaches_a()
            gate.free = 1000
            out.result(timeout=30)
        assert (registry.lists(), world.reaches_a(), nginx.reloads()) == (False, False, 2)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_owned_include(version: str, tmp_path: Path) -> None:
    """With a file of its own the agent makes it, marks it and keeps its mode, through a link."""
    folder = tmp_path / "real"
    folder.mkdir()
    (tmp_path / "servers").symlink_to(folder)
    with ExitStack() as stack:
        http = "upstream app {{ include {folder}/servers/*.conf; server 127.0.0.1:{b}; }}"
        world = make_world(stack, version, tmp_path, http=http)
        own = tmp_path / "servers" / "a.conf"
        registry = world.nginx.registry(world.a.port, file=own, parameters="max_fails=3")
        assert (registry.snapshot(), registry.others()) == (None, 1)
        registry.withdraw()
        assert not registry.lists()
        registry.restore(None)
        assert own.read_text().endswith(f"\nserver 127.0.0.1:{world.a.port} max_fails=3;\n")
        assert (registry.lists(), world.reaches_a()) == (True, True)
        own.chmod(0o640)
        snapshot, before = registry.snapshot(), own.read_bytes()
        registry.withdraw()
        assert (registry.lists(), world.reaches_a()) == (False, False)
        registry.restore(snapshot)
        assert (own.read_bytes(), own.stat().st_mode & 0o777) == (before, 0o640)
        lost = world.nginx.registry(world.a.port, file=tmp_path / "servers" / "a.txt")
        with pytest.raises(RegistryError, match=r"lists the server in .*a.conf:2 too"):
            lost.restore(None)
        world.rewrite("upstream app {", f"upstream app {{ server 127.0.0.1:{world.a.port};")
        with pytest.raises(RegistryError, match=r"lists the server in .*nginx.conf:.* too"):
            registry.withdraw()


def test_a_link_is_followed(world: World) -> None:
    """The file behind a symbolic link is replaced, and the link stays."""
    real = world.nginx.folder / "available.conf"
    shutil.move(world.nginx.conf, real)
    world.nginx.conf.symlink_to(real)
    world.nginx.registry(world.a.port).withdraw()
    assert world.nginx.conf.is_symlink()
    assert f":{world.a.port} down;" in real.read_text()


class Died(BaseException):
    """Stands for the end of the process."""


@dataclass
class Mortal:
    """Dies before or after one of its steps."""

    number: int
    when: str
    steps: int = 0

    def step(self, real: Callable[..., object], *args: object) -> object:
        self.steps += 1
        if self.steps == self.number and self.when == "before":
            raise Died
        result = real(*args)
        if self.steps == self.number:
            raise Died
        return result


def test_a_crash_at_every_step(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die before or after any side effect; the next life is never wrong, and gets it done."""
    first, snapshot = world.nginx.conf.read_bytes(), {"down": [False]}
    steps = [(change, "replace_durably"), (proof_record, "replace_durably"), (change, "run")]
    steps += [(change, "_gather"), (reloading, "run")]
    deaths = 0
    for when in ("before", "after"):
        for number in range(1, 20):
            mortal = Mortal(number, when)
            with monkeypatch.context() as patch:
                for module, name in steps:
                    patch.setattr(module, name, partial(mortal.step, getattr(module, name)))
                try:
                    world.nginx.registry(world.a.port).withdraw()
                except Died:
                    deaths += 1
            survivor = world.nginx.registry(world.a.port)
            if not survivor.lists():
                assert not world.reaches_a()
            survivor.withdraw()
            assert (survivor.lists(), world.reaches_a()) == (False, False)
            survivor.restore(snapshot)
            assert (survivor.lists(), world.nginx.conf.read_bytes()) == (True, first)
            if mortal.steps < number:
                break
    assert deaths >= 12, deaths


@pytest.mark.parametrize("version", VERSIONS)
def test_nginx_accepts_the_corpus_down_and_up(version: str, tmp_path: Path) -> None:
    """Every configuration of the corpus that this build can read passes nginx -t, down or up."""
    names = [path.name for path in sorted(CORPUS.glob("*.conf"))] + ["included/main.conf"]
    with ExitStack() as stack:
        nginx = make_world(stack, version, tmp_path).nginx
        shutil.copytree(CORPUS, tmp_path / "corpus")
        for name in names:
            main = tmp_path / "corpus" / name
            assert accepted(nginx, main, tmp_path), main
            seen = read(ConfPaths(main))
            found = seen.find("http", "app", ServerAddress("10.0.0.7:8080"))
            for path, content in seen.marked(found, down=True).items():
                path.write_bytes(content)
            assert accepted(nginx, main, tmp_path), main


def test_check_config_warns_of_what_will_hurt(world: World) -> None:
    """The real files are looked at, and each warning says what to do."""
    world.rewrite(
        world.upstream(),
        f"upstream app {{ ip_hash; server 127.0.0.1:{world.a.port}; }}\n"
        f"upstream ws {{ server 127.0.0.1:{world.a.port}; server app.internal:80; }}\n"
        "proxy_next_upstream off;",
    )
    table = {"kind": "nginx", "upstream": "app", "config": world.nginx.conf, "absent": "withdrawn"}
    instance = Instance("a", "app", "127.0.0.1", world.a.port)
    options = Options.model_validate(table, strict=False)
    said = "\n".join(warnings(options, instance))
    for word in (
        "worker_shutdown_timeout",
        "keepalive_min_timeout",
        "proxy_next_upstream off",
        "has one server",
        "ip_hash",
        "http upstream ws has",
    ):
        assert word in said, word
    assert build(options, instance).others() == 0


ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "nginx"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("sample", ["owned-include", "edited-file"])
def test_the_samples_run(sample: str, version: str, tmp_path: Path) -> None:
    """The sample configurations, with other ports, are run and do what the how-tos say."""
    shutil.copytree(SAMPLES / sample, tmp_path, dirs_exist_ok=True)
    with ExitStack() as stack:
        a, b = App(), App()
        stack.callback(a.close)
        stack.callback(b.close)
        ports = dict(zip((8000, 8081, 8082), [*free_ports(1), a.port, b.port], strict=True))
        for path in tmp_path.glob("*/*.conf"):
            text = path.read_text()
            for old, new in ports.items():
                text = text.replace(f"127.0.0.1:{old}", f"127.0.0.1:{new}")
            path.write_text(text)
        nginx = stack.enter_context(Nginx(version, tmp_path, "include conf.d/*.conf;"))
        world = World(nginx, ports[8000], a, b)
        options: dict[str, Any] = {}
        if sample != "edited-file":
            options["file"] = tmp_path / "deregister-agent" / "orders-1.conf"
        registry = nginx.registry(a.port, "orders", **options)
        before, snapshot = conf_files(tmp_path), registry.snapshot()
        registry.withdraw()
        assert (registry.lists(), world.reaches_a(), registry.others()) == (False, False, 1)
        registry.restore(snapshot)
        assert (registry.lists(), world.reaches_a()) == (True, True)
        assert conf_files(tmp_path) == before


def test_the_how_tos_quote_the_samples() -> None:
    """What the documentation shows is what the tests run."""
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "how-to").glob("nginx-*.md"))
    shown = "\n".join(line.strip() for line in pages.splitlines())
    for path in SAMPLES.glob("*/*/*.conf"):
        if path.name != "orders-2.conf":
            text = "\n".join(line.strip() for line in path.read_text().splitlines())
            assert text in shown, path
