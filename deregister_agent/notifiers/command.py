"""
Run a program for each announcement: an argument list, never a shell.

The event comes as JSON on standard input and as environment variables. Exit status 0
means that it was taken. The agent's own environment, and what secrets it may hold,
is not passed on.
"""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated

from pydantic import Field

from deregister_agent.errors import AgentError, NotifyError
from deregister_agent.model import Event, Instance
from deregister_agent.options import NotifierOptions, Secret, Timeout
from deregister_agent.payload import encoded, happened
from deregister_agent.ports import Notifier

_PASSED_ON = ("PATH", "HOME", "LANG")
_TAIL = 4096  # bytes of standard error that are kept
_PIPE = 65536  # a whole pipe (man 7 pipe), so that one read leaves nothing of the dead behind
_LINE = 300  # characters of its last line that are shown
_AFTER_KILL = 5.0  # a killed process that is still there then hangs in the kernel


class Options(NotifierOptions):
    """The keys of a ``command`` notifier."""

    command: Annotated[tuple[str, ...], Field(min_length=1)]
    """The program and its arguments; no shell looks at them."""
    timeout: Timeout = 10.0
    """How long it may run, in seconds; then it and all it has started are killed."""
    env: dict[str, str | Secret] = Field(default_factory=dict)
    """More environment variables: a text, or a table that says where a secret is."""


class Command(Notifier):
    """A program that is told."""

    def __init__(self, options: Options) -> None:
        self.name = options.label
        self.announces = frozenset(options.announces)
        self._options = options

    def announce(self, event: Event) -> None:
        """Run the program and wait for its end. NotifyError unless it exits with 0 in time."""
        end = time.monotonic() + self._options.timeout
        process = self._started(event)
        try:
            said, ended = _followed(process, end)
        except OSError as e:
            raise self._refused(event, f"it cannot be followed: {e}", b"") from e
        finally:
            if process.returncode is None:
                _end_group(process)
        if not ended:
            after = f"no end within {self._options.timeout} s; killed, with all it had started"
            raise self._refused(event, after, said)
        if process.returncode:
            raise self._refused(event, _ending(process.returncode), said)

    def _started(self, event: Event) -> subprocess.Popen[bytes]:
        given = os.memfd_create("event")  # a file, so that a program that reads nothing blocks none
        try:
            with open(given, "r+b", closefd=False) as file:
                file.write(encoded(event) + b"\n")
            os.lseek(given, 0, os.SEEK_SET)
            return subprocess.Popen(  # noqa: S603 - the operator's own list of arguments
                self._options.command,
                stdin=given,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=self._environment(event),
                start_new_session=True,
            )
        except (OSError, ValueError, subprocess.SubprocessError) as e:
            raise self._refused(event, f"it cannot be started: {e}", b"") from e
        finally:
            os.close(given)

    def _environment(self, event: Event) -> Mapping[str, str]:
        own = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
        more = {
            key: value if isinstance(value, str) else self._secret(value, event)
            for key, value in self._options.env.items()
        }
        return {"PATH": os.defpath, **own, **more, **_variables(event)}

    def _secret(self, secret: Secret, event: Event) -> str:
        try:
            return secret.read()
        except AgentError as e:
            raise NotifyError(self.name, f"announce {event.kind}", e) from e

    def _refused(self, event: Event, why: str, said: bytes) -> NotifyError:
        lines = said.decode(errors="replace").strip().splitlines()
        last = f": {lines[-1][-_LINE:]}" if lines else ""
        doing = f"announce {event.kind} with {self._options.command[0]}"
        return NotifyError(self.name, doing, why + last)


def _variables(event: Event) -> dict[str, str]:
    pids = event.process.pids if event.process is not None else ()
    return {
        "DEREGISTER_EVENT": event.kind,
        "DEREGISTER_ID": event.id,
        "DEREGISTER_DRAIN": event.drain,
        "DEREGISTER_TIME": happened(event),
        "DEREGISTER_INSTANCE": event.instance.name,
        "DEREGISTER_SERVICE": event.instance.service,
        "DEREGISTER_ADDRESS": event.instance.address,
        "DEREGISTER_PORT": str(event.instance.port),
        "DEREGISTER_PIDS": " ".join(str(pid) for pid, _ in pids),
    }


def _followed(process: subprocess.Popen[bytes], end: float) -> tuple[bytes, bool]:
    """
    Read standard error until the program exits or the time has come.

    Return the end of what it said, and whether it has exited. What it may have left
    running can keep standard error open; that is not waited for.
    """
    errors = process.stderr
    assert errors is not None
    os.set_blocking(errors.fileno(), False)
    exit_seen = os.pidfd_open(process.pid)
    said = b""
    try:
        with selectors.DefaultSelector() as selector, errors:
            selector.register(exit_seen, selectors.EVENT_READ)
            selector.register(errors, selectors.EVENT_READ)
            while (left := end - time.monotonic()) > 0:
                ready = {key.fileobj for key, _ in selector.select(left)}
                if errors in ready:
                    more = os.read(errors.fileno(), _PIPE)
                    said = (said + more)[-_TAIL:]
                    if not more:
                        selector.unregister(errors)
                if exit_seen in ready:
                    process.wait()
                    return said, True
    finally:
        os.close(exit_seen)
    return said, False


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the program and all in its process group; it is not reaped yet, so its id is its own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_AFTER_KILL)


def _ending(status: int) -> str:
    return f"exit status {status}" if status > 0 else f"killed by signal {-status}"


def build(options: Options, instance: Instance) -> Command:
    """Return the notifier; every event says which instance it is about."""
    del instance
    return Command(options)
