"""What the app has in hand, by a program of the operator's that prints one number."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field

from deregister_agent.config.options import BackendOptions, Secret, Timeout
from deregister_agent.errors import AgentError, ProbeError
from deregister_agent.host.programs import Run, environment, output_of
from deregister_agent.model import Instance, Reading
from deregister_agent.ports import IdleProbe
from deregister_agent.probes.counting import ReadLock, Unclear, WorkKind, a_count

OUTPUT_LIMIT = 4096  # bytes
NUMBER = re.compile(r"[0-9]{1,15}")


class Options(BackendOptions):
    """A program that prints how much is in hand."""

    command: Annotated[tuple[str, ...], Field(min_length=1)]
    """The program and its arguments; no shell looks at them."""
    counts: WorkKind = "tasks"
    """What kind of work the number is about: requests, tasks, messages."""
    folder: Path | None = None
    """The directory that the program runs in; without this key the agent's own."""
    env: dict[str, str | Secret] = Field(default_factory=dict)
    """More environment variables: a text, or a table that says where a secret is."""
    timeout: Timeout = 5.0
    """How long the program may run, in seconds; then all its processes are killed."""


class CommandProbe(IdleProbe):
    """Runs a program; only exit status 0 and one plain number are an answer."""

    def __init__(self, options: Options, instance: Instance) -> None:
        self.name = options.label
        self._options, self._instance = options, instance
        self._reads = ReadLock()

    def read(self, wait: float) -> Reading:
        """Run the program and return its number. Raises ProbeError unless one was printed."""
        del wait
        options = self._options
        try:
            run = Run(
                options.command,
                environment(self._instance, options.env),
                options.folder,
                OUTPUT_LIMIT,
            )
            with self._reads.held(options.timeout) as left:
                return Reading({options.counts: _number(output_of(run, left))})
        except AgentError as e:
            doing = f"tell what is in flight with {options.command[0]}"
            raise ProbeError(self.name, doing, e) from e


def _number(output: bytes) -> int:
    text = output.decode("ascii", errors="replace").strip()
    if NUMBER.fullmatch(text) is None:
        shown = repr(text[:60]) if text else "nothing"
        raise Unclear(f"it printed {shown}, not one whole number of at least 0")
    return a_count(int(text), "the number that it printed")


def build(options: Options, instance: Instance) -> CommandProbe:
    """Return the probe; the program learns from its environment which instance is meant."""
    return CommandProbe(options, instance)
