"""Which process is the app under uWSGI: a row of docs/reference/process.md."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from deregister_agent.model import Presence
from deregister_agent.ports import ProcessFinder
from tests.integration.presence_stage import Host, TargetFile
from tests.integration.process_stage import (
    WSGI,
    Started,
    after_a_tick,
    by_pid_file,
    children,
    drained,
    end,
    finder_of,
    free_port,
    is_alive,
    once,
    pid_of,
    seen,
)
from tests.loops import eventually

SOCKETS = ("--http-socket", "--http")  # by the workers themselves, and through uWSGI's own router
WORKERS = 2
MERCY = "4"  # seconds after which uWSGI kills a worker that misses its signal while it starts
RUNS = "import sys, pyuwsgi; sys.argv[0] = 'uwsgi'; pyuwsgi.run()"


class Uwsgi:
    """One uWSGI: a master, two workers and, with ``--http``, a router, all in one session."""

    def __init__(
        self, stack: ExitStack, folder: Path, *options: str, ends_on_term: bool = True
    ) -> None:
        self.port, self.pid_file = free_port(), folder / "uwsgi.pid"
        self.touched = folder / "touched"
        self._sign, self._asked = folder / "sign", folder / "asked"
        self.touched.touch()
        (folder / "app.py").write_text(WSGI)
        self._options = [
            *(each for each in options if each != options[0]),
            *(options[0], f"127.0.0.1:{self.port}", "--master"),
            *("--processes", str(WORKERS), "--wsgi-file", str(folder / "app.py")),
            *("--callable", "app", "--pidfile", str(self.pid_file)),
            *("--touch-reload", str(self.touched), "--binary-path", sys.executable),
            *(["--die-on-term"] if ends_on_term else []),
            *("--reload-mercy", MERCY, "--worker-reload-mercy", MERCY),
        ]
        self.start(stack)

    def start(self, stack: ExitStack) -> None:
        """Start uWSGI, and wait until it answers."""
        signs = {"SIGN": str(self._sign), "ASKED": str(self._asked)}
        self._started = Started(stack, [sys.executable, "-c", RUNS, *self._options], **signs)
        self.master = self._started.pid
        eventually(self.answers, "uWSGI answers")
        eventually(lambda: self._everybody_is_there(self.below()), "its workers")

    def finder(self, by: str) -> ProcessFinder:
        """Return the finder that sees this app."""
        return finder_of(self.port) if by == "port" else by_pid_file(self.pid_file, self.port)

    def below(self) -> set[int]:
        """Return the pids of its workers, and of its router."""
        return set(children(self.master))

    def workers(self) -> set[int]:
        """Return the children that do not hold the port where a router does."""
        if "--http" not in self._options:
            return self.below()
        return self.below() - set(pid_of(seen(finder_of(self.port))))

    def answers(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/", timeout=20) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    @contextmanager
    def request_in_hand(self) -> Iterator[Callable[[], bytes]]:
        """Have a worker work in the block; what is given lets it finish, and returns the answer."""
        with socket.create_connection(("127.0.0.1", self.port), 60) as client:
            client.sendall(b"GET /slow HTTP/1.1\r\nHost: app\r\n\r\n")
            eventually(self._asked.exists, "a worker has the request")

            def finish() -> bytes:
                self._sign.touch()
                return client.recv(12)

            yield finish

    def renewed(self, was: set[int]) -> bool:
        """Tell whether all of the processes below the master of then have been replaced."""
        now = self.below()
        return not was & now and self._everybody_is_there(now) and self.answers()

    def wait(self) -> None:
        self._started.wait()

    def kill_master(self) -> None:
        self._started.kill()

    def _everybody_is_there(self, now: set[int]) -> bool:
        return len(now) == WORKERS + ("--http" in self._options)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as one:
        yield one


by_both = pytest.mark.parametrize("by", ["port", "pid_file"])
on_each_socket = pytest.mark.parametrize("sockets", SOCKETS)


@on_each_socket
def test_who_is_the_app(stack: ExitStack, tmp_path: Path, sockets: str) -> None:
    """By port, whoever holds the socket: master and workers, or master and router."""
    app = Uwsgi(stack, tmp_path, sockets)
    holders = set(pid_of(seen(app.finder("port"))))
    assert holders <= {app.master, *app.below()}
    assert app.master in holders
    assert len(holders) == (3 if sockets == "--http-socket" else 2)
    assert pid_of(seen(app.finder("pid_file"))) == [app.master]


def _hang_up(app: Uwsgi) -> None:
    os.kill(app.master, signal.SIGHUP)


def _touch(app: Uwsgi) -> None:
    newer = app.touched.stat().st_mtime + 5
    os.utime(app.touched, (newer, newer))


@by_both
@pytest.mark.parametrize("reload", [_hang_up, _touch])
@pytest.mark.parametrize(
    "options", [*((one,) for one in SOCKETS), ("--http-socket", "--lazy-apps")]
)
def test_a_reload_changes_nothing(
    stack: ExitStack,
    tmp_path: Path,
    by: str,
    reload: Callable[[Uwsgi], None],
    options: tuple[str, ...],
) -> None:
    """The master executes itself anew, and all below it are others: the same app, also drained."""
    app = Uwsgi(stack, tmp_path, *options)
    finder, before = app.finder(by), app.below()
    was = seen(finder)
    closed = drained(was)
    after_a_tick()
    reload(app)
    eventually(lambda: app.renewed(before), "other workers answer")
    for now in (was, closed):
        presence = finder.look(now)
        assert not presence.exited, presence
        assert presence.running is not None
        assert app.master in pid_of(presence.running)


@by_both
@on_each_socket
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_the_crash_of_a_worker_is_no_end(
    stack: ExitStack, tmp_path: Path, by: str, sockets: str, number: signal.Signals
) -> None:
    """The master starts another one, which is no successor."""
    app = Uwsgi(stack, tmp_path, sockets)
    finder = app.finder(by)
    was = seen(finder)
    closed = drained(was)
    after_a_tick()
    for worker in app.workers():
        os.kill(worker, number)
        eventually(lambda pid=worker: not is_alive(pid), "it has crashed")  # type: ignore[misc]
        for now in (was, closed):
            presence = finder.look(now)
            assert not presence.exited, presence
            assert presence.running is not None
            assert app.master in pid_of(presence.running)
    eventually(lambda: app.answers() and len(app.below()) > 1, "others work in their place")
    assert not finder.look(closed).exited


@by_both
@on_each_socket
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, "notifier"])
def test_the_end_of_all_of_it(
    stack: ExitStack, tmp_path: Path, by: str, sockets: str, how: signal.Signals | str
) -> None:
    """Exited, with nobody left; and whoever is started then is the successor."""
    app = Uwsgi(stack, tmp_path, sockets)
    finder = app.finder(by)
    was = drained(seen(finder))
    if isinstance(how, signal.Signals):
        os.kill(app.master, how)
    else:
        end(was)
    app.wait()
    once(finder, was, lambda one: one.exited and not one.left and not one.running, "all have ended")
    after_a_tick()
    app.start(stack)
    presence = once(finder, was, lambda one: one.running, "the successor")
    assert presence.exited
    assert presence.running is not None
    assert app.master in pid_of(presence.running)


@by_both
@on_each_socket
def test_a_master_that_is_killed_alone(
    stack: ExitStack, tmp_path: Path, by: str, sockets: str
) -> None:
    """Idle workers end with it, and one with a request in hand does not: it is told until then."""
    app = Uwsgi(stack, tmp_path, sockets)
    finder, workers = app.finder(by), app.workers()
    was = seen(finder)
    finish = stack.enter_context(app.request_in_hand())
    app.kill_master()
    eventually(lambda: len(alive(workers)) == 1, "the idle worker ends")
    (busy,) = alive(workers)
    presence = finder.look(was)
    if by == "port":
        assert not presence.exited or f"pid {busy} (" in presence.left, presence
    else:
        assert presence.exited
        assert f"pid {busy} (" in presence.left, presence
    assert finish() == (b"" if sockets == "--http" else b"HTTP/1.1 200"), "the router has ended"
    eventually(lambda: not alive(workers), "the last worker ends")
    once(finder, was, _is_gone, "all have ended")


def _is_gone(presence: Presence) -> bool:
    return presence.exited and not presence.left


def alive(pids: set[int]) -> set[int]:
    """Return those of the processes that live."""
    return {pid for pid in pids if is_alive(pid)}


@by_both
def test_without_die_on_term_sigterm_is_a_reload(stack: ExitStack, tmp_path: Path, by: str) -> None:
    """What ends any other app has uWSGI start other workers: no exit."""
    app = Uwsgi(stack, tmp_path, "--http-socket", ends_on_term=False)
    finder, before = app.finder(by), app.below()
    was = drained(seen(finder))
    after_a_tick()
    os.kill(app.master, signal.SIGTERM)
    eventually(lambda: app.renewed(before), "other workers answer")
    presence = finder.look(was)
    assert not presence.exited
    assert presence.running is not None


def test_the_real_program_is_tested() -> None:
    """What the tests start is uWSGI."""
    asked = [sys.executable, "-c", RUNS, "--version"]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.startswith("2."), said


DRAINS = "[[instance.probe]]\nkind = 'tcp'\n[[instance.notifier]]\nkind = 'process'\ngrace = 60\n"


@on_each_socket
@by_both
def test_a_whole_drain(stack: ExitStack, tmp_path: Path, sockets: str, by: str) -> None:
    """From stop-traffic to the end by the notifier, and to a successor that registers itself."""
    app, host = Uwsgi(stack, tmp_path, sockets), Host(tmp_path)
    stack.callback(host.apps.close)
    target = f"127.0.0.1:{app.port}"
    listed = TargetFile(tmp_path / "targets.json", target, "b:1")
    process = f'process = {{ by = "{by}" }}'
    if by == "pid_file":
        process = f'process = {{ by = "pid_file", file = "{app.pid_file}" }}'
    table = listed.table(f"target = '{target}'")
    host.add("app", table, probe=DRAINS, port=app.port, process=process, quiet=0.3)
    with host.agent(), app.request_in_hand() as finish:
        eventually(lambda: host.get("app").body["process"]["pids"], "the app is seen")
        old, below = app.master, app.below()
        assert host.post("app", "stop-traffic").status == 202
        eventually(lambda: host.phase("app") == "draining", "it drains")
        assert listed.targets() == ["b:1"]
        assert host.get("app", "traffic-drained", wait=1.0).status == 503
        assert is_alive(old)
        assert finish() == b"HTTP/1.1 200"
        app.wait()
        eventually(lambda: host.phase("app") == "gone", "it has been ended")
        assert not [pid for pid in (old, *below) if is_alive(pid)]
        app.start(stack)
        listed.write(target, "b:1")
        eventually(lambda: host.phase("app") == "serving", "the successor serves")
        eventually(lambda: app.master in host.get("app").body["process"]["pids"], "who it is")
        assert listed.targets() == [target, "b:1"]
