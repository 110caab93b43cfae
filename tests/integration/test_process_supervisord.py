"""Which process is the app under supervisord and its like: rows of docs/reference/process.md."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from deregister_agent.errors import NotifyError
from deregister_agent.host import pids
from deregister_agent.model import Process
from tests.integration.process_stage import (
    CLOCK,
    LISTENS,
    Started,
    after_a_tick,
    by_pid_file,
    children,
    drained,
    end,
    finder_of,
    free_port,
    is_alive,
    named,
    once,
    pid_of,
    seen,
)
from tests.loops import eventually

INHERITS = """
import socket, time
server = socket.socket(fileno=0)
kept = []
while True:
    kept.append(server.accept())
"""

CONFIG = """
[supervisord]
nodaemon = true
logfile = /dev/null
pidfile = {folder}/supervisord.pid
[unix_http_server]
file = {folder}/s
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl = unix://{folder}/s
[{section}]
command = {python} {script} {port}
autorestart = true
{more}
"""

MAIN = "import sys\nfrom supervisor.supervisord import main\nsys.exit(main())\n"


def _module(folder: Path) -> list[str]:
    return [sys.executable, "-m", "supervisor.supervisord"]


def _isolated_module(folder: Path) -> list[str]:
    return [sys.executable, "-Im", "supervisor.supervisord"]


def _script(folder: Path) -> list[str]:
    (folder / "supervisord").write_text(MAIN)
    return [sys.executable, "-W", "ignore", str(folder / "supervisord")]


def _found_by_env(folder: Path) -> list[str]:
    program = folder / "supervisord"
    program.write_text(f"#!/usr/bin/env {Path(sys.executable).name}\n{MAIN}")
    program.chmod(0o755)
    return [str(program)]


WAYS: tuple[Callable[[Path], list[str]], ...] = (_module, _isolated_module, _script, _found_by_env)


class Supervisord:
    """A supervisord that runs one program, called ``app``."""

    def __init__(
        self, stack: ExitStack, folder: Path, command: Sequence[str], *, keeps: bool
    ) -> None:
        self.port, self._config = free_port(), folder / "supervisord.conf"
        self.pid_file = folder / "supervisord.pid"
        script = folder / "app.py"
        script.write_text(INHERITS if keeps else LISTENS)
        self._config.write_text(
            CONFIG.format(
                folder=folder,
                python=sys.executable,
                script=script,
                port=self.port,
                section="fcgi-program:app" if keeps else "program:app",
                more=f"socket = tcp://127.0.0.1:{self.port}" if keeps else "",
            )
        )
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.pid = Started(stack, [*command, "-c", str(self._config)], PATH=path).pid
        stack.callback(self.end_below)
        eventually(lambda: len(children(self.pid)) == 1, "its program is started")

    def end_below(self) -> None:
        """End its programs with it: each is in a session of its own."""
        below = children(self.pid)
        os.kill(self.pid, signal.SIGKILL)
        for pid in below:
            os.kill(pid, signal.SIGKILL)

    def app(self) -> int:
        """Return the pid of its program."""
        (pid,) = children(self.pid)
        return pid

    def control(self, *words: str) -> None:
        """Ask it for something, as an operator does."""
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(self._config)]
        subprocess.run([*command, *words], capture_output=True, timeout=60, check=True)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as one:
        yield one


def _told_to_restart(one: Supervisord, was: Process) -> None:
    one.control("restart", "app:")


def _asked_to_end(one: Supervisord, was: Process) -> None:
    os.kill(one.app(), signal.SIGTERM)


def _ended_by_the_notifier(one: Supervisord, was: Process) -> None:
    end(was)


on_each_socket = pytest.mark.parametrize("keeps", [False, True], ids=["program", "fcgi-program"])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("restart", [_told_to_restart, _asked_to_end, _ended_by_the_notifier])
@on_each_socket
def test_its_program_is_the_app(
    stack: ExitStack,
    tmp_path: Path,
    way: Callable[[Path], list[str]],
    restart: Callable[[Supervisord, Process], None],
    *,
    keeps: bool,
) -> None:
    """Restarted after "drained", it has exited, and the next one is its successor."""
    one = Supervisord(stack, tmp_path, way(tmp_path), keeps=keeps)
    finder = finder_of(one.port)
    running = seen(finder)
    assert pid_of(running) == [one.app()], "also where supervisord holds the socket"
    was = drained(running)
    after_a_tick()
    restart(one, was)
    presence = once(finder, was, lambda each: each.exited and each.running, "the next one runs")
    assert presence.left == ""
    assert presence.running is not None
    assert pid_of(presence.running) == [one.app()] != pid_of(was)
    assert is_alive(one.pid)


@pytest.mark.parametrize("way", WAYS)
@on_each_socket
def test_it_is_never_the_app_nor_ended(
    stack: ExitStack, tmp_path: Path, way: Callable[[Path], list[str]], *, keeps: bool
) -> None:
    """Not by its own pid file, and not where somebody names it as what is to be ended."""
    one = Supervisord(stack, tmp_path, way(tmp_path), keeps=keeps)
    eventually(one.pid_file.exists, "its pid file")
    presence = by_pid_file(one.pid_file).look(None)
    assert (presence.exited, presence.running, presence.nobody) == (False, None, False)
    assert "supervisord, a service manager" in presence.note
    found = pids.find(one.pid)
    assert found is not None
    with pytest.raises(NotifyError, match="supervisord"):
        end(Process(CLOCK.boot_id(), (found,), namespace=pids.namespace()))
    assert is_alive(one.pid)


@on_each_socket
def test_a_program_that_is_stopped(stack: ExitStack, tmp_path: Path, *, keeps: bool) -> None:
    """It has exited, nobody is left, and nobody is in its place until it is started."""
    one = Supervisord(stack, tmp_path, _module(tmp_path), keeps=keeps)
    finder = finder_of(one.port)
    was = drained(seen(finder))
    after_a_tick()
    one.control("stop", "app:")
    presence = once(finder, was, lambda each: each.exited, "it has exited")
    assert (presence.running, presence.left) == (None, "")
    one.control("start", "app:")
    presence = once(finder, was, lambda each: each.running, "the next one runs")
    assert presence.exited
    assert presence.running is not None
    assert pid_of(presence.running) == [one.app()]


HANDS_ON = {
    "python3": """
import os, socket, signal, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
os.set_inheritable(server.fileno(), True)
if os.fork() == 0:
    os.execv("/bin/sleep", ["sleep", "600"])
signal.pause()
""",
    "perl": """
use Socket; $^F = 10;
socket(my $server, PF_INET, SOCK_STREAM, 0); setsockopt($server, SOL_SOCKET, SO_REUSEADDR, 1);
bind($server, pack_sockaddr_in($ARGV[0], INADDR_LOOPBACK)); listen($server, 9);
if (fork() == 0) { exec("sleep", "600"); }
sleep(600);
""",
}
"""Managers that open a socket and start another program with it, by their interpreter."""


@pytest.mark.parametrize(
    ("interpreter", "name", "options"),
    [
        ("python3", "circusd", ["-W", "ignore"]),
        ("python3", "einhorn", ["-X", "utf8", "-u"]),
        ("perl", "start_server", ["-I", "/nonexistent", "-w"]),
        ("perl", "circusd", []),
        ("python3", "start_server", ["-I"]),
    ],
)
def test_a_manager_that_is_a_script(
    stack: ExitStack, tmp_path: Path, interpreter: str, name: str, options: list[str]
) -> None:
    """The kernel knows it only by the name of its interpreter; what it starts is the app."""
    program, port = shutil.which(interpreter), free_port()
    if program is None:
        pytest.skip(f"{interpreter} is not installed")
    (tmp_path / name).write_text(HANDS_ON[interpreter])
    manager = Started(stack, [program, *options, str(tmp_path / name), str(port)])
    finder = finder_of(port)
    eventually(
        lambda: [pids.name(pid) for pid in pid_of(seen(finder))] == ["sleep"], "its program is seen"
    )
    found = pids.find(manager.pid)
    assert found is not None
    with pytest.raises(NotifyError, match=name):
        end(Process(CLOCK.boot_id(), (found,), namespace=pids.namespace()))
    assert is_alive(manager.pid)


def test_a_manager_that_accepts_for_its_apps(stack: ExitStack, tmp_path: Path) -> None:
    """PM2 in cluster mode: its daemon alone listens, for each of several apps."""
    port = free_port()
    daemon = named(tmp_path, "PM2 v5.3.0: God Daemon (.pm2)")
    manager = Started(stack, [daemon, "-c", LISTENS, str(port)])
    finder = finder_of(port)
    eventually(lambda: "apps that it starts" in finder.look(None).note, "it is known")
    assert finder.look(None).running is None
    found = pids.find(manager.pid)
    assert found is not None
    with pytest.raises(NotifyError, match="PM2"):
        end(Process(CLOCK.boot_id(), (found,), namespace=pids.namespace()))
    assert is_alive(manager.pid)


@pytest.mark.parametrize("code", ["-c", "-m"])
def test_a_word_of_an_app_is_not_its_name(stack: ExitStack, tmp_path: Path, code: str) -> None:
    """What follows a script, module or code are its own words, whatever they say."""
    port = free_port()
    (tmp_path / "orders.py").write_text(LISTENS)
    what = [code, LISTENS if code == "-c" else "orders"]
    app = Started(
        stack, [sys.executable, *what, str(port), "supervisord"], PYTHONPATH=str(tmp_path)
    )
    assert pid_of(seen(finder_of(port))) == [app.pid]
