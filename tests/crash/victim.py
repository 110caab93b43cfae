"""
A real agent that kills itself at its n-th side effect.

Each side effect is a place to die at twice: before it has happened, and after it has but
before anything could be made of its answer.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deregister_agent import wiring
from deregister_agent.api import serve
from deregister_agent.cli import logs
from deregister_agent.config.load import load_config
from deregister_agent.journal import journal
from deregister_agent.net import fetcher


class Fuse:
    """Counts side effects, writes the count down, and kills the process at the chosen one."""

    def __init__(self, die_at: int, count_file: Path) -> None:
        self._die_at, self._count_file, self._count = die_at, count_file, 0

    def burn(self, what: str) -> None:
        self._count += 1
        with self._count_file.open("a") as count:
            count.write(f"{self._count} {what}\n")
        if self._count == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(self, owner: Any, name: str, *, only: Callable[..., bool] = lambda *_: True) -> None:
        """Put a place to die before and after each call of *name*."""
        inside = getattr(owner, name)

        def dangerous(*args: Any, **kwargs: Any) -> Any:
            if not only(*args):
                return inside(*args, **kwargs)
            self.burn(f"before {name}")
            result = inside(*args, **kwargs)
            self.burn(f"after {name}")
            return result

        setattr(owner, name, dangerous)


def _changes_something(_fetcher: object, method: str, target: str, *_rest: object) -> bool:
    return method != "GET" and not target.endswith("/kv/range")  # how etcd is read


def run(die_at: int, count_file: Path, path: Path, log: Path) -> None:
    """Be an agent, in a process of its own, until the side effect of that number; 0: none."""
    with log.open("ab") as output:
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
    os.environ["CRASH_SECRET"] = "crash-test-secret"
    fuse = Fuse(die_at, count_file)
    for name in ("write", "keep_snapshot", "keep_registration", "delivered"):
        fuse.wrap(journal.Journal, name)
    fuse.wrap(os, "replace")
    fuse.wrap(fetcher.Fetcher, "call", only=_changes_something)
    settings = load_config(path)
    logs.setup("text", "info")
    agent = wiring.build_agent(settings)
    serve.serve(agent, settings.server)
