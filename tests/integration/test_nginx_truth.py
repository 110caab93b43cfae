"""Real Nginx in unusual circumstances: what could be taken for withdrawn, and is not."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.errors import RegistryError
from deregister_agent.registries.nginx.foreign_workers import _may_share_a_port
from deregister_agent.registries.nginx.processes import Master, Worker, Workers, title_of
from deregister_agent.registries.nginx.proof_record import key, load
from deregister_agent.registries.nginx.running import RunningNginx
from tests.integration.nginx_stage import World, make_world
from tests.servers.child import Child, wait_until
from tests.servers.nginx import VERSIONS, settled


@pytest.fixture(params=VERSIONS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Run each version of Nginx in front of two apps."""
    with ExitStack() as stack:
        yield make_world(stack, str(request.param), tmp_path)


def hold_in_a(world: World) -> None:
    """Have a request wait in app a."""
    before = world.a.hits
    while world.a.hits == before:
        world.hold_a_request()


def master_in(file: Path) -> int:
    """Return the pid that a file names once it is a master: it has a file before it has a title."""
    try:
        pid = int(file.read_text())
        return pid if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"nginx: master") else 0
    except (OSError, ValueError):
        return 0


def start_again(stack: ExitStack, world: World) -> Child:
    """Start another master on the same configuration."""
    nginx = world.nginx
    again = Child([*nginx.command(), "-g", "daemon off;"], nginx.folder / "again")
    stack.enter_context(again)
    pid_file = nginx.folder / "nginx.pid"
    wait_until(lambda: master_in(pid_file) == again.pid, "the new master has begun")
    children = Path(f"/proc/{again.pid}/task/{again.pid}/children")
    wait_until(
        lambda: (
            ["worker" in nginx.title(int(p)) for p in children.read_text().split()] == [True] * 2
        ),
        "the new workers run",
    )
    return again


def mark_down(world: World) -> None:
    """Mark app a down, as an operator does by hand."""
    world.rewrite(f":{world.a.port};", f":{world.a.port} down;")
    written = world.nginx.conf.stat().st_mtime
    wait_until(lambda: time.time() > written + 0.05, "file times and start times differ")


def test_an_upgrade_of_the_binary_is_not_believed(world: World) -> None:
    """While an old master serves on beside the new one, nothing that the new one does is proof."""
    pid_file = world.nginx.folder / "nginx.pid"
    with ExitStack() as stack:
        old = start_adopted(stack, world)
        os.kill(old, signal.SIGUSR2)
        wait_until(lambda: master_in(pid_file) not in {0, old}, "the new master has begun")
        check_upgrade(world, old, master_in(pid_file))


def start_adopted(stack: ExitStack, world: World) -> int:
    """Start Nginx anew below a shell that has gone: it takes no upgrade from its first parent."""
    nginx, pid_file = world.nginx, world.nginx.folder / "nginx.pid"
    nginx.kill()
    command = shlex.join([*nginx.command(), "-g", "daemon off;"])
    begun = f"until grep -qv {nginx.pid} {pid_file}; do sleep 0.02; done"
    shell = Child(["sh", "-c", f"{command} & {begun}"], nginx.folder / "adopted")
    stack.enter_context(shell)
    shell.process.wait(30)
    return master_in(pid_file)


def check_upgrade(world: World, old: int, new: int) -> None:
    """Two masters share the listening sockets now."""
    nginx, before = world.nginx, world.nginx.conf.read_bytes()
    registry = nginx.registry(world.a.port)
    with pytest.raises(RegistryError, match="beside those of master"):
        registry.withdraw()
    assert nginx.conf.read_bytes() == before
    mark_down(world)
    os.kill(new, signal.SIGHUP)
    wait_until(nginx.reloads, "it reloads")
    with pytest.raises(RegistryError, match=f"beside those of master {new}"):
        registry.lists()
    assert world.reaches_a()
    os.kill(old, signal.SIGQUIT)
    wait_until(lambda: not Path(f"/proc/{old}").exists(), "the old master has gone")
    registry.withdraw()
    assert (registry.lists(), world.reaches_a()) == (False, False)


def test_ports_that_nobody_can_show_may_be_shared(world: World) -> None:
    """Where each of our own workers has just exited, others are not taken for harmless."""
    (other, *_) = Master(world.nginx.folder / "nginx.pid").workers().active
    gone = subprocess.Popen(["true"])
    gone.wait()
    exited = Worker(gone.pid, 0, "nginx: worker process")
    for ours in ((exited,), ()):
        assert _may_share_a_port(other, Workers(ours, (), 0))
    assert not _may_share_a_port(exited, Workers((other,), (), 0))


def test_workers_of_a_master_that_quits_are_waited_for(world: World) -> None:
    """A restart leaves old workers to another master: these may reach the server as well."""
    with ExitStack() as stack:
        hold_in_a(world)
        os.kill(world.nginx.pid, signal.SIGQUIT)
        wait_until(world.nginx.retiring, "it is quitting")
        start_again(stack, world)
        registry = world.nginx.registry(world.a.port)
        registry.withdraw()
        assert not registry.lists()
        old = world.nginx.retiring()
        assert {int(s.what.split()[3].strip(",")) for s in registry.stragglers()} >= set(old)
        world.release()


@pytest.mark.parametrize("version", VERSIONS)
def test_workers_whose_master_was_killed_are_not_forgotten(version: str, tmp_path: Path) -> None:
    """With reuseport, workers of a master that was killed serve on beside the new ones."""
    with ExitStack() as stack:
        world = make_world(stack, version, tmp_path)
        world.rewrite(f"listen 127.0.0.1:{world.port}", f"listen 127.0.0.1:{world.port} reuseport")
        world.reload()
        settled(world.nginx)
        orphans = world.nginx.workers()
        world.nginx.process.send_signal(signal.SIGKILL)
        world.nginx.process.wait()
        start_again(stack, world)
        registry = world.nginx.registry(world.a.port)
        with pytest.raises(RegistryError, match=rf"{orphans[0]}.*beside those of master"):
            registry.withdraw()
        for orphan in orphans:
            os.kill(orphan, signal.SIGKILL)
        wait_until(lambda: not any(map(title_of, orphans)), "they have gone")
        registry.withdraw()
        assert (registry.lists(), world.reaches_a()) == (False, False)


def test_a_worker_that_was_started_anew_has_loaded_nothing_new(tmp_path: Path) -> None:
    """After a crash the master starts a worker with what it had loaded long ago."""
    with ExitStack() as stack:
        world = make_world(stack, VERSIONS[1], tmp_path, workers=1)
        mark_down(world)
        victim = world.nginx.workers()[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(
            lambda: world.nginx.workers() and victim not in world.nginx.workers(), "it is replaced"
        )
        registry = world.nginx.registry(world.a.port)
        assert world.reaches_a()
        registry.withdraw()
        assert (registry.lists(), world.reaches_a()) == (False, False)
        registry.withdraw()
        assert world.nginx.reloads() == 1


def test_an_old_worker_that_was_started_anew_is_waited_for(tmp_path: Path) -> None:
    """The same when it is an old worker: it is younger than the file, and does not know it."""
    with ExitStack() as stack:
        world = make_world(stack, VERSIONS[1], tmp_path, workers=1)
        mark_down(world)
        victim = world.nginx.workers()[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(
            lambda: world.nginx.workers() and victim not in world.nginx.workers(), "it is replaced"
        )
        hold_in_a(world)
        registry = world.nginx.registry(world.a.port)
        registry.withdraw()
        assert [
            f"worker {pid}," in s.what
            for pid, s in zip(world.nginx.retiring(), registry.stragglers(), strict=True)
        ] == [True]


RELEASES = "upstream app {{ include {folder}/current/*.conf; server 127.0.0.1:{b}; }}"


def releases(world: World, *, down: bool) -> None:
    """Lay out a release whose file has app a up, now current, and an older one."""
    folder = world.nginx.folder
    for name, word in (("old", " down" if down else ""), ("new", "")):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "a.conf").write_text(f"server 127.0.0.1:{world.a.port}{word};\n")
    point_to(folder, "new")
    written = (folder / "new" / "a.conf").stat().st_mtime
    wait_until(lambda: time.time() > written + 0.05, "file times and start times differ")
    world.reload()
    settled(world.nginx)


def point_to(folder: Path, release: str) -> None:
    """Make one release the current one, as deploy tools do: all at once."""
    (folder / "next").symlink_to(folder / release)
    (folder / "next").rename(folder / "current")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_link_that_is_turned_is_a_change(version: str, tmp_path: Path) -> None:
    """A link turned to older files, without a reload: their age does not make them loaded."""
    with ExitStack() as stack:
        world = make_world(stack, version, tmp_path, http=RELEASES)
        releases(world, down=True)
        registry = world.nginx.registry(world.a.port)
        assert registry.lists()
        point_to(tmp_path, "old")
        assert world.reaches_a()
        assert registry.lists()
        registry.withdraw()
        assert (registry.lists(), world.reaches_a()) == (False, False)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_link_that_is_turned_during_the_reload(version: str, tmp_path: Path) -> None:
    """What was loaded then is not what was read, and is not taken for it, now or later."""
    with ExitStack() as stack:
        world = make_world(stack, version, tmp_path, http=RELEASES)
        releases(world, down=False)
        script = tmp_path / "reload.sh"
        turn = f"ln -s {tmp_path}/old {tmp_path}/next; mv -T {tmp_path}/next {tmp_path}/current"
        script.write_text(f"{turn}; kill -HUP {world.nginx.pid}")
        turning = world.nginx.registry(world.a.port, reload=("sh", str(script)))
        with pytest.raises(RegistryError, match="changed during the reload"):
            turning.withdraw()
        assert world.reaches_a()
        registry = world.nginx.registry(world.a.port)
        assert registry.lists()
        registry.withdraw()
        assert (registry.lists(), world.reaches_a()) == (False, False)


def test_a_file_that_nginx_sees_as_a_mount_of_its_own(tmp_path: Path) -> None:
    """What replaces such a file is never read by Nginx: that is found, and undone."""
    host, inside = tmp_path / "host", tmp_path / "inside"
    with ExitStack() as stack:
        host.mkdir()
        world = make_world(stack, VERSIONS[1], host)
        nginx = world.nginx
        nginx.kill()
        shutil.copytree(host, inside)
        # As with "docker run -v host/nginx.conf:/etc/nginx/nginx.conf".
        script = (
            f"mount --bind {nginx.conf} {inside}/nginx.conf && mount --rbind {inside} {host} "
            f"&& exec {shlex.join(nginx.command())} -g 'daemon off;'"
        )
        contained = Child(["unshare", "-m", "sh", "-c", script], tmp_path / "contained")
        stack.enter_context(contained)
        pid_file = inside / "nginx.pid"
        wait_until(
            lambda: contained.process.poll() is not None or master_in(pid_file) == contained.pid,
            "it has begun",
        )
        if contained.process.poll() is not None:
            pytest.skip(f"no mount namespaces here (root is needed): {contained.tail()}")
        options: dict[str, Any] = {
            "pid_file": pid_file,
            "reload": ("kill", "-HUP", str(contained.pid)),
        }
        registry, before = nginx.registry(world.a.port, **options), nginx.conf.read_bytes()
        with pytest.raises(RegistryError, match=r"reads another .*mount its folder.*taken back"):
            registry.withdraw()
        assert nginx.conf.read_bytes() == before
        assert world.reaches_a()
        mark_down(world)
        os.kill(contained.pid, signal.SIGHUP)
        with pytest.raises(RegistryError, match="reads another"):
            registry.lists()


def test_a_master_of_another_configuration(world: World) -> None:
    """A master that was started with another file proves nothing about this one."""
    other = world.nginx.folder / "other.conf"
    shutil.copy(world.nginx.conf, other)
    registry = world.nginx.registry(world.a.port, config=other)
    with pytest.raises(RegistryError, match=r"was started with .*nginx.conf and not with .*other"):
        registry.withdraw()
    assert "down" not in other.read_text()


@pytest.mark.parametrize("version", VERSIONS)
def test_relative_includes_beside_a_link(version: str, tmp_path: Path) -> None:
    """Nginx looks for them beside the link to the main file, not beside the file: so do we."""
    http = "upstream app {{ include servers/*.conf; server 127.0.0.1:{b}; }}"
    with ExitStack() as stack:
        world = make_world(stack, version, tmp_path, http=http)
        own, stale = tmp_path / "servers" / "a.conf", tmp_path / "real" / "servers" / "a.conf"
        for file in (own, stale):
            file.parent.mkdir(parents=True)
            file.write_text(f"server 127.0.0.1:{world.a.port};\n")
        world.nginx.conf.rename(tmp_path / "real" / "nginx.conf")
        world.nginx.conf.symlink_to(tmp_path / "real" / "nginx.conf")
        world.reload()
        registry = world.nginx.registry(world.a.port)
        assert world.reaches_a()
        registry.withdraw()
        assert (registry.lists(), world.reaches_a()) == (False, False)
        assert (" down;" in own.read_text(), " down;" in stale.read_text()) == (True, False)


def test_the_record_tells_since_when_a_server_is_down(tmp_path: Path) -> None:
    """Reloads of others do not make that later, and a withdrawal of long ago does not count."""
    with ExitStack() as stack:
        world = make_world(stack, VERSIONS[1], tmp_path)
        a, b = world.nginx.registry(world.a.port), world.nginx.registry(world.b.port)
        snapshot = a.snapshot()
        a.withdraw()
        first = since(world, world.a.port)
        b.withdraw()
        settled(world.nginx)
        b.restore(snapshot)
        assert since(world, world.a.port) == first
        world.rewrite(f":{world.a.port} down;", f":{world.a.port};")
        world.reload()
        a.withdraw()
        assert (since(world, world.a.port) or 0.0) > (first or 0.0)


def test_files_that_change_during_a_look(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others put back, and loaded, after the files were read is no withdrawn server."""
    registry = world.nginx.registry(world.a.port)
    registry.withdraw()
    settled(world.nginx)
    workers, others = RunningNginx.workers, [f":{world.a.port} down;"]

    def seen_late(running: RunningNginx, until: float) -> Workers:
        if others:
            world.rewrite(others.pop(), f":{world.a.port};")
            world.reload()
        return workers(running, until)

    monkeypatch.setattr(RunningNginx, "workers", seen_late)
    assert registry.lists()
    assert not others
    assert world.reaches_a()


def test_an_unfinished_header_outlives_the_limit_of_old_workers(tmp_path: Path) -> None:
    """What Nginx still reads is not closed with all else: only client_header_timeout ends that."""
    with ExitStack() as stack:
        main = "worker_shutdown_timeout 200ms;"
        world = make_world(stack, VERSIONS[1], tmp_path, main=main, workers=1)
        begun, held = (
            stack.enter_context(socket.create_connection(("127.0.0.1", world.port), timeout=30))
            for _ in range(2)
        )
        begun.sendall(b"GET / HTTP/1.1\r\n")
        held.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: world.a.hits + world.b.hits, "the other request is in hand")
        registry = world.nginx.registry(world.a.port)
        registry.withdraw()
        assert held.recv(1) == b""  # closed by the limit
        (straggler,) = registry.stragglers()
        assert "without a client" not in straggler.what
        begun.close()
        wait_until(lambda: not registry.stragglers(), "the old worker has gone")


def since(world: World, port: int) -> float | None:
    """Return from when on the record knows a server as down."""
    known = load(world.nginx.folder / ".deregister-agent-nginx.json")
    return known.down_since(key("http", "app", b"127.0.0.1:%d" % port))
