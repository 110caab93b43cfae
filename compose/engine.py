"""
A Docker engine of one's own: Debian's, in network, mount and process namespaces made for it.

Nothing it or its containers do is seen on the machine's network, no port of theirs is the
machine's, and when its first process is killed the kernel ends all that are left. Images
stay in ``.servers/engine`` for the next run. Needs root.
"""

import fcntl
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.servers.apt import ROOT, FetchFailed, fetch
from tests.servers.table import Server

START = 60.0  # seconds until the engine must answer
LINES = 12  # of its log, that an error quotes
CGROUPS = Path("/sys/fs/cgroup")
CGROUP = "deregister-compose"

_LIBRARIES = (
    "libcap2",
    "libdevmapper1.02.1",
    "libip4tc2",
    "libip6tc2",
    "libmnl0",
    "libnetfilter-conntrack3",
    "libnfnetlink0",
    "libnftnl11",
    "libseccomp2",
    "libselinux1",
    "libsystemd0",
    "libudev1",
    "libxtables12",
)
ENGINE = Server(
    "docker",
    "bookworm",
    ("containerd", "docker.io", "iptables", "runc", "tini", *_LIBRARIES),
    "usr/sbin/dockerd",
    "Docker version",
)
COMPOSE = Server(
    "docker-compose",
    "trixie",
    ("docker-buildx", "docker-compose"),
    "usr/libexec/docker/cli-plugins/docker-compose",
    "Docker Compose version",
)

_START = """
set -eu
ip link set lo up
home=$1 cgroup=$2
shift 2
exec dockerd --data-root "$home/data" --exec-root "$home/run" --pidfile "$home/run/dockerd.pid" \
  --host "unix://$home/docker.sock" --cgroup-parent "$cgroup" "$@"
"""


class CannotStart(Exception):  # noqa: N818 - it reads better where it is raised
    """No engine can be started here; the message says what is missing or what it said."""


class Docker:
    """The ``docker`` command, for one engine. *environment* is added to the process's own."""

    def __init__(self, program: str, environment: Mapping[str, str]) -> None:
        self.program, self._environment = program, dict(environment)

    def run(self, arguments: Sequence[str], limit: float = 600.0, **variables: str) -> str:
        """Return what the command printed. Raises CalledProcessError, TimeoutExpired."""
        return self._run(arguments, limit, variables, subprocess.PIPE).stdout

    def show(self, arguments: Sequence[str], limit: float = 600.0, **variables: str) -> None:
        """Run the command and let it print what it likes. Raises as ``run`` does."""
        self._run(arguments, limit, variables, None)

    def written(self, arguments: Sequence[str], **variables: str) -> str:
        """Return the command as a line for a shell."""
        given = [f"{name}={value}" for name, value in {**self._environment, **variables}.items()]
        return shlex.join(["env", *given, self.program, *arguments])

    def shell(self, script: str, folder: Path, limit: float, **variables: str) -> str:
        """Return what a shell script printed that calls this command as ``docker``."""
        path = f"{Path(self.program).parent}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-c", script],
            cwd=folder,
            env={**os.environ, **self._environment, **variables, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
            check=False,
        ).stdout

    def _run(
        self, arguments: Sequence[str], limit: float, variables: Mapping[str, str], out: int | None
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [self.program, *arguments],
            env={**os.environ, **self._environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            text=True,
            timeout=limit,
            check=True,
        )


def running_engine() -> Docker | None:
    """Return the engine that this machine has already, with Compose v2; None if there is none."""
    program = shutil.which("docker")
    if program is None:
        return None
    for question in ("version", "compose version"):
        with suppress(subprocess.TimeoutExpired):
            if not subprocess.run(
                [program, *question.split()], capture_output=True, timeout=20, check=False
            ).returncode:
                continue
        return None
    return Docker(program, {})


@contextmanager
def own_engine(*options: str) -> Iterator[Docker]:
    """
    Start an engine, give its command, and end it with all that it runs. Raises CannotStart.

    *options* are those of dockerd, beside its own.
    """
    _check_machine()
    try:
        engine, compose = fetch(ENGINE), fetch(COMPOSE)
    except FetchFailed as e:
        raise CannotStart(f"Debian's packages cannot be fetched: {e}") from e
    folder = ROOT.resolve() / "engine"  # dockerd wants no symbolic link in it
    with ExitStack() as stack:
        stack.enter_context(_only_one(folder))
        process = stack.enter_context(_dockerd(engine, folder, options))
        docker = _command(engine, compose, folder)
        _wait(docker, process, folder / "engine.log")
        yield docker


def _check_machine() -> None:
    missing = [name for name in ("ip", "setpriv", "unshare") if shutil.which(name) is None]
    if missing:
        raise CannotStart(f"missing on PATH: {', '.join(missing)}")
    if os.geteuid():
        raise CannotStart(f"it needs root, and this is user {os.geteuid()}")


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Keep a second engine off the same folder; wait until the first has ended."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _dockerd(
    engine: Path, folder: Path, options: Sequence[str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run dockerd in namespaces of its own; they end with this process, however it ends."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    (folder / "run").mkdir()
    (folder / "bin").mkdir(exist_ok=True)
    for name, program in (
        ("iptables", "usr/sbin/xtables-nft-multi"),
        ("ip6tables", "usr/sbin/xtables-nft-multi"),
        ("docker-init", "usr/bin/tini-static"),
    ):
        _link(folder / "bin" / name, engine / program)
    own = ["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    started = ["sh", "-c", _START, "sh", str(folder), CGROUP, *options]
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", *own, *started]
    with (folder / "engine.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=_environment(engine, folder), stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        _remove_cgroups()


def _environment(engine: Path, folder: Path) -> dict[str, str]:
    libraries = [engine / "usr/lib" / f"{os.uname().machine}-linux-gnu"]
    libraries.append(engine / "lib" / libraries[0].name)
    programs = [folder / "bin", engine / "usr/bin", engine / "usr/sbin"]
    return {
        **os.environ,
        "PATH": ":".join([*map(str, programs), os.environ["PATH"]]),
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "XTABLES_LIBDIR": str(libraries[0] / "xtables"),
    }


def _command(engine: Path, compose: Path, folder: Path) -> Docker:
    plugins = folder / "config" / "cli-plugins"
    plugins.mkdir(parents=True, exist_ok=True)
    for plugin in (compose / COMPOSE.program).parent.iterdir():
        _link(plugins / plugin.name, plugin)
    where = {"DOCKER_HOST": f"unix://{folder}/docker.sock", "DOCKER_CONFIG": f"{folder}/config"}
    return Docker(str(engine / "usr/bin/docker"), where)


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def _wait(docker: Docker, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end and process.poll() is None:
        with suppress(subprocess.SubprocessError):
            docker.run(["version", "--format", "{{.Server.Version}}"], 10.0)
            return
        time.sleep(0.2)
    said = "\n".join(log.read_text(errors="replace").splitlines()[-LINES:])
    raise CannotStart(f"dockerd did not come up; it said:\n{said}")


def _remove_cgroups() -> None:
    """Remove the empty folders that its containers leave in the cgroup file systems."""
    for parent in (CGROUPS, *CGROUPS.glob("*")):
        left = parent / CGROUP
        folders = sorted((path for path in left.rglob("*") if path.is_dir()), reverse=True)
        for folder in (*folders, left):
            with suppress(OSError):
                folder.rmdir()
