"""The finder of a unit, or of a port, beside a real systemd: asked a line at a time."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import deregister_agent
from tests.loops import eventually
from tests.servers.systemd import Systemd

ROOT = Path(deregister_agent.__file__).parent.parent

LOOKS = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
from dataclasses import asdict, replace
from pydantic import TypeAdapter
from deregister_agent.host.clock import SystemClock
from deregister_agent.host.process_finder import ProcessOptions, build
from deregister_agent.model import Instance

options = TypeAdapter(ProcessOptions).validate_json(sys.argv[2])
instance, clock, was = Instance("web", "web", "127.0.0.1", int(sys.argv[3])), SystemClock(), None
finder = build(options, instance, clock)
for line in sys.stdin:
    if line == "drained\\n":
        was = replace(was, closed=clock.now())
    if line == "follow\\n":
        was = running
    if line == "restarted\\n":
        finder = build(options, instance, clock)
    presence = finder.look(was)
    running = presence.running
    was = running if was is None or not presence.exited and running else was
    print(json.dumps(asdict(presence)), flush=True)
"""
"""An agent's finder, which looks once for each line that it reads, and keeps who it has seen."""


class Looks:
    """The finder of an agent that runs beside systemd, as root or as another user."""

    def __init__(
        self, stack: ExitStack, systemd: Systemd, port: int, *before: str, **options: Any
    ) -> None:
        path = json.dumps([str(ROOT), *(entry for entry in sys.path if entry)])
        python = (sys.executable, "-c", LOOKS, path, json.dumps(options), str(port))
        self._process = stack.enter_context(
            subprocess.Popen(
                [*systemd.before, *before, *python],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(self._process.kill)

    def look(self, word: str = "look") -> dict[str, Any]:
        """
        Return what the agent sees now.

        It first says "drained" of the app, takes who runs now for the app ("follow"), or is
        "restarted" itself.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        said: dict[str, Any] = json.loads(self._process.stdout.readline())
        return said

    def pids(self) -> list[int]:
        """Wait until the app is seen, and return its pids."""
        said = self.once(lambda one: one["running"], "the app is seen")
        return [pid for pid, _ in said["running"]["pids"]]

    def once(self, is_so: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        """Look until the agent says so, and return what it said."""
        said: list[dict[str, Any]] = [{}]

        def holds() -> bool:
            said.append(self.look())
            return bool(is_so(said[-1]))

        try:
            eventually(holds, what)
        except AssertionError as e:
            raise AssertionError(f"{e}; last: {said[-1]}") from None
        return said[-1]

    def never(self, is_so: Callable[[dict[str, Any]], object], until: Callable[[], object]) -> None:
        """Look until something has happened, and fail if the agent ever says so before."""
        while not until():
            said = self.look()
            assert not is_so(said) or until(), said
