"""
Run a program for each announcement: an argument list, never a shell.

The event comes as JSON on standard input and as environment variables. Exit status 0
means that the program took the event. The agent's own environment, and what secrets it may hold,
is not passed on.
"""

import shutil
from typing import Annotated

from pydantic import Field

from deregister_agent.config.options import NotifierOptions, Secret, Timeout
from deregister_agent.errors import AgentError, NotifyError
from deregister_agent.host.programs import Run, environment, output_of, plain_environment
from deregister_agent.model import Event, Instance, Process
from deregister_agent.notifiers.event_json import encoded, happened
from deregister_agent.ports import Notifier


class Options(NotifierOptions):
    """The keys of a ``command`` notifier."""

    command: Annotated[tuple[str, ...], Field(min_length=1)]
    """The program and its arguments; no shell looks at them."""
    timeout: Timeout = 10.0
    """How long the program may run, in seconds; then all that was started is killed."""
    env: dict[str, str | Secret] = Field(default_factory=dict)
    """More environment variables: a text, or a table that says where a secret is."""


class CommandNotifier(Notifier):
    """Tells a program, which is run once for each announcement."""

    def __init__(self, options: Options) -> None:
        self.name = options.label
        self.announces = frozenset(options.announces)
        self._options = options

    def announce(self, event: Event) -> None:
        """Run the program and wait for its end. NotifyError unless the exit status is 0 in time."""
        options = self._options
        try:
            variables = environment(event.instance, options.env) | _variables(event)
            run = Run(options.command, variables, output_limit=None, given=encoded(event) + b"\n")
            output_of(run, options.timeout)
        except AgentError as e:
            doing = f"announce {event.kind} with {options.command[0]}"
            raise NotifyError(self.name, doing, e) from e

    def examine(self, running: Process | None) -> str:
        """Look for the program and its secrets; runs nothing."""
        del running
        program = self._options.command[0]
        found = shutil.which(program, path=plain_environment()["PATH"])
        if found is None:
            why = "there is no such program, or this user may not run it"
            raise NotifyError(self.name, f"run {program}", why)
        try:
            for value in self._options.env.values():
                _ = value if isinstance(value, str) else value.read()
        except AgentError as e:
            raise NotifyError(self.name, f"run {program}", e) from e
        return f"{found} could be run; it was not"


def _variables(event: Event) -> dict[str, str]:
    """Return the variables that say what happened; others say to which instance."""
    pids = event.process.pids if event.process is not None else ()
    return {
        "DEREGISTER_EVENT": event.kind,
        "DEREGISTER_ID": event.id,
        "DEREGISTER_DRAIN": event.drain,
        "DEREGISTER_TIME": happened(event),
        "DEREGISTER_PIDS": " ".join(str(pid) for pid, _ in pids),
    }


def build(options: Options, instance: Instance) -> CommandNotifier:
    """Return the notifier; every event says which instance it is about."""
    del instance
    return CommandNotifier(options)
