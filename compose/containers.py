"""The whole stack in containers, by Compose."""

import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from compose.engine import Docker
from compose.fronts import Fronts
from compose.places import CONTAINERS, NAMES
from compose.shop.counter import COUNTER, DONE
from compose.stack import ByInstance, Shops, Stack
from compose.whole import Whole
from deregister_agent.cli.client import AgentAnswer, AgentClient, Unreachable
from tests.guard import undone_by

HERE = Path(__file__).parent
PROJECT = "deregister-test"
UP, WALK, LIMIT = 300.0, 600.0, 200.0  # seconds for all to be up, a walk, one command
DOWN = ("down", "--volumes", "--timeout", "5")
CURL = ("exec", "-T", "pipeline", "curl", "--silent", "--show-error")


class Compose:
    """``docker compose`` for the stack, with the images that a file names."""

    def __init__(self, docker: Docker, images: Path) -> None:
        self._docker = docker
        self.environment = {
            "COMPOSE_PROJECT_NAME": PROJECT,
            "COMPOSE_FILE": str(HERE / "compose.yaml"),
            "COMPOSE_ENV_FILES": str(images),
            "GATEWAY_PORT": "0",  # any that is free
            "PROMETHEUS_PORT": "0",
        }

    def __call__(self, *arguments: str) -> str:
        """Return what it printed. Raises CalledProcessError, TimeoutExpired."""
        return self._docker.run(
            ["compose", "--progress", "quiet", *arguments], LIMIT, **self.environment
        )

    def written(self, *arguments: str) -> str:
        """Return the same as a line for a shell."""
        return self._docker.written(["compose", *arguments], **self.environment)

    def show(self, *arguments: str) -> None:
        """Let it print what it likes."""
        self._docker.show(["compose", "--progress", "quiet", *arguments], UP, **self.environment)

    def shell(self, script: str) -> str:
        """Return what a shell script printed, in which ``docker compose`` is for this stack."""
        return self._docker.shell(script, HERE, WALK, **self.environment)


class Containers(Whole):
    """The stack while it is up."""

    place = CONTAINERS

    def __init__(self, compose: Compose, folder: Path) -> None:
        self.compose, self._folder = compose, folder
        clients = {name: Pipeline(compose, name) for name in NAMES}
        self._apps = Apps(compose, folder)
        front, agent = Fronts(CONTAINERS), ByInstance(clients)
        self.stack = Stack(CONTAINERS, self._counted, self._apps, front, agent)

    def ask(self, urls: Sequence[str]) -> list[Any]:
        """Return the JSON at each URL that the pipeline reaches."""
        said = self.compose(*CURL, "--fail", "--write-out", "\n", *urls)
        return [json.loads(line) for line in said.splitlines()]

    def load_result(self) -> str:
        """End the load, and return what it wrote."""
        self.compose("stop", "load")
        for name in NAMES:
            self._apps.keep_ledger(name)
        self.compose("cp", f"load:{self.place.scratch('load', 'load.json')}", str(self._folder))
        return (self._folder / "load.json").read_text()

    def log(self, service: str) -> str:
        """Return all that a service has written."""
        return self.compose("logs", "--no-log-prefix", "--no-color", service)

    def _counted(self) -> tuple[int, Mapping[str, int]]:
        redis = ("exec", "-T", "redis", "redis-cli", "-h", self.place.at("redis"))
        lines = self.compose(*redis, "hgetall", DONE).split()
        pairs = zip(lines[::2], lines[1::2], strict=True)
        counter = int(self.compose(*redis, "get", COUNTER) or 0)
        return counter, {name: int(times) for name, times in pairs}


class Apps(Shops):
    """The apps: each process is a container of its own."""

    def __init__(self, compose: Compose, folder: Path) -> None:
        self._compose = compose
        super().__init__(folder)
        for name in NAMES:
            self.next_ledger(name)

    def start(self, name: str) -> None:
        """Start the next container of an app, and return once it is healthy."""
        self.next_ledger(name)
        self._compose("up", "-d", "--no-deps", "--force-recreate", "--wait", name)

    def kill(self, name: str) -> None:
        """Kill it as hard as can be; its ledger is kept."""
        self._compose("kill", "--signal", "KILL", name)
        self.keep_ledger(name)

    def keep_ledger(self, name: str) -> None:
        """Copy what its container has written by now."""
        ledger = CONTAINERS.scratch(name, "ledger")
        self._compose("cp", f"{name}:{ledger}", str(self.ledgers[name][-1]))


class Pipeline(AgentClient):
    """The agent of one app, asked with curl from where a pipeline would run."""

    def __init__(self, compose: Compose, name: str) -> None:
        self._compose, self._name = compose, name

    def get(self, path: str, wait: float | None = None, **params: int) -> AgentAnswer:
        """Ask."""
        query = urlencode({**params} if wait is None else {**params, "wait": wait})
        return self._asked(f"{path}?{query}")

    def post(self, path: str, body: Mapping[str, object]) -> AgentAnswer:
        """Ask for a change."""
        data = ("--header", "Content-Type: application/json", "--data", json.dumps(body))
        return self._asked(path, *data)

    def _asked(self, target: str, *more: str) -> AgentAnswer:
        socket = ("--unix-socket", f"/run/{self._name}/agent.sock")
        status = ("--write-out", "\n%{http_code}")
        try:
            said = self._compose(*CURL, *socket, *status, *more, f"http://localhost{target}")
        except subprocess.CalledProcessError as e:
            raise Unreachable(f"no answer from the agent of {self._name}: {e.stderr}") from e
        text, _, code = said.rpartition("\n")
        return AgentAnswer(int(code), json.loads(text))


@contextmanager
def containers(docker: Docker, images: Path) -> Iterator[Containers]:
    """Build the images, bring everything up, and take it down with its volumes."""
    compose = Compose(docker, images)
    with (
        tempfile.TemporaryDirectory(prefix="stack-") as name,
        undone_by(compose.written(*DOWN)),
    ):
        compose(*DOWN)
        try:
            compose.show("build")
            compose.show("up", "-d", "--wait")
            whole = Containers(compose, Path(name))
            whole.wait_serving()
            yield whole
        except BaseException:
            compose.show("ps", "--all")
            compose.show("logs", "--tail", "40")
            raise
        finally:
            compose(*DOWN)
