"""
The test of the whole stack: a rolling deploy under load.

``python -m compose.deploy``. Brings the stack up in containers, walks through the drain of
README.md, replaces the three apps one after the other with SIGKILL while the load goes on,
holds what was sent against what Redis has counted, and takes everything down. With
``--local`` the same happens to plain processes, without the walk. With ``--careless`` nobody
asks the agents first: then the test has to find losses, or it would not see them.

Exit codes: 0 all is well, 1 something is not, 77 no engine can be started here.
"""

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import click

from compose import local_images
from compose.alternatives import Way, drained, started
from compose.containers import HERE, Containers, containers
from compose.dashboards import watched
from compose.engine import CannotStart, Docker, own_engine, running_engine
from compose.local import processes
from compose.places import NAMES
from compose.rollout import Result, judge, replace
from compose.stack import Stack
from compose.walk import walk
from compose.whole import Whole

NO_ENGINE = 77
LOCAL = "local.env"
LEAD = 3.0  # seconds of load before the deploy and after it


def _kill(stack: Stack, name: str) -> None:
    stack.shops.kill(name)


def _nothing(stack: Stack, name: str) -> None:
    """Do nothing: the next process has its address, and nobody has taken it out."""


OURS = Way("ours", "deregister-agent", "all", drained, started, ours=True)
CARELESS = Way("careless", "kill -9", "all", _kill, _nothing)


def deploy(whole: Whole, way: Way) -> tuple[Result, list[str]]:
    """Replace all apps; return what became of the load, and what else is wrong."""
    time.sleep(LEAD)
    began = time.monotonic()
    wrong = walk(whole.compose) if isinstance(whole, Containers) and way.ours else []
    _say(wrong)
    with watched(whole) as missing:
        replaced = [replace(whole.stack, way, name) for name in NAMES]
    time.sleep(LEAD)
    result = judge(whole.stack, way, began, replaced, whole.end_load())
    more = [f"no data on the dashboard: {expression}" for expression in missing]
    more += whole.trouble()
    _say(more)
    return result, [*wrong, *more]


def _say(wrong: list[str]) -> None:
    for each in wrong:
        click.echo(f"WRONG: {each}", err=True)


def told(result: Result) -> str:
    """Return what a deploy came to, in a few lines."""
    lines = [
        f"{one.name}: away in {one.seconds:.1f} s, {one.ideal:.1f} s of them for its work in hand"
        for one in result.replaced
    ]
    causes = ", ".join(f"{count} {cause}" for cause, count in sorted(result.lost.items()))
    lost = f"lost {result.lost_in_all}{f' ({causes})' if causes else ''}"
    twice = f"begun twice {result.begun_twice}, done twice {result.done_twice}"
    lines.append(f"sent {len(result.sent)}, {lost}, {twice}")
    lines.append(f"accepted {result.accepted} to be done later, of which {result.counter} were")
    return "\n".join(lines)


def engine(stack: ExitStack) -> tuple[Docker, Path]:
    """Return an engine and the file that names its images: the machine's, or one of our own."""
    docker, images = running_engine(), os.environ.get("STACK_IMAGES", ".env")
    if docker is None:
        docker, images = stack.enter_context(own_engine()), LOCAL
        docker.run(["image", "prune", "--force"])  # what earlier builds have left
    if images == LOCAL:
        local_images.make(docker)
    return docker, HERE / images


@click.command(help="Deploy the whole stack under load; nothing may be lost.")
@click.option("--local", is_flag=True, help="Run plain processes instead of containers.")
@click.option("--careless", is_flag=True, help="Kill without a drain: things have to get lost.")
def main(*, local: bool, careless: bool) -> None:
    """Run it, and exit as the module says."""
    with ExitStack() as opened:
        try:
            running = processes() if local else containers(*engine(opened))
            result, wrong = deploy(opened.enter_context(running), CARELESS if careless else OURS)
        except CannotStart as e:
            click.echo(
                f"THE STACK IS NOT TESTED: no container engine can be started: {e}", err=True
            )
            sys.exit(NO_ENGINE)
        except subprocess.CalledProcessError as e:
            click.echo(f"{e}\n{e.stdout or ''}{e.stderr or ''}", err=True)
            sys.exit(1)
    click.echo(told(result))
    sys.exit(0 if result.is_whole and not wrong else 1)


if __name__ == "__main__":
    main()
