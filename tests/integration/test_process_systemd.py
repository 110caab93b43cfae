"""Which process is the app under a real systemd: rows of docs/reference/process.md."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count, product
from pathlib import Path

import pytest

from tests.integration.process_stage import FORKING, LISTENS, PYTHON
from tests.integration.systemd_stage import Looks
from tests.loops import eventually
from tests.servers.systemd import Systemd, running_systemd

pytestmark = pytest.mark.nightly

FORKS = "/bin/sh -c 'setsid sleep 3000 & exec sleep 3001'"
"""A main process with a child in a session of its own."""
IGNORES_TERM = """/bin/sh -c 'trap "" TERM; while true; do sleep 1; done'"""
WAITS = "{}=/bin/sh -c 'while [ ! -e {}/end ]; do sleep 0.1; done'"
"""What a unit runs when it stops, until the test has ended."""
names = (f"app-{n}.service" for n in count(1))
ports = count(18001)


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Systemd]:
    with running_systemd(tmp_path_factory.mktemp("systemd")) as one:
        yield one


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as one:
        yield one


@pytest.fixture
def name(systemd: Systemd, tmp_path: Path) -> Iterator[str]:
    """Give the name of a new unit, of which nothing is left afterwards."""
    unit = next(names)
    yield unit
    (tmp_path / "end").touch()
    for one in (unit, unit.replace(".service", ".socket")):
        systemd.ctl("stop", one, check=False)
    for pid in systemd.members(unit):
        systemd.kill(pid)


def _looks(stack: ExitStack, systemd: Systemd, unit: str, **options: object) -> Looks:
    return Looks(stack, systemd, 1, by="systemd_unit", unit=unit, **options)


def _started(stack: ExitStack, systemd: Systemd, name: str, command: str, *lines: str) -> Looks:
    """Start a service, and return what looks at it once its main process was seen."""
    systemd.service(name, command, *lines)
    systemd.ctl("start", name)
    looks = _looks(stack, systemd, name)
    assert looks.pids() == [systemd.main_pid(name)]
    return looks


def test_a_main_process_that_ends(stack: ExitStack, systemd: Systemd, name: str) -> None:
    """It has exited when it was killed, and nobody is left of it; the next is a successor."""
    looks = _started(stack, systemd, name, "/bin/sleep 3000")
    systemd.kill(systemd.main_pid(name))
    said = looks.once(lambda one: one["exited"], "the exit")
    assert (said["running"], said["left"]) == (None, "")
    systemd.ctl("start", name)
    said = looks.once(lambda one: one["running"], "the successor")
    assert (said["exited"], said["running"]["pids"][0][0]) == (True, systemd.main_pid(name))


@pytest.mark.parametrize("signal", ["KILL", "TERM", "SEGV"])
def test_a_crash_before_drained_is_the_crash_of_a_process_that_comes_back(
    stack: ExitStack, systemd: Systemd, name: str, signal: str
) -> None:
    """Restart=always: no exit is told while systemd waits to start the same app again."""
    lines = ("Restart=always", "RestartSec=3000")
    looks = _started(stack, systemd, name, "/bin/sleep 3000", *lines)
    systemd.run("kill", f"-{signal}", str(systemd.main_pid(name)))
    eventually(lambda: systemd.show(name, "SubState") == "auto-restart", "it waits")
    looks.once(lambda one: "is activating" in one["note"], "systemd is asked again")
    assert not looks.look()["exited"]
    systemd.ctl("restart", name)
    said = looks.once(lambda one: one["running"], "the same app in a new process")
    assert said["exited"]


@pytest.mark.parametrize(
    "before", ["/bin/sleep 3000", "/bin/sh -c 'sleep 3000'"], ids=["restart", "start"]
)
def test_an_exit_after_drained_is_told_while_the_next_start_is_under_way(
    stack: ExitStack, systemd: Systemd, name: str, before: str
) -> None:
    """The guard must have ended when the successor comes, which may register itself at once."""
    lines = ("Restart=always", "RestartSec=3000", "TimeoutStartSec=infinity")
    looks = _started(stack, systemd, name, "/bin/sleep 3000", *lines)
    looks.look("drained")
    if before.startswith("/bin/sh"):
        systemd.service(name, "/bin/sleep 3000", *lines, f"ExecStartPre={before}")
        systemd.ctl("restart", "--no-block", name)
        eventually(lambda: systemd.show(name, "SubState") == "start-pre", "it begins")
    else:
        systemd.kill(systemd.main_pid(name))
        eventually(lambda: systemd.show(name, "SubState") == "auto-restart", "it waits")
    said = looks.once(lambda one: one["exited"], "the exit")
    assert (said["running"], said["left"]) == (None, "")
    assert systemd.main_pid(name) == 0


def test_a_stop_that_takes_its_whole_time(stack: ExitStack, systemd: Systemd, name: str) -> None:
    """TimeoutStopSec: the app lives until systemd kills it."""
    looks = _started(stack, systemd, name, IGNORES_TERM, "TimeoutStopSec=3")
    main = systemd.main_pid(name)
    systemd.ctl("stop", "--no-block", name)
    eventually(lambda: systemd.show(name, "ActiveState") == "deactivating", "it is stopped")
    looks.never(
        lambda one: one["exited"], lambda: systemd.run("kill", "-0", str(main)).returncode != 0
    )
    said = looks.once(lambda one: one["exited"], "the exit")
    assert (said["running"], said["left"]) == (None, "")


def test_a_stop_in_which_the_main_process_ends_first(
    stack: ExitStack, systemd: Systemd, name: str
) -> None:
    """While a child has its time to end, the unit is deactivating: no exit, and then one."""
    child = """trap "" TERM; while [ ! -e {0} ]; do sleep 0.05; done"""
    sign = Path(systemd.before[-1].removeprefix("PATH=").partition(":")[0]) / f"{name}.sign"
    command = (
        f"""/bin/sh -c '({child.format(sign)}) & trap "exit 0" TERM; while true; do wait; done'"""
    )
    looks = _started(
        stack, systemd, name, command, "TimeoutStopSec=infinity", "KillMode=control-group"
    )
    eventually(lambda: len(systemd.members(name)) > 1, "its child")
    systemd.ctl("stop", "--no-block", name)
    eventually(lambda: systemd.main_pid(name) == 0, "the main process has ended")
    looks.once(lambda one: "is deactivating" in one["note"], "systemd is asked again")
    assert not looks.look()["exited"]
    sign.touch()
    said = looks.once(lambda one: one["exited"], "the exit")
    assert said["left"] == ""


@pytest.mark.parametrize(
    "how", list(product(["ExecStop", "ExecStopPost"], ["no", "always", "on-failure"])), ids="-".join
)
def test_a_crash_after_which_systemd_runs_something_that_waits(
    stack: ExitStack, systemd: Systemd, name: str, tmp_path: Path, how: tuple[str, str]
) -> None:
    """What ``ExecStop`` runs is not the app: a drain that it waits for does not wait for it."""
    hook, restart = how
    hooks = (WAITS.format(hook, tmp_path), "TimeoutStopSec=infinity")
    looks = _started(stack, systemd, name, "/bin/sleep 3000", f"Restart={restart}", *hooks)
    systemd.run("kill", "-TERM", str(systemd.main_pid(name)))
    eventually(lambda: systemd.show(name, "ControlPID") != "0", "it runs")
    assert systemd.show(name, "ActiveState") == "deactivating"
    if restart != "no":
        looks.once(lambda one: "is deactivating" in one["note"], "systemd is asked again")
        assert not looks.look()["exited"], "the same app comes back, and is drained as well"
        looks.look("drained")
    said = looks.once(lambda one: one["exited"], "the exit")
    assert (said["running"], said["left"]) == (None, "")


@pytest.mark.parametrize("word", ["drained", "restarted"])
def test_a_child_that_works_while_systemd_runs_something(
    stack: ExitStack, systemd: Systemd, name: str, tmp_path: Path, word: str
) -> None:
    """The stop is under way, and a child is left: no exit before that has ended."""
    hooks = (WAITS.format("ExecStopPost", tmp_path), "TimeoutStopSec=infinity", "KillMode=process")
    looks = _started(stack, systemd, name, FORKS, *hooks)
    main = systemd.main_pid(name)
    eventually(lambda: len(systemd.members(name)) == 2, "its child")
    (child,) = set(systemd.members(name)) - {main}
    systemd.kill(main)
    eventually(lambda: systemd.show(name, "ControlPID") != "0", "the hook runs")
    looks.look(word)
    looks.once(lambda one: "is deactivating" in one["note"], "systemd is asked again")
    assert not looks.look()["exited"]
    systemd.kill(child)
    looks.once(lambda one: one["exited"], "the exit")


@pytest.mark.parametrize("way", ["stop", "kill", "restarting", "agent-restarted"])
@pytest.mark.parametrize("kill_mode", ["process", "none"])
def test_what_a_stop_leaves(
    stack: ExitStack, systemd: Systemd, name: str, kill_mode: str, way: str
) -> None:
    """KillMode: a child in a session of its own is named as long as it lives."""
    restarts = ("Restart=always", "RestartSec=3000") if way == "restarting" else ()
    looks = _started(stack, systemd, name, FORKS, f"KillMode={kill_mode}", *restarts)
    main = systemd.main_pid(name)
    eventually(lambda: len(systemd.members(name)) == 2, "its child")
    (child,) = set(systemd.members(name)) - {main}
    if way == "restarting":
        looks.look("drained")
    if way in {"stop", "agent-restarted"} and kill_mode == "process":
        systemd.ctl("stop", name)
    else:
        systemd.kill(main)
    if way == "agent-restarted":
        looks.look("restarted")
    said = looks.once(lambda one: one["exited"], "the exit")
    assert f"pid {child}" in said["left"]
    systemd.kill(child)
    looks.once(lambda one: not one["left"], "nobody is left")


def test_what_is_left_beside_a_successor(stack: ExitStack, systemd: Systemd, name: str) -> None:
    """An agent that was restarted meanwhile tells the old child from those of the new process."""
    looks = _started(stack, systemd, name, FORKS, "KillMode=process")
    (child,) = set(systemd.members(name)) - {systemd.main_pid(name)}
    systemd.ctl("restart", name)
    looks.look("restarted")
    said = looks.once(lambda one: one["running"], "the successor")
    assert said["exited"]
    assert said["left"] == f"pid {child} (sleep)"
    eventually(lambda: len(systemd.members(name)) == 3, "the child of the successor")
    assert looks.look()["left"] == f"pid {child} (sleep)"


def test_what_is_left_of_a_unit_that_nobody_has_seen_running(
    stack: ExitStack, systemd: Systemd, name: str
) -> None:
    """An agent that starts after the stop does not say that nobody is there."""
    systemd.service(name, FORKS, "KillMode=process")
    systemd.ctl("start", name)
    eventually(lambda: len(systemd.members(name)) == 2, "its child")
    systemd.ctl("stop", name)
    (child,) = systemd.members(name)
    looks = _looks(stack, systemd, name)
    said = looks.look()
    assert not said["nobody"]
    assert f"pid {child}" in said["note"]
    systemd.kill(child)
    looks.once(lambda one: one["nobody"], "nobody is there")


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_a_unit_that_remains_after_exit(
    stack: ExitStack, systemd: Systemd, name: str, signal: str
) -> None:
    """It is active for ever, without a process: the app has exited."""
    lines = ("RemainAfterExit=yes", "SuccessExitStatus=SIGKILL")
    looks = _started(stack, systemd, name, "/bin/sleep 3000", *lines)
    systemd.run("kill", f"-{signal}", str(systemd.main_pid(name)))
    eventually(lambda: systemd.show(name, "SubState") == "exited", "systemd knows")
    assert systemd.show(name, "ActiveState") == "active"
    said = looks.once(lambda one: one["exited"], "the exit")
    assert (said["running"], said["left"]) == (None, "")


def test_a_unit_that_remains_while_a_child_works(
    stack: ExitStack, systemd: Systemd, name: str
) -> None:
    """Without its main process, the unit is active as long as somebody of it lives."""
    lines = ("RemainAfterExit=yes", "SuccessExitStatus=SIGKILL", "Type=oneshot")
    systemd.service(name, "/bin/sh -c 'setsid sleep 3000 & true'", *lines)
    systemd.ctl("start", name)
    looks = _looks(stack, systemd, name)
    (child,) = systemd.members(name)
    said = looks.look()
    assert not said["nobody"]
    assert f"pid {child}" in said["note"]


def test_a_forking_service_with_a_pid_file(stack: ExitStack, systemd: Systemd, name: str) -> None:
    """The main process is the one of the file, also when it hands over to another."""
    file = f"/run/{name}.pid"
    daemon = f"/bin/sh -c 'setsid sleep 3000 & echo $! > {file}'"
    looks = _started(stack, systemd, name, daemon, "Type=forking", f"PIDFile={file}")
    looks.look("drained")
    old = systemd.main_pid(name)
    leader = f"echo $$ > $0/cgroup.procs; sleep 3000 >/dev/null 2>&1 & echo $! > {file}"
    cgroup = f"/sys/fs/cgroup{systemd.show(name, 'ControlGroup')}"
    done = systemd.run("sh", "-c", leader + "; kill -KILL $1", cgroup, str(old))
    assert not done.returncode, done.stderr
    said = looks.once(lambda one: one["exited"] and one["running"], "the next of the file")
    assert said["running"]["pids"][0][0] == systemd.main_pid(name) != old


NOTIFIES = """
import os, socket, sys, time
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
    systemd.connect(os.environ["NOTIFY_SOCKET"])
    child = os.fork() if len(sys.argv) > 1 else 0
    if child:
        systemd.send(f"MAINPID={child}\\nREADY=1".encode())
        time.sleep(1)
        os._exit(0)
    if len(sys.argv) == 1:
        systemd.send(b"READY=1")
time.sleep(3000)
"""


@pytest.mark.parametrize("hands_over", ["", "yes"])
def test_a_service_that_notifies(
    stack: ExitStack, systemd: Systemd, name: str, tmp_path: Path, hands_over: str
) -> None:
    """Type=notify: the main process is the one that it names itself."""
    code = tmp_path / "app.py"
    code.write_text(NOTIFIES)
    command = f"{PYTHON} {code} {hands_over}"
    systemd.service(name, command, "Type=notify", "NotifyAccess=all")
    systemd.ctl("start", name)
    looks = _looks(stack, systemd, name)
    assert looks.pids() == [systemd.main_pid(name)]
    systemd.ctl("stop", name)
    assert looks.once(lambda one: one["exited"], "the exit")["left"] == ""


def test_units_that_are_none(stack: ExitStack, systemd: Systemd, name: str) -> None:
    """A unit that systemd does not know, or will not start, is no proof that nobody is there."""
    said = _looks(stack, systemd, "ordres.service").look()
    assert (said["exited"], said["nobody"], said["running"]) == (False, False, None)
    assert "systemd knows no unit ordres.service" in said["note"]
    systemd.unit("bad.service", "[Service]\nType=simple\n")
    assert "it is bad-setting" in _looks(stack, systemd, "bad.service").look()["note"]
    looks = _started(stack, systemd, name, "/bin/sleep 3000")
    systemd.mask(name)
    assert not looks.look()["exited"]
    systemd.kill(systemd.main_pid(name))
    looks.once(lambda one: one["exited"], "the exit")
    systemd.ctl("reset-failed", name)
    assert "it is masked" in _looks(stack, systemd, name).look()["note"]


@pytest.mark.parametrize(
    ("file", "unit", "more"),
    [
        ("app@.service", "app@1.service", ()),
        ("app@.service", r"app@a-b\x2dc.service", ()),
        ("cpu.service", "cpu.service", ("Slice=apps-web.slice", "Delegate=yes")),
        ("com.example.orders.service", "com.example.orders", ("DynamicUser=yes",)),
        (
            "private.service",
            "private",
            ("PrivateTmp=yes", "PrivateMounts=yes", "ProtectProc=noaccess"),
        ),
    ],
    ids=["template", "escaped", "slice", "dynamic-user", "private"],
)
def test_units_of_other_kinds(
    stack: ExitStack, systemd: Systemd, file: str, unit: str, more: tuple[str, ...]
) -> None:
    """Templates, escaped names, slices, users made for the unit: main process and who is left."""
    systemd.service(file, FORKS, "KillMode=process", *more)
    systemd.ctl("start", unit)
    looks = _looks(stack, systemd, unit)
    assert looks.pids() == [systemd.main_pid(unit)]
    looks.look("restarted")
    systemd.kill(systemd.main_pid(unit))
    said = looks.once(lambda one: one["exited"], "the exit")
    assert "(sleep)" in said["left"]
    for pid in systemd.members(unit):
        systemd.kill(pid)
    looks.once(lambda one: not one["left"], "nobody is left")


def test_a_transient_unit(stack: ExitStack, systemd: Systemd, name: str) -> None:
    """systemd-run: when it has ended, systemd knows it no longer, and it has exited."""
    run = systemd.run(
        "systemd-run", "--unit", name, "--property=KillMode=process", "sh", "-c", FORKS[12:-1]
    )
    assert not run.returncode, run.stderr
    looks = _looks(stack, systemd, name)
    assert looks.pids() == [systemd.main_pid(name)]
    eventually(lambda: len(systemd.members(name)) == 2, "its child")
    systemd.ctl("stop", name)
    said = looks.once(lambda one: one["exited"], "the exit")
    (child,) = systemd.members(name)
    assert f"pid {child}" in said["left"]
    systemd.kill(child)
    looks.once(lambda one: not one["left"], "nobody is left")
    assert looks.look()["exited"]


def test_systemd_executes_itself_anew(stack: ExitStack, systemd: Systemd, name: str) -> None:
    """daemon-reexec, as an upgrade of systemd does: the app is the same one."""
    looks = _started(stack, systemd, name, "/bin/sleep 3000")
    main = systemd.main_pid(name)
    systemd.ctl("daemon-reexec")
    assert looks.look("restarted")["running"]["pids"][0][0] == main
    systemd.ctl("stop", name)
    assert looks.once(lambda one: one["exited"], "the exit")["left"] == ""


def _app(tmp_path: Path, code: str) -> str:
    file = tmp_path / "app.py"
    file.write_text(code)
    return f"{PYTHON} {file}"


@pytest.mark.parametrize("user", ["root", "dynamic-user"])
def test_a_unit_by_its_port(
    stack: ExitStack, systemd: Systemd, name: str, tmp_path: Path, user: str
) -> None:
    """As on any host, also for a user made for the unit; systemd itself is never the app."""
    port, command = next(ports), _app(tmp_path, LISTENS)
    lines = ["Restart=always"]
    if user == "dynamic-user":  # who may not enter the folders of root, nor see /tmp
        python = Path(PYTHON).relative_to(sys.base_prefix)
        systemd.run("install", "-D", "--mode=644", str(tmp_path / "app.py"), f"/run/{name}.py")
        command = f"/run/python/{python} /run/{name}.py"
        lines += ["DynamicUser=yes", f"BindReadOnlyPaths={sys.base_prefix}:/run/python"]
    systemd.service(name, f"{command} {port}", *lines)
    systemd.ctl("start", name)
    looks = Looks(stack, systemd, port, by="port")
    assert looks.pids() == [systemd.main_pid(name)]
    looks.look("drained")
    systemd.ctl("restart", name)
    said = looks.once(lambda one: one["exited"] and one["running"], "the successor")
    assert said["running"]["pids"][0][0] == systemd.main_pid(name)
    assert said["left"] == ""


TITLED = """
import ctypes
with open("/proc/self/stat") as stat:
    start, end = (int(field) for field in stat.read().rpartition(")")[2].split()[47:49])
ctypes.memset(start, 0, end - start)
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
"""It wipes its environment as a title of a process does that is longer than the arguments."""


@pytest.mark.parametrize("by", ["port", "systemd_unit"])
def test_socket_activation(
    stack: ExitStack, systemd: Systemd, name: str, tmp_path: Path, by: str
) -> None:
    """A .socket unit and gunicorn, whose title overwrites LISTEN_PID: each start is told apart."""
    port = next(ports)
    (tmp_path / "titled.py").write_text(TITLED)
    listens = f"[Socket]\nListenStream=127.0.0.1:{port}\n"
    systemd.unit(name.replace(".service", ".socket"), listens)
    gunicorn = f"{sys.executable} -m gunicorn --workers 2 --preload titled:app"
    systemd.service(name, gunicorn, f"WorkingDirectory={tmp_path}", "KillMode=mixed")
    systemd.ctl("start", name.replace(".service", ".socket"))
    options = {"unit": name} if by == "systemd_unit" else {}
    looks = Looks(stack, systemd, port, by=by, **options)
    said = looks.look()
    assert (said["running"], said["nobody"]) == (None, False)
    assert _answers(systemd, port)
    main = systemd.main_pid(name)
    assert main in looks.pids()
    assert 1 not in looks.pids()
    looks.look("drained")
    systemd.ctl("stop", name)
    said = looks.once(lambda one: one["exited"], "the exit")
    assert (said["running"], said["left"]) == (None, "")
    assert _answers(systemd, port)
    said = looks.once(lambda one: one["running"], "the successor")
    assert said["exited"]
    assert systemd.main_pid(name) in [pid for pid, _ in said["running"]["pids"]]
    assert main not in [pid for pid, _ in said["running"]["pids"]]


def _answers(systemd: Systemd, port: int) -> bool:
    with systemd.connect(port) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return client.recv(12) == b"HTTP/1.0 200"


def test_a_process_for_each_connection(
    stack: ExitStack, systemd: Systemd, name: str, tmp_path: Path
) -> None:
    """Accept=yes, as inetd: who listens is systemd, and that is not the app, and not nobody."""
    port, socket = next(ports), name.replace(".service", ".socket")
    systemd.unit(socket, f"[Socket]\nListenStream=127.0.0.1:{port}\nAccept=yes\n")
    systemd.service(
        name.replace(".service", "@.service"), "/bin/sleep 3000", "StandardInput=socket"
    )
    systemd.ctl("start", socket)
    with systemd.connect(port):
        said = Looks(stack, systemd, port, by="port").look()
    assert (said["exited"], said["running"], said["nobody"]) == (False, None, False)
    assert "pid 1 (systemd)" in said["note"]


def test_the_manager_of_a_user(
    stack: ExitStack, systemd: Systemd, name: str, tmp_path: Path
) -> None:
    """``systemctl --user``: the units of a user's own manager, and who is left of them."""
    units, runtime = tmp_path / "units", "/run/user/0"
    units.mkdir()
    for target in ("basic", "shutdown", "default"):
        (units / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    (units / "orders.service").write_text(f"[Service]\nExecStart={FORKS}\nKillMode=process\n")
    systemd.run("mkdir", "-p", runtime)
    environment = [f"SYSTEMD_UNIT_PATH={units}", f"XDG_RUNTIME_DIR={runtime}"]
    lines = [f"Environment={one}" for one in (*environment, f"LD_LIBRARY_PATH={systemd.libraries}")]
    systemd.service(
        name,
        "/lib/systemd/systemd --user",
        "Type=notify",
        "Delegate=yes",
        "KillSignal=KILL",
        *lines,
    )
    systemd.ctl("start", name)
    user = ("env", environment[1], "systemctl", "--user")
    started = systemd.run(*user, "start", "orders.service")
    assert not started.returncode, started.stderr
    main = int(systemd.run(*user, "show", "--value", "-p", "MainPID", "orders").stdout)
    options = {"by": "systemd_unit", "unit": "orders", "systemctl": ["systemctl", "--user"]}
    looks = Looks(stack, systemd, 1, *user[:2], **options)
    assert looks.pids() == [main]
    systemd.run(*user, "stop", "orders.service")
    said = looks.once(lambda one: one["exited"], "the exit")
    assert "(sleep)" in said["left"]


def test_a_server_that_forks_under_systemd(
    stack: ExitStack, systemd: Systemd, name: str, tmp_path: Path
) -> None:
    """By its port: the child that has closed the listener is named when the unit has stopped."""
    port, sign = next(ports), tmp_path / "sign"
    command = f"{_app(tmp_path, FORKING.format(own_session=True))} {port} {sign}"
    systemd.service(name, command, "KillMode=process")
    systemd.ctl("start", name)
    looks = Looks(stack, systemd, port, by="port")
    main = systemd.main_pid(name)
    assert looks.pids() == [main]
    client = stack.enter_context(systemd.connect(port))
    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
    eventually(lambda: len(systemd.members(name)) == 2, "a child has the request")
    looks.look()
    (child,) = set(systemd.members(name)) - {main}
    systemd.ctl("stop", name)
    said = looks.once(lambda one: one["exited"], "the exit")
    assert f"pid {child}" in said["left"]
    sign.touch()
    looks.once(lambda one: not one["left"], "nobody is left")
