"""
The test of the whole stack: a rolling deploy under load, in real containers.

``python -m compose.deploy``. Brings the stack up, replaces the three apps one after the
other with SIGKILL while orders and messages go on, holds what the load has sent against what
Redis has counted, and takes everything down. With ``--careless`` nobody asks the agents
first: then the test has to find losses, or it would not see them.

Exit codes: 0 nothing was lost, 1 something was, 77 no engine can be started here.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import click

from compose import local_images
from compose.engine import CannotStart, Docker, own_engine, running_engine

HERE = Path(__file__).parent
APPS = ("shop-1", "shop-2", "shop-3")
NO_ENGINE = 77
LOCAL = "local.env"
UP, LIMIT, DRAINED, BACK, COUNTED = 300.0, 200.0, 120, 120, 30.0  # seconds that each may take
LEAD = 3.0  # seconds of load before the deploy and after it


class Stack:
    """The stack of ``compose.yaml`` on one engine."""

    def __init__(self, docker: Docker, images: Path) -> None:
        self._docker = docker
        files = ["--file", str(HERE / "compose.yaml"), "--env-file", str(images)]
        self._compose = ["compose", "--project-name", "deregister-test", *files]

    def __enter__(self) -> Self:
        """Begin from nothing."""
        self.down()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Take everything down, volumes too; after a failure, show what the agents said."""
        if kind is not None:
            self._docker.show([*self._compose, "ps", "--all"])
            self._docker.show([*self._compose, "logs", "--tail", "40"])
        self.down()

    def up(self) -> None:
        """Build the images, and bring everything up, on ports that are free."""
        free = {"GATEWAY_PORT": "0", "PROMETHEUS_PORT": "0"}
        quiet = [*self._compose, "--progress", "quiet"]
        self._docker.show([*quiet, "build"])
        self._docker.show([*quiet, "up", "-d", "--wait"], UP, **free)

    def down(self) -> None:
        """Remove containers, volumes and network."""
        self.compose("--progress", "quiet", "down", "--volumes", "--timeout", "5")

    def compose(self, *arguments: str, **variables: str) -> str:
        """Return what this ``docker compose`` printed."""
        return self._docker.run([*self._compose, *arguments], LIMIT, **variables)

    def ask(self, app: str, target: str, *more: str) -> dict[str, Any]:
        """Ask the agent of *app* with curl, as a pipeline would; any status but 2xx raises."""
        socket = ["--unix-socket", f"/run/{app}/agent.sock"]
        curl = ["curl", "--silent", "--show-error", "--fail-with-body", *socket, *more]
        answer = self.compose("exec", "-T", "pipeline", *curl, f"http://localhost/{target}")
        body: dict[str, Any] = json.loads(answer)
        return body

    def replace(self, app: str) -> None:
        """Kill the app as hard as can be, and start its next version."""
        self.compose("--progress", "quiet", "kill", "--signal", "KILL", app)
        again = ["up", "-d", "--no-deps", "--force-recreate", "--wait", app]
        self.compose("--progress", "quiet", *again, SHOP_VERSION="2")

    def end_load(self) -> dict[str, Any]:
        """Stop the load once its last answer has come; return what it has sent."""
        self.compose("--progress", "quiet", "stop", "load")
        with tempfile.TemporaryDirectory() as folder:
            self.compose("--progress", "quiet", "cp", "load:/tmp/load.json", folder)
            load: dict[str, Any] = json.loads((Path(folder) / "load.json").read_text())
        return load

    def counted(self, kind: str) -> Mapping[str, int]:
        """Return what Redis has counted of that kind, by name."""
        lines = self.compose("exec", "-T", "redis", "redis-cli", "hgetall", kind).split()
        return {name: int(times) for name, times in zip(lines[::2], lines[1::2], strict=True)}


@dataclass(frozen=True, slots=True)
class Result:
    """What became of the load, after the deploy."""

    sent: int
    lost: Sequence[Mapping[str, str]]  # not answered as it should have been
    unfinished: Sequence[str]  # accepted, and its work never done
    repeated: Sequence[str]  # done more than once
    orders: int
    messages: int

    @property
    def is_whole(self) -> bool:
        """Whether everything was done exactly once."""
        return not (self.lost or self.unfinished or self.repeated)

    def __str__(self) -> str:
        """Return it in a few lines; of the losses the first ten."""
        first = [f"  lost {each['way']}: {each['cause']}" for each in self.lost[:10]]
        work = f"{len(self.unfinished)} never finished, {len(self.repeated)} done twice"
        accepted = f"accepted {self.orders} orders and {self.messages} messages: {work}"
        return "\n".join([f"sent {self.sent} orders, lost {len(self.lost)}", accepted, *first])


def deploy(stack: Stack, *, careless: bool) -> None:
    """Replace all apps, one after the other."""
    for app in APPS:
        began = time.monotonic()
        if not careless:
            stack.ask(app, "stop-traffic", "--request", "POST")
            stack.ask(app, f"traffic-drained?wait={DRAINED}")
        drained = time.monotonic()
        stack.replace(app)
        replaced = time.monotonic()
        if not careless:
            stack.ask(app, "start-traffic", "--request", "POST")
            stack.ask(app, f"traffic-started?wait={BACK}")
        click.echo(
            f"{app}: drained in {drained - began:.1f} s, replaced in {replaced - drained:.1f} s, "
            f"back in {time.monotonic() - replaced:.1f} s"
        )


def result(stack: Stack) -> Result:
    """End the load, and hold what it has sent against what was counted, once that is all there."""
    load = stack.end_load()
    orders, messages = load["accepted"], load["messages"]
    end = time.monotonic() + COUNTED
    while time.monotonic() < end:
        done = {**stack.counted("orders"), **stack.counted("messages")}
        if all(name in done for name in (*orders, *messages)):
            break
        time.sleep(0.5)
    return Result(
        sent=load["sent"],
        lost=load["lost"],
        unfinished=[name for name in (*orders, *messages) if name not in done],
        repeated=[name for name, times in done.items() if times > 1],
        orders=len(orders),
        messages=len(messages),
    )


def run(docker: Docker, images: Path, *, careless: bool) -> Result:
    """Run the whole test on one engine."""
    with Stack(docker, images) as stack:
        stack.up()
        time.sleep(LEAD)
        deploy(stack, careless=careless)
        time.sleep(LEAD)
        outcome = result(stack)
    click.echo(str(outcome))
    return outcome


def engine(stack: ExitStack) -> tuple[Docker, Path]:
    """Return an engine and the file that names its images: the machine's, or one of our own."""
    docker, images = running_engine(), os.environ.get("STACK_IMAGES", ".env")
    if docker is None:
        docker, images = stack.enter_context(own_engine()), LOCAL
        docker.run(["image", "prune", "--force"])  # what earlier builds have left
    if images == LOCAL:
        local_images.make(docker)
    return docker, HERE / images


@click.command(help="Deploy the whole stack under load, in containers; nothing may be lost.")
@click.option("--careless", is_flag=True, help="Kill without a drain: things have to get lost.")
def main(*, careless: bool) -> None:
    """Run it, and exit as the module says."""
    with ExitStack() as opened:
        try:
            docker, images = engine(opened)
        except CannotStart as e:
            click.echo(
                f"THE STACK IS NOT TESTED: no container engine can be started: {e}", err=True
            )
            sys.exit(NO_ENGINE)
        try:
            outcome = run(docker, images, careless=careless)
        except subprocess.CalledProcessError as e:
            click.echo(f"{e}\n{e.stdout or ''}{e.stderr or ''}", err=True)
            sys.exit(1)
        except subprocess.TimeoutExpired as e:
            click.echo(str(e), err=True)
            sys.exit(1)
    sys.exit(0 if outcome.is_whole else 1)


if __name__ == "__main__":
    main()
