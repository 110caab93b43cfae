"""Which process is the app where containers are: rows of docs/reference/process.md, by Docker."""

import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import deregister_agent
from compose.engine import CannotStart, Docker, own_engine
from tests.integration.process_stage import LISTENS
from tests.loops import eventually

LIMIT = 1500  # seconds; a test that needs the engine may have to wait for another one
pytestmark = [pytest.mark.nightly, pytest.mark.timeout(LIMIT)]

IMAGE, PORT, PUBLISHED = "local/nothing", "8080", "18080"
PYTHON = str(Path(sys.executable).resolve())
ROOT = Path(deregister_agent.__file__).parent.parent

AGENT = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
from dataclasses import asdict, replace
from deregister_agent.errors import ProbeError
from deregister_agent.host.clock import SystemClock
from deregister_agent.host.find_by_port import PortFinder
from deregister_agent.model import Instance
from deregister_agent.probes import tcp

port, clock = int(sys.argv[2]), SystemClock()
finder = PortFinder(port, "127.0.0.1", clock)
probe = tcp.build(tcp.Options(kind="tcp"), Instance("web", "web", "127.0.0.1", port))
was = None
for line in sys.stdin:
    if line == "drained\\n":
        was = replace(was, closed=clock.now())
    presence = finder.look(was)
    said = asdict(presence)
    was = was or presence.running
    try:
        said["in_flight"] = sum(probe.read(0.0).in_flight.values())
    except ProbeError as e:
        said["in_flight"], said["doubt"] = None, str(e)
    print(json.dumps(said), flush=True)
"""
"""An agent's finder and probe, which look once for each line that they read."""


APP = LISTENS.replace("127.0.0.1", "0.0.0.0")
FROM_HERE = "cannot be told from here"


class Agent:
    """The finder and the ``tcp`` probe of an agent, started by a command of Docker's."""

    def __init__(self, stack: ExitStack, engine: "Engine", port: str, *command: str) -> None:
        path = json.dumps([str(ROOT), *(entry for entry in sys.path if entry)])
        started = engine.docker.written([*command, PYTHON, "-c", AGENT, path, port])
        self._process = stack.enter_context(
            subprocess.Popen(
                ["sh", "-c", f"exec {started}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(self._process.kill)

    def look(self, word: str = "look") -> dict[str, Any]:
        """Return what the agent sees now; "drained" has it say so first of the app it sees."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        said: dict[str, Any] = json.loads(self._process.stdout.readline())
        return said

    def once(self, is_so: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        """Look until the agent says so, and return what it said."""
        said: list[dict[str, Any]] = []

        def holds() -> bool:
            said.append(self.look())
            return bool(is_so(said[-1]))

        eventually(holds, what)
        return said[-1]


class Engine:
    """A Docker engine, and an image with nothing in it but what is mounted from this machine."""

    def __init__(self, stack: ExitStack, docker: Docker) -> None:
        self.docker, self._stack = docker, stack
        if not docker.run(["images", "--quiet", IMAGE]).strip():
            _import_image(docker)
        self._mounts = [f"--volume={folder}:{folder}:ro" for folder in _needed()]

    def app(self, *options: str, name: str = "app") -> None:
        """Start the app in a container of its own."""
        run = ("run", "--detach", "--name", name, *self._mounts, *options, IMAGE)
        self.docker.run([*run, PYTHON, "-c", APP, PORT])
        self._stack.callback(self.docker.run, ["rm", "--force", name])

    def agent(self, port: str, *options: str) -> Agent:
        """Start an agent in a container of its own; it may see whatever its namespaces hold."""
        run = (
            "run",
            "--interactive",
            "--rm",
            "--cap-add=SYS_PTRACE",
            *self._mounts,
            *options,
            IMAGE,
        )
        return Agent(self._stack, self, port, *run)

    def agent_on_the_host(self, port: str) -> Agent:
        """Start an agent in the host's network and pid namespaces."""
        return self.agent(port, "--network=host", "--pid=host")

    def agent_inside(self, port: str) -> Agent:
        """Start an agent in the very container of the app."""
        return Agent(self._stack, self, port, "exec", "--interactive", "app")

    def connects(self, port: str) -> None:
        """Have a client on the engine's host keep one connection to a port."""
        code = f"import socket, time; c = socket.create_connection(('127.0.0.1', {port}), 20)"
        code += "; print('there', flush=True); time.sleep(600)"
        command = ("run", "--rm", "--network=host", *self._mounts, IMAGE, PYTHON, "-c", code)
        line = self.docker.written(command)
        client = subprocess.Popen(["sh", "-c", f"exec {line}"], stdout=subprocess.PIPE)
        self._stack.enter_context(client)
        self._stack.callback(client.kill)
        assert client.stdout is not None
        assert client.stdout.readline() == b"there\n"


def _import_image(docker: Docker) -> None:
    """Make the image: the symbolic links of this machine's root, by which programs are found."""
    with tempfile.NamedTemporaryFile(suffix=".tar") as archive:
        with tarfile.open(archive.name, "w") as tar:
            for link in filter(Path.is_symlink, Path("/").iterdir()):
                tar.add(link)
            tar.addfile(tarfile.TarInfo("empty"))
        docker.run(["import", archive.name, IMAGE])


def _needed() -> list[Path]:
    """Return the folders of this machine without which its Python does not run."""
    wanted = [Path("/etc"), Path("/usr"), Path(sys.base_prefix), ROOT, *map(Path, sys.path)]
    wanted += [path for path in (Path("/bin"), Path("/lib"), Path("/lib64")) if path.is_dir()]
    whole = {path.absolute() for path in wanted if path.is_dir() and not path.is_symlink()}
    return sorted(path for path in whole if not whole & set(path.parents))


@contextmanager
def _engine(*options: str) -> Iterator[Engine]:
    with ExitStack() as stack:
        try:
            docker = stack.enter_context(own_engine(*options))
        except CannotStart as e:
            pytest.skip(f"no Docker engine can be started here: {e}")
        yield Engine(stack, docker)


@pytest.mark.parametrize(
    ("proxy", "holder"), [("true", "docker-proxy"), ("false", "dockerd")], ids=["proxy", "kernel"]
)
def test_a_published_port(proxy: str, holder: str) -> None:
    """Whoever listens on the host is no app, and a request in hand is not counted as none."""
    with _engine(f"--userland-proxy={proxy}") as engine:
        engine.app(f"--publish={PUBLISHED}:{PORT}")
        agent = engine.agent_on_the_host(PUBLISHED)
        for _ in range(2):
            said = agent.once(lambda one: holder in one["note"], "the forwarder is known")
            assert (said["exited"], said["running"], said["nobody"]) == (False, None, False)
            assert FROM_HERE in said["note"]
            assert said["in_flight"] is None
            assert FROM_HERE in said["doubt"]
            engine.connects(PUBLISHED)


def test_containers_behind_no_forwarder() -> None:
    """Host network, and an agent in the namespaces of the container: each in turn."""
    with _engine() as engine:
        _host_network(engine)
        _network_and_pids(engine)
        _same_container(engine)
        _network_only(engine)


def _host_network(engine: Engine) -> None:
    """See the app as on a host: its exit, and its successor."""
    engine.app("--network=host", name="on-host")
    agent = engine.agent_on_the_host(PORT)
    said = agent.once(lambda one: one["running"], "the app is seen")
    assert len(said["running"]["pids"]) == 1
    engine.connects(PORT)
    agent.once(lambda one: one["in_flight"] == 1, "the request is counted")
    assert not agent.look("drained")["exited"]
    engine.docker.run(["restart", "--time=0", "on-host"])
    said = agent.once(lambda one: one["exited"] and one["running"], "its successor")
    assert said["left"] == ""


def _network_and_pids(engine: Engine) -> None:
    """See pid 1 as the app."""
    engine.app()
    agent = engine.agent(PORT, "--network=container:app", "--pid=container:app")
    said = agent.once(lambda one: one["running"], "the app is seen")
    assert [pid for pid, _ in said["running"]["pids"]] == [1]
    assert (said["in_flight"], said["exited"]) == (0, False)


def _same_container(engine: Engine) -> None:
    """See pid 1 of a plain container as the app, from a process beside it."""
    agent = engine.agent_inside(PORT)
    said = agent.once(lambda one: one["running"], "the app is seen")
    assert [pid for pid, _ in said["running"]["pids"]] == [1]


def _network_only(engine: Engine) -> None:
    """See a socket and no process; when the container is started anew, nothing any more."""
    agent = engine.agent(PORT, "--network=container:app")
    said = agent.once(lambda one: one["running"], "the socket is seen")
    assert said["running"]["pids"] == []
    assert "cannot see which process" in said["note"]
    assert said["in_flight"] == 0
    agent.look("drained")
    engine.docker.run(["restart", "--time=0", "app"])
    said = agent.once(lambda one: one["in_flight"] is None, "the network is an orphan")
    assert "lost its links" in said["doubt"]
    assert (said["exited"], said["running"], said["nobody"]) == (False, None, False)
    assert said["note"]
