"""Who the app's process is, and whether it has exited: with real processes and sockets."""

import os
import platform
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from deregister_agent.host import find_by_port, pids, port_holders
from deregister_agent.host.clock import SystemClock
from deregister_agent.host.find_by_port import PortFinder
from deregister_agent.host.process_finder import ProbeMark, ProcessOptions, build
from deregister_agent.host.sockets import SocketsError, listeners
from deregister_agent.model import Instance, Presence, Process
from deregister_agent.ports import ProcessFinder

CLOCK = SystemClock()
BOOT = CLOCK.boot_id()
HERE = pids.namespace()
NOBODY = 65534
EXIT = {"x86_64": 60, "aarch64": 93}  # the system call that ends one thread

SCRIPT = """
import ctypes, os, signal, socket, sys, threading, time

def listen(port, reuse=False):
    global server
    server = socket.socket()
    option = socket.SO_REUSEPORT if reuse else socket.SO_REUSEADDR
    server.setsockopt(socket.SOL_SOCKET, option, 1)
    server.bind(("127.0.0.1", port))
    server.listen()
    return server.getsockname()[1]

def start():
    pid = os.fork()
    if pid == 0:
        os.environ["LISTEN_PID"] = str(os.getpid())
        os.set_inheritable(server.fileno(), True)
        code = "import os, signal; f = lambda *_: os.fork() or signal.pause(); "
        code += "signal.signal(signal.SIGUSR1, f); [signal.pause() for _ in iter(int, 1)]"
        os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", code])
    return pid

def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

for line in sys.stdin:
    print(eval(line), flush=True)
"""


class App:
    """A process that does what it is told: Python expressions, one a line."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._child.pid

    def tell(self, expression: str) -> None:
        assert self._child.stdin
        self._child.stdin.write(expression + "\n")
        self._child.stdin.flush()

    def do(self, expression: str) -> str:
        assert self._child.stdout
        self.tell(expression)
        return self._child.stdout.readline().strip()

    def number(self, expression: str) -> int:
        return int(self.do(expression))

    def kill(self) -> None:
        """Kill it, and leave its zombie."""
        self._child.kill()
        wait_for(lambda: pids.find(self.pid) is None, "the app to die")

    def end(self) -> None:
        """Kill it with its children, and reap it."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe:
                pipe.close()


def wait_for(condition: Callable[[], object], what: str, limit: float = 20.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.01)


@dataclass
class Stage:
    """Starts apps, and ends them all with the test."""

    closing: ExitStack

    def app(self) -> App:
        app = App()
        self.closing.callback(app.end)
        return app


@pytest.fixture
def stage() -> Iterator[Stage]:
    with ExitStack() as closing:
        yield Stage(closing)


def on(port: int, activator: int = 1) -> PortFinder:
    return PortFinder(port, "127.0.0.1", CLOCK, activator=activator)


def seen(finder: ProcessFinder, was: Process | None = None) -> Process:
    """Return who is running; fail when nobody is."""
    running = finder.look(was).running
    assert running is not None
    return running


def identity(*processes: int) -> tuple[tuple[int, int], ...]:
    found = [pids.find(pid) for pid in processes]
    return tuple(sorted(process for process in found if process is not None))


@contextmanager
def as_nobody() -> Iterator[None]:
    """Run the block as another user, who sees nothing of root's processes."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


class TestByPort:
    def test_the_holder_of_the_listener_is_the_app(self, stage: Stage) -> None:
        """The identity is boot, pid with start time, and the inode of the listening socket."""
        app = stage.app()
        port = app.number("listen(0)")
        inode = app.number("os.fstat(server.fileno()).st_ino")
        running = Process(BOOT, identity(app.pid), (inode,), namespace=HERE)
        assert on(port).look(None) == Presence(exited=False, running=running)

    def test_nobody_listens(self, stage: Stage) -> None:
        """With nobody on the port nobody is seen, and nothing has exited."""
        app = stage.app()
        port = app.number("listen(0)")
        app.do("server.close()")
        presence = on(port).look(None)
        assert (presence.exited, presence.running) == (False, None)
        assert presence.note == f"nothing listens on port {port}"

    def test_alive_is_not_exited(self, stage: Stage) -> None:
        """The same process is told as the same."""
        app = stage.app()
        finder = on(app.number("listen(0)"))
        was = seen(finder)
        assert finder.look(was) == Presence(exited=False, running=was)

    def test_a_closed_listener_is_not_an_exit(self, stage: Stage) -> None:
        """An app that closed its listener and goes on working has not exited."""
        app = stage.app()
        finder = on(app.number("listen(0)"))
        was = seen(finder)
        app.do("server.close()")
        assert finder.look(was) == Presence(exited=False, running=was)
        app.kill()
        assert finder.look(was).exited

    def test_a_zombie_has_exited(self, stage: Stage) -> None:
        """A process that nobody has reaped is no process any more."""
        app = stage.app()
        finder = on(app.number("listen(0)"))
        was = seen(finder)
        app.kill()
        assert Path(f"/proc/{app.pid}").exists()
        presence = finder.look(was)
        assert (presence.exited, presence.running, presence.replaced) == (True, None, False)

    def test_a_zombie_with_threads_lives(self, stage: Stage) -> None:
        """A process whose first thread has ended, but not its others, has not exited."""
        number = EXIT.get(platform.machine())
        if number is None:
            pytest.skip("the number of the system call is not known")
        app = stage.app()
        finder = on(app.number("listen(0)"))
        was = seen(finder)
        app.do("server.close()")
        app.do("threading.Thread(target=time.sleep, args=(600,)).start()")
        app.tell(f"ctypes.CDLL(None).syscall({number}, 0)")
        stat = Path(f"/proc/{app.pid}/stat")
        wait_for(lambda: b") Z " in stat.read_bytes(), "the first thread to end")
        assert not finder.look(was).exited

    def test_a_fast_restart_is_noticed(self, stage: Stage) -> None:
        """A restart between two looks, on the same port, is an exit and a replacement."""
        old, new = stage.app(), stage.app()
        port = old.number("listen(0)")
        finder = on(port)
        was = seen(finder)
        old.end()
        assert new.number(f"listen({port})") == port
        presence = finder.look(was)
        assert presence.replaced
        assert presence.running
        assert presence.running.pids == identity(new.pid)
        assert set(presence.running.sockets).isdisjoint(was.sockets)

    def test_a_recycled_pid_is_another_process(self, stage: Stage) -> None:
        """The pid alone proves nothing: with another start time it is another process."""
        app = stage.app()
        finder = on(app.number("listen(0)"))
        now = seen(finder)
        ((pid, start),) = now.pids
        was = replace(now, pids=((pid, start - 1),), sockets=(1,))
        assert finder.look(was) == Presence(exited=True, running=now)

    def test_another_boot_has_exited(self, stage: Stage) -> None:
        """Every process of an earlier boot has exited, whatever has its pid now."""
        app = stage.app()
        finder = on(app.number("listen(0)"))
        now = seen(finder)
        was = replace(now, boot_id="another")
        assert finder.look(was) == Presence(exited=True, running=now)
        finder.wait_exit(was, 60.0)

    def test_workers_belong_to_the_app(self, stage: Stage) -> None:
        """Whoever inherited the listener is the app; it has exited when the last one has."""
        app = stage.app()
        port = app.number("listen(0)")
        worker = app.number("os.fork() or signal.pause()")
        finder = on(port)
        was = seen(finder)
        assert was.pids == identity(app.pid, worker)
        app.kill()
        assert finder.look(was) == Presence(
            exited=False, running=replace(was, pids=identity(worker))
        )
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: finder.look(was).exited, "the last worker to be noticed as dead")

    def test_a_worker_started_later_belongs_too(self, stage: Stage) -> None:
        """A respawned worker, unknown when the master dies, still is the app."""
        app = stage.app()
        finder = on(app.number("listen(0)"))
        was = seen(finder)
        worker = app.number("os.fork() or signal.pause()")
        app.kill()
        assert finder.look(was) == Presence(
            exited=False, running=replace(was, pids=identity(worker))
        )

    def test_workers_are_learnt_while_the_master_lives(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A later worker is known before it closes the listener, so it outlives its master."""
        monkeypatch.setattr(port_holders, "_REST", 0.0)
        app = stage.app()
        finder = on(app.number("listen(0)"))
        was = seen(finder)
        worker = app.number("os.fork() or signal.pause()")
        wait_for(lambda: seen(finder, was).pids == identity(app.pid, worker), "the worker is seen")

    def test_old_and_new_side_by_side(self, stage: Stage) -> None:
        """With SO_REUSEPORT, the new process does not stand for the old one while that lives."""
        old, new = stage.app(), stage.app()
        port = old.number("listen(0, True)")
        finder = on(port)
        was = seen(finder)
        new.do(f"listen({port}, True)")
        assert finder.look(was) == Presence(exited=False, running=was)
        old.do("server.close()")
        assert finder.look(was) == Presence(exited=False, running=was)
        old.kill()
        presence = finder.look(was)
        assert presence.replaced
        assert presence.running
        assert presence.running.pids == identity(new.pid)

    def test_a_second_listener_of_the_same_process(self, stage: Stage) -> None:
        """A process that opens its port anew is the same one, under both sockets."""
        app = stage.app()
        port = app.number("listen(0)")
        finder = on(port)
        was = seen(finder)
        app.do("server.close()")
        app.do(f"listen({port})")
        running = seen(finder, was)
        assert not finder.look(was).exited
        assert running.pids == was.pids
        assert set(running.sockets) > set(was.sockets)

    def test_only_the_instances_own_address(self, stage: Stage) -> None:
        """Another program on the same port of another address is not the app."""
        app, other = stage.app(), stage.app()
        port = app.number("listen(0)")
        other.do(f"globals().update(s=socket.create_server(('127.0.0.2', {port})))")
        assert len(listeners(port)) == 2
        assert seen(PortFinder(port, "127.0.0.1", CLOCK)).pids == identity(app.pid)
        assert seen(PortFinder(port, "127.0.0.2", CLOCK)).pids == identity(other.pid)
        assert seen(PortFinder(port, "10.9.8.7", CLOCK)).pids == identity(app.pid, other.pid)

    def test_the_agent_itself_is_never_the_app(self) -> None:
        """A listener that only the agent's own process holds is nobody's."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            presence = on(server.getsockname()[1]).look(None)
        assert (presence.exited, presence.running) == (False, None)
        assert "a process that is not running" in presence.note

    def test_an_unreadable_table_is_no_exit(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When the kernel's table cannot be read, nothing has exited and the note says why."""

        def refuse(_: int) -> list[Any]:
            raise SocketsError("no table")

        app = stage.app()
        finder = on(app.number("listen(0)"))
        was = seen(finder)
        app.kill()
        monkeypatch.setattr(find_by_port, "listeners", refuse)
        assert finder.look(was) == Presence(exited=False, running=None, note="no table")


class TestSocketActivation:
    def test_the_inode_outlives_the_app(self, stage: Stage) -> None:
        """The app has exited though its activator keeps the listener open; nobody is there then."""
        activator = stage.app()
        port = activator.number("listen(0)")
        service = activator.number("start()")
        finder = on(port, activator.pid)
        was = seen(finder)
        assert was.pids == identity(service)
        activator.do(f"end({service})")
        presence = finder.look(was)
        assert (presence.exited, presence.running) == (True, None)
        assert f"held open by pid {activator.pid}" in presence.note

    def test_a_restart_on_the_same_inode(self, stage: Stage) -> None:
        """The next process gets the same socket, and is told from the one before."""
        activator = stage.app()
        port = activator.number("listen(0)")
        finder = on(port, activator.pid)
        old = activator.number("start()")
        was = seen(finder)
        wait_for(lambda: pids.activated(was.pids[0]) == was.pids[0], "the service to be executed")
        activator.do(f"end({old})")
        time.sleep(2 / os.sysconf("SC_CLK_TCK"))  # start times are told apart by ticks
        new = activator.number("start()")
        wait_for(lambda: pids.activated(identity(new)[0]), "the next one to be executed")
        presence = finder.look(was)
        assert presence.replaced
        assert presence.running
        assert presence.running.pids == identity(new)
        assert presence.running.sockets == was.sockets

    def test_a_child_of_the_activated_belongs_to_it(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A child with its parent's LISTEN_PID is the same app, and may outlive its parent."""
        monkeypatch.setattr(port_holders, "_REST", 0.0)
        activator = stage.app()
        port = activator.number("listen(0)")
        service = activator.number("start()")
        finder = on(port, activator.pid)
        was = seen(finder)
        caught = 1 << (signal.SIGUSR1 - 1)
        status = Path(f"/proc/{service}/status")
        mask = re.compile(r"SigCgt:\s*(\w+)")
        wait_for(lambda: int(mask.findall(status.read_text())[0], 16) & caught, "the service")
        os.kill(service, signal.SIGUSR1)
        wait_for(lambda: len(seen(finder, was).pids) == 2, "the child to be seen")
        activator.do(f"end({service})")
        assert not finder.look(was).exited
        assert len(seen(finder, was).pids) == 1

    def test_a_worker_of_the_activated_is_no_successor(self, stage: Stage) -> None:
        """A child of the activated process, started later, is still the same app."""
        activator, app = stage.app(), stage.app()
        port = app.number("listen(0)")
        finder = on(port, activator.pid)
        was = seen(finder)
        worker = app.number("start()")
        app.kill()
        assert finder.look(was).running == replace(was, pids=identity(worker))


class TestUnseen:
    def test_says_what_to_configure(self, stage: Stage) -> None:
        """Where the holder cannot be seen, the note says so and names the ways out."""
        app = stage.app()
        port = app.number("listen(0)")
        with as_nobody():
            presence = on(port).look(None)
        inode = listeners(port)[0].inode
        assert presence.running == Process(BOOT, (), (inode,), namespace=HERE)
        assert not presence.exited
        assert "pid_file or systemd_unit" in presence.note

    def test_only_a_restart_is_an_exit(self, stage: Stage) -> None:
        """Without pids, a closed port is no exit; another listener in its place is."""
        app, new = stage.app(), stage.app()
        port = app.number("listen(0)")
        with as_nobody():
            finder = on(port)
            was = seen(finder)
            assert finder.look(was).running == was
            app.do("server.close()")
            assert finder.look(was).exited is False
            app.kill()
            assert finder.look(was).exited is False
            new.do(f"listen({port})")
            assert finder.look(was).replaced

    def test_a_known_pid_is_watched_by_any_user(self, stage: Stage) -> None:
        """What root has learnt, another user can still see end."""
        app = stage.app()
        port = app.number("listen(0)")
        was = seen(on(port))
        with as_nobody():
            assert on(port).look(was) == Presence(exited=False, running=was)
            app.kill()
            assert on(port).look(was).exited

    def test_pids_of_another_namespace_tell_nothing(self, stage: Stage, tmp_path: Path) -> None:
        """Dead here says nothing about a process that was seen from another pid namespace."""
        app = stage.app()
        by_port = on(app.number("listen(0)"))
        moved = replace(seen(by_port), pids=((1 << 22, 1),), namespace="pid:[1]")
        (tmp_path / "pid").write_text(str(app.pid))
        by_file = made(by="pid_file", file=tmp_path / "pid")
        for each in (by_port, by_file):
            presence = each.look(moved)
            assert not presence.exited
            assert "namespace" in presence.note

    def test_a_listener_with_an_unseen_holder_is_no_exit(self, stage: Stage) -> None:
        """The known pids are dead, but somebody unseen holds the socket: not certain."""
        app = stage.app()
        port = app.number("listen(0)")
        inode = listeners(port)[0].inode
        was = Process(BOOT, ((2**22, 1),), (inode,))
        with as_nobody():
            presence = on(port).look(was)
        assert (presence.exited, presence.running) == (False, was)
        assert f"socket {inode}" in presence.note

    def test_hidden_processes_are_not_dead(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where /proc hides a process, the kernel is asked by a signal of 0."""
        monkeypatch.setattr(pids, "_PROC", tmp_path)
        assert pids.is_alive((os.getpid(), 17))
        assert not pids.is_alive((2**22, 17))

    @pytest.mark.parametrize("was", [None, Process(BOOT)])
    def test_nothing_known_is_no_exit(self, stage: Stage, was: Process | None) -> None:
        """Whoever was never known cannot be known to have exited."""
        app = stage.app()
        finder = on(app.number("listen(0)"))
        assert finder.look(was) == finder.look(None)
        app.kill()
        assert finder.look(was).exited is False


class TestWaitExit:
    @pytest.mark.parametrize("with_worker", [False, True])
    def test_returns_when_the_last_one_exits(self, stage: Stage, with_worker: bool) -> None:
        """It blocks until nobody of the app lives, and look() says so then."""
        app = stage.app()
        port = app.number("listen(0)")
        worker = app.number("os.fork() or signal.pause()") if with_worker else 0
        finder = on(port)
        was = seen(finder)
        waiting = threading.Thread(target=finder.wait_exit, args=(was, 60.0))
        waiting.start()
        if worker:
            os.kill(worker, signal.SIGKILL)
        waiting.join(0.2)
        assert waiting.is_alive()
        app.kill()
        waiting.join(20)
        assert not waiting.is_alive()
        assert finder.look(was).exited

    def test_returns_at_once_when_nobody_lives(self, stage: Stage) -> None:
        """An exit before the call is an exit."""
        app = stage.app()
        finder = on(app.number("listen(0)"))
        was = seen(finder)
        app.kill()
        began = time.monotonic()
        finder.wait_exit(was, 60.0)
        assert time.monotonic() - began < 30

    def test_ends_with_its_time(self, stage: Stage) -> None:
        """While the app lives it blocks for the time given, not for ever."""
        app = stage.app()
        finder = on(app.number("listen(0)"))
        began = time.monotonic()
        finder.wait_exit(seen(finder), 0.2)
        assert time.monotonic() - began >= 0.2

    def test_without_pids_watches_the_listener(self, stage: Stage) -> None:
        """Where no pid is known it waits for another listener; a closed port says nothing yet."""
        old, new = stage.app(), stage.app()
        port = old.number("listen(0)")
        was = Process(BOOT, (), (listeners(port)[0].inode,))
        waiting = threading.Thread(target=on(port).wait_exit, args=(was, 60.0))
        waiting.start()
        old.end()
        waiting.join(0.3)
        assert waiting.is_alive()
        new.do(f"listen({port})")
        waiting.join(20)
        assert not waiting.is_alive()

    def test_without_pidfd(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a kernel that has no pidfd it looks again and again."""

        def refuse(_: int) -> int:
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(os, "pidfd_open", refuse)
        app = stage.app()
        was = seen(on(app.number("listen(0)")))
        waiting = threading.Thread(target=pids.wait, args=(was.pids, 60.0))
        waiting.start()
        app.kill()
        waiting.join(20)
        assert not waiting.is_alive()


# A port that no program of a test machine serves or asks: that of TCPMUX, of 1988.
INSTANCE = Instance("orders-1", "orders", "127.0.0.1", 1)


def made(instance: Instance = INSTANCE, **table: object) -> ProcessFinder:
    adapter: TypeAdapter[ProcessOptions] = TypeAdapter(ProcessOptions)
    return build(adapter.validate_python(table), instance, CLOCK)


class TestPidFile:
    def test_follows_the_file(self, stage: Stage, tmp_path: Path) -> None:
        """The app is the pid in the file; a new pid there after its death is its successor."""
        old, new, file = stage.app(), stage.app(), tmp_path / "app.pid"
        file.write_text(f"{old.pid}\n")
        finder = made(by="pid_file", file=file)
        was = seen(finder)
        assert was == Process(BOOT, identity(old.pid), namespace=HERE)
        file.write_text(f"{new.pid}\n")
        assert finder.look(was) == Presence(exited=False, running=was)
        old.kill()
        running = Process(BOOT, identity(new.pid), namespace=HERE)
        assert finder.look(was) == Presence(exited=True, running=running)

    def test_a_recycled_pid_is_not_the_app(self, stage: Stage, tmp_path: Path) -> None:
        """The same number with another start time is another process."""
        app, file = stage.app(), tmp_path / "app.pid"
        file.write_text(str(app.pid))
        finder = made(by="pid_file", file=file)
        ((pid, start),) = seen(finder).pids
        was = Process(BOOT, ((pid, start - 1),))
        assert finder.look(was) == Presence(True, Process(BOOT, ((pid, start),), namespace=HERE))

    def test_a_file_older_than_its_process_is_stale(self, stage: Stage, tmp_path: Path) -> None:
        """A process that started after the file was written has taken over the number."""
        app, file = stage.app(), tmp_path / "app.pid"
        file.write_text(str(app.pid))
        os.utime(file, (time.time() - 60, time.time() - 60))
        finder = made(by="pid_file", file=file)
        was = Process(BOOT, ((app.pid, 1),))
        for about, exited in ((None, False), (was, True)):
            presence = finder.look(about)
            assert (presence.exited, presence.running) == (exited, None)
            assert "another program's" in presence.note

    def test_an_absent_or_stale_file_is_nobody(self, stage: Stage, tmp_path: Path) -> None:
        """No file, or one with a dead pid in it: nobody is seen, and the note says why."""
        app, file = stage.app(), tmp_path / "app.pid"
        finder = made(by="pid_file", file=file)
        missing = finder.look(None)
        file.write_text(str(app.pid))
        was = seen(finder)
        app.kill()
        stale = finder.look(was)
        assert (missing.exited, missing.running) == (False, None)
        assert (stale.exited, stale.running) == (True, None)
        assert "does not exist" in missing.note
        assert "stale" in stale.note

    @pytest.mark.parametrize(
        "text", ["", "no pid", "-1", "0", "12 13", "99999999999999999999999", "²"]
    )
    def test_garbage_is_not_known(self, stage: Stage, tmp_path: Path, text: str) -> None:
        """A file that holds no pid tells nothing, not even that nobody is there."""
        app, file = stage.app(), tmp_path / "app.pid"
        file.write_text(str(app.pid))
        finder = made(by="pid_file", file=file)
        was = seen(finder)
        app.kill()
        file.write_text(text)
        presence = finder.look(was)
        assert (presence.exited, presence.running) == (False, None)
        assert str(file) in presence.note

    def test_wait_exit(self, stage: Stage, tmp_path: Path) -> None:
        """It blocks until the process exits."""
        app, file = stage.app(), tmp_path / "app.pid"
        file.write_text(str(app.pid))
        finder = made(by="pid_file", file=file)
        was = seen(finder)
        waiting = threading.Thread(target=finder.wait_exit, args=(was, 60.0))
        waiting.start()
        app.kill()
        waiting.join(20)
        assert not waiting.is_alive()
        finder.wait_exit(was, 60.0)
        finder.wait_exit(replace(was, boot_id="another"), 60.0)


class Systemctl:
    """A command that says what it is told to, and counts how often it is asked."""

    def __init__(self, folder: Path) -> None:
        self.said, self.asked, self._script = folder / "said", folder / "asked", folder / "ctl"
        self.asked.touch()
        self.answers(f'cat "{self.said}"')
        self.finder = made(
            by="systemd_unit",
            unit="orders.service",
            systemctl=("/bin/sh", str(self._script)),
            timeout=5.0,
        )

    def answers(self, shell: str) -> None:
        self._script.write_text(f'echo "$@" >> "{self.asked}"\n{shell}\n')

    def says(self, pid: int, state: str) -> None:
        self.said.write_text(f"MainPID={pid}\nActiveState={state}\n")

    def times(self) -> int:
        return len(self.asked.read_text().splitlines())


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemctl:
    monkeypatch.setattr("deregister_agent.host.systemd_unit._CACHED", 0.0)
    return Systemctl(tmp_path)


class TestSystemdUnit:
    def test_asks_only_until_the_pid_is_known(self, stage: Stage, systemctl: Systemctl) -> None:
        """While the process lives, systemd is not asked again."""
        app = stage.app()
        systemctl.says(app.pid, "active")
        was = seen(systemctl.finder)
        assert was == Process(BOOT, identity(app.pid), namespace=HERE)
        for _ in range(20):
            assert systemctl.finder.look(was) == Presence(exited=False, running=was)
        assert (
            systemctl.asked.read_text()
            == "show -p MainPID,ControlPID,ActiveState,SubState,LoadState,Restart,ControlGroup "
            "orders.service\n"
        )

    def test_a_unit_whose_others_cannot_be_seen(self, stage: Stage, systemctl: Systemctl) -> None:
        """Its own process is not in the control group as it is shown here: that is no "nobody"."""
        app = stage.app()
        systemctl.says(app.pid, "active")
        with systemctl.said.open("a") as said:
            said.write("ControlGroup=/of/another/namespace/orders.service\n")
        presence = systemctl.finder.look(None)
        assert presence.running is not None
        assert "who else belongs to unit orders.service is not seen" in presence.note
        was = presence.running
        app.kill()
        systemctl.says(0, "inactive")
        assert "who else belongs to unit" in systemctl.finder.look(was).note

    @pytest.mark.parametrize("odd", ["ControlPID=", "ControlPID=[not set]", "ControlPID=-1"])
    def test_a_helper_that_systemctl_does_not_tell(
        self, stage: Stage, systemctl: Systemctl, odd: str
    ) -> None:
        """What is no number names nobody, and is no error."""
        systemctl.says(stage.app().pid, "active")
        with systemctl.said.open("a") as said:
            said.write(f"{odd}\n")
        assert systemctl.finder.look(None).running is not None

    def test_a_restart(self, stage: Stage, systemctl: Systemctl) -> None:
        """Another main process in the place of the dead one is its successor."""
        old, new = stage.app(), stage.app()
        systemctl.says(old.pid, "active")
        was = seen(systemctl.finder)
        old.kill()
        systemctl.says(new.pid, "active")
        running = Process(BOOT, identity(new.pid), namespace=HERE)
        assert systemctl.finder.look(was) == Presence(exited=True, running=running)

    @pytest.mark.parametrize(
        ("state", "exited"),
        [("inactive", True), ("failed", True), ("deactivating", False), ("activating", False)],
    )
    def test_without_a_main_process(
        self, stage: Stage, systemctl: Systemctl, state: str, exited: bool
    ) -> None:
        """The unit has exited when it is at rest: not while others of it work, or it starts."""
        app = stage.app()
        systemctl.says(app.pid, "active")
        was = seen(systemctl.finder)
        app.kill()
        systemctl.says(0, state)
        presence = systemctl.finder.look(was)
        assert (presence.exited, presence.running) == (exited, None)
        assert f"orders.service is {state}" in presence.note

    @pytest.mark.parametrize(
        ("shell", "why"),
        [
            ("echo Failed to connect to bus >&2; exit 1", "Failed to connect to bus"),
            ("exit 3", "exit status 3"),
            ("echo MainPID=0; echo ActiveState=inactive; exit 4", "exit status 4"),
            ("echo nonsense", "says nothing of unit orders.service"),
            ("echo MainPID=", "says nothing of unit orders.service"),
        ],
    )
    def test_no_word_is_not_known(
        self, stage: Stage, systemctl: Systemctl, shell: str, why: str
    ) -> None:
        """When systemd does not say, nothing has exited and the note says why."""
        app = stage.app()
        systemctl.says(app.pid, "active")
        was = seen(systemctl.finder)
        app.kill()
        systemctl.answers(shell)
        presence = systemctl.finder.look(was)
        assert (presence.exited, presence.running) == (False, None)
        assert why in presence.note

    def test_a_hung_systemctl(self, tmp_path: Path) -> None:
        """A command that does not answer is given up after its timeout."""
        script = tmp_path / "hang"
        script.write_text("exec sleep 600")
        finder = made(
            by="systemd_unit", unit="o.service", systemctl=("/bin/sh", str(script)), timeout=0.1
        )
        presence = finder.look(None)
        assert (presence.exited, presence.running) == (False, None)
        assert "/bin/sh says nothing of unit o.service: no end within 0.1 s" in presence.note

    def test_no_systemctl(self, tmp_path: Path) -> None:
        """A command that is not there is said to be so."""
        absent = str(tmp_path / "absent")
        finder = made(by="systemd_unit", unit="orders.service", systemctl=(absent,))
        assert (
            f"{absent} says nothing of unit orders.service: it cannot be started"
            in finder.look(None).note
        )

    def test_no_secret_is_passed_on(
        self, systemctl: Systemctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The command sees nothing of the agent's environment, but what finds a user's manager."""
        monkeypatch.setenv("AGENT_TOKEN", "secret")
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
        systemctl.answers(f'env > "{tmp_path}/env"')
        systemctl.finder.look(None)
        seen_there = (tmp_path / "env").read_text()
        assert "XDG_RUNTIME_DIR=/run/user/7" in seen_there
        assert "secret" not in seen_there

    def test_a_hung_command_ends_with_its_children(self, tmp_path: Path) -> None:
        """A wrapper's children are killed with it, and theirs."""
        script, told = tmp_path / "hang", tmp_path / "pid"
        script.write_text(f"sh -c 'sleep 600 & echo $! > {told}; wait'; exit 0")
        made(
            by="systemd_unit", unit="o.service", systemctl=("/bin/sh", str(script)), timeout=1.0
        ).look(None)
        grandchild = int(told.read_text())
        wait_for(lambda: pids.find(grandchild) is None, "the end of the grandchild")

    def test_an_answer_is_kept_for_a_moment(self, tmp_path: Path) -> None:
        """Looks that follow each other closely ask once, but a dead process is asked about."""
        systemctl = Systemctl(tmp_path)
        systemctl.says(0, "inactive")
        for _ in range(5):
            systemctl.finder.look(None)
        assert systemctl.times() < 5


class TestProbeMark:
    def test_another_mark_is_another_process(self) -> None:
        """The app has exited when it says that it is somebody else."""
        finder = ProbeMark(CLOCK)
        finder.heard("a")
        was = seen(finder)
        assert finder.look(was) == Presence(exited=False, running=was)
        finder.heard("")
        assert finder.look(was) == Presence(exited=False, running=was)
        finder.heard("b")
        assert finder.look(was) == Presence(exited=True, running=Process(BOOT, mark="b"))

    def test_nothing_heard_is_no_exit(self) -> None:
        """Before the first mark nobody is known, and the note says so."""
        presence = ProbeMark(CLOCK).look(Process(BOOT, mark="a"))
        assert (presence.exited, presence.running) == (False, None)
        assert "no probe has told yet" in presence.note

    def test_a_process_without_a_mark_never_exits(self) -> None:
        """A process that had no mark cannot be told from one that has."""
        finder = ProbeMark(CLOCK)
        finder.heard("a")
        assert finder.look(Process(BOOT)).exited is False
        assert finder.look(Process("another")).exited is True

    def test_wait_exit(self) -> None:
        """It blocks until another mark is heard, or its time is over."""
        finder = ProbeMark(CLOCK)
        finder.heard("a")
        was = seen(finder)
        finder.wait_exit(was, 0.05)
        waiting = threading.Thread(target=finder.wait_exit, args=(was, 60.0))
        waiting.start()
        finder.heard("b")
        waiting.join(20)
        assert not waiting.is_alive()


class TestOptions:
    def test_port_is_the_default(self, stage: Stage) -> None:
        """An empty table looks at the instance's own port; ``port`` names another."""
        app = stage.app()
        port = app.number("listen(0)")
        assert seen(made(replace(INSTANCE, port=port))).pids == identity(app.pid)
        assert seen(made(by="port", port=port)).pids == identity(app.pid)

    @pytest.mark.parametrize(
        "table",
        [
            {"by": "magic"},
            {"by": "pid_file"},
            {"by": "systemd_unit", "unit": "-rf"},
            {"by": "systemd_unit", "unit": ""},
            {"by": "systemd_unit", "unit": "a.service", "systemctl": ()},
            {"by": "port", "file": "x"},
            {"by": "probe", "port": 1},
            "port",
        ],
    )
    def test_mistakes_are_refused(self, table: object) -> None:
        """What no finder takes is refused."""
        adapter: TypeAdapter[ProcessOptions] = TypeAdapter(ProcessOptions)
        with pytest.raises(ValidationError):
            adapter.validate_python(table)
