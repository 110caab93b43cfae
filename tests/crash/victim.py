"""
A real agent that kills itself at its n-th side effect.

Each side effect is a place to die at twice: before it has happened, and after it has but
before anything could be made of its answer.
"""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deregister_agent import wiring
from deregister_agent.api import serve
from deregister_agent.cli import logs
from deregister_agent.config.load import load_config
from deregister_agent.journal import generation, journal
from deregister_agent.net import fetcher


@dataclass(frozen=True)
class Death:
    """Where an agent dies: at the side effect of that number, or at the first of that name."""

    at: int | str = 0  # 0: nowhere
    counting: bool = False  # whether it may die between the number of a decision and the decision
    armed_by: Path | None = None  # side effects count once this file is there


class Fuse:
    """Counts side effects, writes the count down, and kills the process at the chosen one."""

    def __init__(self, death: Death, count_file: Path) -> None:
        self._death, self._count_file, self._count = death, count_file, 0

    def burn(self, what: str) -> None:
        armed_by = self._death.armed_by
        armed = armed_by is None or armed_by.exists()
        self._count += armed
        with self._count_file.open("a") as count:
            count.write(f"{self._count} {what}\n")
        if armed and self._death.at in {self._count, what}:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(
        self,
        owner: Any,
        name: str,
        *,
        only: Callable[..., bool] = lambda *_: True,
        before: bool = True,
    ) -> None:
        """Put a place to die before and after each call of *name*; *before*: or only after it."""
        inside = getattr(owner, name)
        called = name if before else f"{owner.__name__}.{name}"

        def dangerous(*args: Any, **kwargs: Any) -> Any:
            if not only(*args):
                return inside(*args, **kwargs)
            if before:
                self.burn(f"before {called}")
            result = inside(*args, **kwargs)
            self.burn(f"after {called}")
            return result

        setattr(owner, name, dangerous)


def _changes_something(_fetcher: object, method: str, target: str, *_rest: object) -> bool:
    # How etcd and the rights of a token of Consul are read.
    asks = target.partition("?")[0].endswith(("/kv/range", "/acl/authorize"))
    return method != "GET" and not asks


def _is_of_a_registry(_source: object, target: object) -> bool:
    return not str(target).endswith(".generation")


def run(death: Death, count_file: Path, path: Path, log: Path) -> None:
    """Be an agent, in a process of its own, until that *death*."""
    with log.open("ab") as output:
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
    os.environ["CRASH_SECRET"] = "crash-test-secret"
    fuse = Fuse(death, count_file)
    for name in ("write", "keep_snapshot", "keep_registration", "delivered"):
        fuse.wrap(journal.Journal, name)
    if death.counting:
        fuse.wrap(generation.Generation, "write", before=False)
    fuse.wrap(os, "replace", only=_is_of_a_registry)
    fuse.wrap(fetcher.Fetcher, "call", only=_changes_something)
    settings = load_config(path)
    logs.setup("text", "info")
    agent = wiring.build_agent(settings)
    serve.serve(agent, settings.server)
