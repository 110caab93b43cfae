"""
Run a program, and take what it prints: an argument list, never a shell.

output_of() runs it to its end; a Partner is kept, and answers each question with a line.

It has a session of its own; when its time is over, it and all in its process group are
killed. The agent's own environment, and what secrets it may hold, is not passed on.
"""

import os
import signal
import subprocess
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from deregister_agent.config.options import Secret
from deregister_agent.errors import AgentError
from deregister_agent.host.printed import PIPE, Printed
from deregister_agent.model import Instance

PASSED_ON = ("PATH", "HOME", "LANG")
AFTER_KILL = 5.0  # a killed process that is still there then hangs in the kernel


class ProgramError(AgentError):
    """
    The program did not do what it was run for. A fragment of a sentence: why.

    *status* is what it exited with by itself, and *complained* tells whether it had
    printed anything on standard error.
    """

    def __init__(self, why: str, *, status: int | None = None, complained: bool = False) -> None:
        super().__init__(why)
        self.status, self.complained = status, complained


@dataclass(frozen=True, slots=True)
class Run:
    """What is run, where, and how much of it is believed."""

    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path | None = None
    limit: int | None = PIPE  # bytes that it may print on standard output; None: thrown away
    given: bytes = b""  # what it finds on standard input, if it reads that


def environment(instance: Instance, more: Mapping[str, str | Secret]) -> dict[str, str]:
    """Return what a program is to know. Raises AgentError if a secret cannot be read."""
    own = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
    about = {
        "DEREGISTER_INSTANCE": instance.name,
        "DEREGISTER_SERVICE": instance.service,
        "DEREGISTER_ADDRESS": instance.address,
        "DEREGISTER_PORT": str(instance.port),
    }
    given = {key: v if isinstance(v, str) else v.read() for key, v in more.items()}
    return {"PATH": os.defpath, **own, **about, **given}


def output_of(run: Run, timeout: float) -> bytes:
    """
    Return all that the program printed on standard output.

    Raises ProgramError unless it exits with 0 within *timeout* seconds and has printed no
    more than it may. What it may have left running is not waited for.
    """
    end = time.monotonic() + timeout
    process = _started(run)
    said = Printed(run.limit)
    try:
        ended = said.follow(process, end)
    except OSError as e:
        raise ProgramError(f"it cannot be followed: {e}") from e
    finally:
        _end(process)
    if said.too_much:
        raise ProgramError(f"it printed more than {run.limit} bytes; killed")
    if not ended:
        why = f"no end within {timeout:g} s; killed, with all it had started"
        raise ProgramError(why + said.last_words())
    if process.returncode:
        why = _ending(process.returncode) + said.last_words()
        raise ProgramError(why, status=process.returncode, complained=bool(said.errors))
    return bytes(said.output)


class _EndedError(ProgramError):
    """It has exited instead of answering."""


class Partner:
    """
    A program that is kept running: it prints a line for each line that it is given.

    It is started at the first question, and anew after any failure or end. It must end by
    itself when its standard input does, and when it is not asked for a while.
    """

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []
        weakref.finalize(self, _end_all, self._running)

    def ask(self, run: Run, timeout: float) -> bytes:
        """Return its next line, however long it runs already. Raises ProgramError if none comes."""
        end = time.monotonic() + timeout
        while True:
            kept = bool(self._running)
            if not kept:
                self._running.append(_started(run, stdin=subprocess.PIPE))
            try:
                return _answer(self._running[0], run, end, timeout)
            except _EndedError as e:
                _end_all(self._running)
                if not kept:  # one that was kept may end between two questions
                    raise ProgramError(str(e)) from e
            except (ProgramError, OSError) as e:
                _end_all(self._running)
                raise ProgramError(str(e)) from e


def _answer(process: subprocess.Popen[bytes], run: Run, end: float, timeout: float) -> bytes:
    assert process.stdin is not None
    said = Printed(run.limit)
    with suppress(BrokenPipeError):  # its end is seen below, with its last words
        process.stdin.write(b"\n")
        process.stdin.flush()
    if not said.follow(process, end, line=True):
        if said.too_much:
            raise ProgramError(f"it printed more than {run.limit} bytes; killed")
        why = f"no answer within {timeout:g} s; killed, with all it had started"
        raise ProgramError(why + said.last_words())
    if not said.output.endswith(b"\n"):
        raise _EndedError(_ending(process.wait()) + said.last_words())
    return bytes(said.output)


def _end_all(running: list[subprocess.Popen[bytes]]) -> None:
    while running:
        _end(running.pop())


def _started(run: Run, stdin: int | None = None) -> subprocess.Popen[bytes]:
    try:
        with _input(run.given) as given:
            return subprocess.Popen(  # noqa: S603 - the operator's own list of arguments
                run.command,
                stdin=given if stdin is None else stdin,
                stdout=subprocess.DEVNULL if run.limit is None else subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=run.environment,
                cwd=run.folder,
                start_new_session=True,
            )
    except (OSError, ValueError, subprocess.SubprocessError) as e:
        raise ProgramError(f"it cannot be started: {e}") from e


@contextmanager
def _input(given: bytes) -> Iterator[int]:
    """Give a descriptor to read that from: a file, so that who reads nothing blocks nobody."""
    if not given:
        yield subprocess.DEVNULL
        return
    with os.fdopen(os.memfd_create("given"), "r+b") as file:
        file.write(given)
        file.seek(0)
        yield file.fileno()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill it and all in its process group, unless it has ended; close what leads to it."""
    if process.returncode is None:  # not reaped yet, so its id is its own
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(AFTER_KILL)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


def _ending(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"killed by signal {-status}"
