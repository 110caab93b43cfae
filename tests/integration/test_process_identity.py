"""Which process is the app, for each way of starting one; the rows of docs/reference/process.md."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from deregister_agent.errors import NotifyError, ProbeError
from deregister_agent.host import pids
from deregister_agent.host.forwarders import CLIENTS, ENGINES, PROXIES, SERVICE_MANAGERS
from deregister_agent.host.network import network
from deregister_agent.host.sockets import listeners
from deregister_agent.model import Instance, Presence, Process
from deregister_agent.probes import tcp
from tests.integration.process_stage import (
    CLOCK,
    FORKING,
    LISTENS,
    PYTHON,
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
    named,
    once,
    pid_of,
    seen,
)
from tests.loops import eventually
from tests.servers.netns import hosts


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as one:
        yield one


def counting(port: int, program: str = "") -> tcp.TcpProbe:
    options = tcp.Options(kind="tcp", program=program)
    return tcp.build(options, Instance("web", "web", "127.0.0.1", port))


class TestForwarders:
    @pytest.mark.parametrize(
        "name",
        [
            *("docker-proxy", "dockerd", "rootlesskit", "rootlessport", "slirp4netns", "pasta"),
            *("conmon", "podman", "kubelet", "kube-proxy", "k3s-server", "gvproxy", "lxd"),
            *("qemu-system-x86_64", "containerd-shim-runc-v2"),
        ],
    )
    def test_an_engine_is_never_the_app(self, stack: ExitStack, tmp_path: Path, name: str) -> None:
        """Not for the finder, nor for the probe, and the notifier does not end it."""
        port = free_port()
        app = Started(stack, [named(tmp_path, name), "-c", LISTENS, str(port)])
        finder = finder_of(port)
        eventually(lambda: name[:15] in finder.look(None).note, "it listens, and is known")
        presence = finder.look(None)
        assert (presence.exited, presence.running) == (False, None)
        with pytest.raises(ProbeError, match="cannot be told from here"):
            counting(port).read(0.0)
        found = pids.find(app.pid)
        assert found is not None
        was = Process(CLOCK.boot_id(), (found,), namespace=pids.namespace())
        assert finder.look(was).running is None
        with pytest.raises(NotifyError, match=name[:15]):
            end(was)
        assert is_alive(app.pid)

    @pytest.mark.parametrize(
        "name", ["envoy", "haproxy", "nginx", "socat", "systemd-socket-proxyd"]
    )
    def test_a_proxy_is_the_app_only_by_name(
        self, stack: ExitStack, tmp_path: Path, name: str
    ) -> None:
        """It listens for somebody else, unless the configuration names it."""
        port = free_port()
        app = Started(stack, [named(tmp_path, name), "-c", LISTENS, str(port)])
        assert pid_of(seen(finder_of(port, program=name))) == [app.pid]
        assert counting(port, program=name).read(0.0).idle
        presence = finder_of(port).look(None)
        assert presence.running is None
        assert f'program = "{name}"' in presence.note
        with pytest.raises(ProbeError, match="cannot be told from here"):
            counting(port).read(0.0)

    def test_a_title_or_a_new_name_hides_no_engine(self, stack: ExitStack, tmp_path: Path) -> None:
        """The kernel's name is changed, the command line is not; and the other way round."""
        by_line = f"{LISTENS.replace('import socket', 'import ctypes, socket', 1)}"
        rename = "import ctypes; ctypes.CDLL(None).prctl(15, b'orders', 0, 0, 0)\n"
        ports = free_port(), free_port()
        Started(stack, [named(tmp_path, "docker-proxy"), "-c", rename + by_line, str(ports[0])])
        rename = rename.replace("orders", "slirp4netns")
        Started(stack, [PYTHON, "-c", rename + by_line, str(ports[1])])
        for port in ports:
            finder = finder_of(port)
            eventually(lambda f=finder: "cannot be told" in f.look(None).note, "it is suspected")  # type: ignore[misc]
            assert finder.look(None).running is None

    def test_who_lives_in_another_network_must_be_seen_to_accept(self, stack: ExitStack) -> None:
        """A listener here, its process elsewhere: the app (PrivateNetwork) if it reads here."""
        port = free_port()
        leaves = "import ctypes\n" + LISTENS.replace(
            "kept = []", "assert ctypes.CDLL(None).unshare(0x40000000) == 0\nkept = []"
        )
        app = Started(stack, [PYTHON, "-c", leaves, str(port)])
        finder, ours = finder_of(port), Path("/proc/self/ns/net").readlink()
        eventually(lambda: listeners(port), "it listens")
        eventually(lambda: _is_in_another(app.pid, ours) or not is_alive(app.pid), "it has left")
        if not _is_in_another(app.pid, ours):
            pytest.skip("no network namespace can be made here")
        assert "another network namespace" in finder.look(None).note, finder.look(None)
        with pytest.raises(ProbeError, match="another network namespace"):
            counting(port).read(0.0)
        stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
        eventually(lambda: finder.look(None).running is not None, "it has accepted a connection")
        assert pid_of(seen(finder)) == [app.pid]

    def test_who_holds_the_network_of_another_is_no_app(self, stack: ExitStack) -> None:
        """An engine by any name keeps the namespaces of its containers open."""
        keeper = Started(stack, ["unshare", "--net", "sleep", "600"])
        ours = Path("/proc/self/ns/net").readlink()
        eventually(lambda: _is_in_another(keeper.pid, ours), "the other network")
        port = free_port()
        holds = f"held = open('/proc/{keeper.pid}/ns/net', 'rb')\n{LISTENS}"
        Started(stack, [PYTHON, "-c", holds, str(port)])
        finder = finder_of(port)
        eventually(
            lambda: "namespace of somebody else" in finder.look(None).note, "it is suspected"
        )

    def test_a_network_by_the_name_that_it_was_given(self, stack: ExitStack) -> None:
        """``ip netns``, Docker and CNI mount it as a file, and a descriptor shows that path."""
        keeper = Started(stack, ["unshare", "--net", "sleep", "600"])
        ours = Path("/proc/self/ns/net").readlink()
        eventually(lambda: _is_in_another(keeper.pid, ours), "the other network")
        for path in ("/run/netns/blue", "/run/docker/netns/7f3a", "/run/user/1/netns/cni-1"):
            port = free_port()
            mounts = f"mount -t tmpfs none /run; mkdir -p $(dirname {path}); touch {path}"
            mounts += f"; mount --bind /proc/{keeper.pid}/ns/net {path}"
            holds = f"held = open('{path}', 'rb')\n{LISTENS}"
            _in_own_mounts(stack, mounts, [PYTHON, "-c", holds, str(port)])
            finder = finder_of(port)
            eventually(
                lambda f=finder: "namespace of somebody else" in f.look(None).note,  # type: ignore[misc]
                "it is suspected",
            )

    def test_who_holds_its_own_network_is_the_app(self, stack: ExitStack) -> None:
        """A descriptor of the very network that the agent is in says nothing."""
        port = free_port()
        holds = f"held = open('/proc/self/ns/net', 'rb')\n{LISTENS}"
        app = Started(stack, [PYTHON, "-c", holds, str(port)])
        assert pid_of(seen(finder_of(port))) == [app.pid]

    @pytest.mark.parametrize("device", ["/dev/net/tun", "/dev/kvm"])
    @pytest.mark.parametrize("made", [False, True], ids=["device", "own-mounts"])
    def test_who_holds_a_device_of_a_virtual_network_is_no_app(
        self, stack: ExitStack, device: str, *, made: bool
    ) -> None:
        """What forwards into a virtual network or machine, by any name: slirp, a VPN, a VMM."""
        port = free_port()
        command = [PYTHON, "-c", HOLDS.format(device=device) + LISTENS, str(port)]
        if made:
            name = f"mount -t tmpfs none /dev; mkdir -p $(dirname {device}); mkfifo {device}"
            _in_own_mounts(stack, name, command)
        elif os.access(device, os.R_OK | os.W_OK):
            Started(stack, command)
        else:
            pytest.skip(f"{device} is not there, or may not be opened")
        finder = finder_of(port)
        eventually(
            lambda: "device of a virtual network" in finder.look(None).note, "it is suspected"
        )
        assert finder.look(None).running is None
        with pytest.raises(ProbeError, match="cannot be told from here"):
            counting(port).read(0.0)

    def test_no_name_is_in_two_lists(self) -> None:
        """Each list has an answer of its own."""
        assert not ENGINES & PROXIES
        assert not SERVICE_MANAGERS & (ENGINES | PROXIES | CLIENTS)


HOLDS = "import os\nheld = os.open('{device}', os.O_RDWR)\n"


def _in_own_mounts(stack: ExitStack, mounts: str, command: list[str]) -> None:
    """Start a command after a shell has mounted what nobody else sees; skip where it may not."""
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"no mount namespace can be made here: {tried.stderr.decode()}")
    script = f'set -e; {mounts}; exec "$@"'
    Started(stack, ["unshare", "--mount", "sh", "-c", script, "sh", *command])


def _is_in_another(pid: int, ours: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/ns/net").readlink() != ours
    except OSError:
        return False


def test_the_orphaned_network_of_a_container(stack: ExitStack) -> None:
    """Its container was started anew, and nobody will ever listen here again: not idle."""

    def at_hub() -> None:
        with socket.create_server(("127.0.0.1", 0)) as app:
            port = app.getsockname()[1]
            probe = counting(port)
            assert probe.read(0.0).idle
        assert probe.read(0.0).idle, "an app that has closed its port is idle"
        here = network()
        assert here.links
        for link in ("hub", "p0"):
            subprocess.run(["ip", "link", "del", link], check=True, timeout=30)
        with pytest.raises(ProbeError, match="lost its links"):
            probe.read(0.0)

    with hosts(1) as made:
        made.at_hub(at_hub)


def test_sockets_of_another_network_tell_nothing(stack: ExitStack) -> None:
    """The agent was started anew in another network: who listens there is no successor."""
    port = free_port()
    Started(stack, [PYTHON, "-c", LISTENS, str(port)])
    finder = finder_of(port)
    now = seen(finder)
    elsewhere = replace(now, pids=(), sockets=(1,), network="net:[1]")
    presence = finder.look(elsewhere)
    assert (presence.exited, presence.running) == (False, None)
    assert "another network namespace" in presence.note
    dead = finder.look(replace(elsewhere, pids=((2**22, 5),)))
    assert (dead.exited, dead.running) == (False, None), "who is in its place is not seen"
    alive = finder.look(replace(now, network="net:[1]"))
    assert (alive.exited, alive.running) == (False, now)


PID_1 = """
import json, os, signal, socket, sys, time
sys.path[:0] = json.loads(sys.argv[1])
server = socket.create_server(("127.0.0.1", 0))
port = server.getsockname()[1]
worker = os.fork()
if not worker:
    signal.pause()
agent = os.fork()
if not agent:
    server.close()
    from dataclasses import replace
    from deregister_agent.host.clock import SystemClock
    from deregister_agent.host.find_by_port import PortFinder
    finder = PortFinder(port, "127.0.0.1", SystemClock())
    was = finder.look(None).running
    first = sorted(pid for pid, _ in was.pids)
    os.kill(worker, signal.SIGKILL)
    end = time.monotonic() + 20
    after = finder.look(was)  # nobody is named by a look in the midst of the worker's end
    while (after.running is None or len(after.running.pids) > 1) and time.monotonic() < end:
        time.sleep(0.01)
        after = finder.look(was)
    left = [pid for pid, _ in after.running.pids]
    print(json.dumps([first, worker, after.exited, left]), flush=True)
    os._exit(0)
os.waitpid(agent, 0)
"""


def test_pid_1_of_a_container_is_the_app() -> None:
    """In a plain container the app is pid 1; the crash of its worker is not its end."""
    path = json.dumps([entry for entry in sys.path if entry])
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", PID_1, path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unshare" in done.stderr and not done.stdout:
        pytest.skip(f"no pid namespace can be made here: {done.stderr}")
    assert done.stdout, done.stderr
    first, worker, exited, left = json.loads(done.stdout)
    assert first == [1, worker]
    assert (exited, left) == (False, [1])


class TestGunicorn:
    @pytest.fixture
    def gunicorn(self, stack: ExitStack, tmp_path: Path) -> tuple[Started, int, Path]:
        """Start one with two workers, and wait until they serve."""
        port, pid_file = free_port(), tmp_path / "app.pid"
        (tmp_path / "slow.py").write_text(WSGI)
        command = [sys.executable, "-m", "gunicorn", "-w", "2", "-b", f"127.0.0.1:{port}"]
        app = Started(stack, [*command, "-p", str(pid_file), "--chdir", str(tmp_path), "slow:app"])
        eventually(lambda: len(pid_of(seen(finder_of(port)))) == 3, "master and workers")
        return app, port, pid_file

    def test_a_reload_changes_nothing(self, gunicorn: tuple[Started, int, Path]) -> None:
        """HUP: other workers, also after "drained", and the same app."""
        app, port, _ = gunicorn
        finder = finder_of(port)
        was = seen(finder)
        workers = set(pid_of(was)) - {app.pid}
        after_a_tick()
        os.kill(app.pid, signal.SIGHUP)
        eventually(lambda: not any(is_alive(pid) for pid in workers), "the old workers end")
        for now in (was, drained(was)):
            presence = finder.look(now)
            assert not presence.exited
            assert presence.running is not None
            assert app.pid in pid_of(presence.running)

    @pytest.mark.parametrize("by", ["port", "pid_file"])
    def test_the_next_master_is_a_successor(
        self, gunicorn: tuple[Started, int, Path], stack: ExitStack, by: str
    ) -> None:
        """USR2 after "drained": the new master has the old socket, and is the next version."""
        app, port, pid_file = gunicorn
        finder = finder_of(port) if by == "port" else by_pid_file(pid_file, port)
        running = finder.look(None).running
        assert running is not None
        was = drained(running)
        after_a_tick()
        os.kill(app.pid, signal.SIGUSR2)
        everybody: Callable[[], set[int]] = lambda: set(pid_of(seen(finder_of(port))))  # noqa: E731
        eventually(lambda: len(everybody()) == 6, "both masters serve")
        new = (
            everybody() - set(pid_of(was)) - ({app.pid} if by == "port" else everybody_of(app.pid))
        )
        for pid in new:
            stack.callback(end_if_alive, pid)
        assert not finder.look(was).exited
        os.kill(app.pid, signal.SIGTERM)
        app._child.wait(30)
        presence = once(finder, was, lambda one: one.exited and one.running, "the old one exits")
        assert presence.running is not None
        assert set(pid_of(presence.running)) <= new
        assert presence.left == ""


def end_if_alive(pid: int) -> None:
    """Kill a process that a test has left."""
    if is_alive(pid):
        os.kill(pid, signal.SIGKILL)


def everybody_of(master: int) -> set[int]:
    """Return a master and its children of now."""
    return {master, *children(master)} - {pid for pid in children(master) if children(pid)}


ACTIVATES = """
import os, signal, socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
os.set_inheritable(server.fileno(), True)

def start(*_):
    if os.fork() == 0:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"} if sys.argv[2] else {}
        code = "import signal; signal.pause()"
        os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", code], environment)

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.signal(signal.SIGUSR1, start)
start()
while True:
    signal.pause()
"""


class TestSocketActivation:
    def test_a_parent_that_hands_its_socket_on_is_not_the_app(self, stack: ExitStack) -> None:
        """It is known by LISTEN_PID of its child; with no child nobody runs."""
        port = free_port()
        parent = Started(stack, [PYTHON, "-c", ACTIVATES, str(port), "1"])
        finder = finder_of(port)
        eventually(lambda: parent.pid not in pid_of(seen(finder)), "the child was executed")
        was = drained(seen(finder))
        (old,) = pid_of(was)
        after_a_tick()
        os.kill(parent.pid, signal.SIGUSR1)
        eventually(lambda: len(children(parent.pid)) == 2, "the next one is there")
        os.kill(old, signal.SIGKILL)
        presence = once(finder, was, lambda one: one.exited and one.running, "it is the successor")
        assert presence.running is not None
        assert old not in pid_of(presence.running)

    def test_one_that_hides_its_environment(self, stack: ExitStack) -> None:
        """A title overwrites LISTEN_PID: who begins after "drained" is the successor still."""
        port = free_port()
        parent = Started(stack, [PYTHON, "-c", ACTIVATES, str(port), ""])
        finder = finder_of(port)
        eventually(lambda: len(pid_of(seen(finder))) == 2, "parent and child are seen")
        was = seen(finder)
        (old,) = set(pid_of(was)) - {parent.pid}
        after_a_tick()
        closed = drained(was)
        os.kill(parent.pid, signal.SIGUSR1)
        eventually(lambda: len(children(parent.pid)) == 2, "the next one is there")
        (new,) = set(children(parent.pid)) - {old}
        os.kill(old, signal.SIGKILL)
        parent.kill()
        stack.callback(os.kill, new, signal.SIGKILL)
        presence = once(finder, closed, lambda one: one.exited, "the old ones have exited")
        assert presence.running is not None
        assert pid_of(presence.running) == [new]


class TestLeft:
    @pytest.mark.parametrize("own_session", [False, True])
    def test_children_that_outlive_the_process(
        self, stack: ExitStack, tmp_path: Path, own_session: bool
    ) -> None:
        """The child of a forking server holds no listener, and is told as somebody of the app."""
        port, sign = free_port(), tmp_path / "sign"
        code = FORKING.format(own_session=own_session)
        app = Started(stack, [PYTHON, "-c", code, str(port), str(sign)])
        stack.callback(sign.touch)
        finder = finder_of(port)
        was = seen(finder)
        stack.enter_context(socket.create_connection(("127.0.0.1", port), 20)).sendall(b"x")
        eventually(lambda: children(app.pid), "the child")
        (child,) = children(app.pid)
        app.kill()
        presence = once(finder, was, lambda one: one.exited, "the process has exited")
        assert f"pid {child} (" in presence.left
        sign.touch()
        once(finder, was, lambda one: one.exited and not one.left, "all of it has exited")


class TestPidFile:
    @pytest.mark.parametrize("pid", [1, 2])
    def test_numbers_of_another_namespace(self, tmp_path: Path, pid: int) -> None:
        """A container writes 1, or another small number: here that is init, or the kernel."""
        if pid == 2 and pids.name(2) != "kthreadd":
            pytest.skip("this is no host, and shows no thread of the kernel")
        presence = _by_file(tmp_path, pid)
        assert (presence.exited, presence.running, presence.nobody) == (False, None, False)
        assert "another pid namespace" in presence.note

    @pytest.mark.parametrize("name", ["docker", "dockerd", "containerd-shim", "supervisord"])
    def test_who_only_leads_to_the_app(self, stack: ExitStack, tmp_path: Path, name: str) -> None:
        """The end of a client or a manager proves nothing of the app."""
        app = Started(stack, [named(tmp_path, name), "-c", "import signal; signal.pause()"])
        eventually(lambda: pids.name(app.pid) == name[:15], "it was executed")
        presence = _by_file(tmp_path, app.pid)
        assert presence.running is None
        assert name in presence.note


def _by_file(folder: Path, pid: int) -> Presence:
    (folder / "app.pid").write_text(str(pid))
    return by_pid_file(folder / "app.pid").look(None)
