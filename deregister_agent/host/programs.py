"""
Run a program, and take what it prints: an argument list, never a shell.

completed() and output_of() run a program to its end; a Partner is kept, and answers each
question with a line. Every program has a session of its own; when its time is over, the
program and all in its process group are killed. The agent's own environment, and what
secrets it may hold, is not passed on.
"""

import os
import selectors
import signal
import subprocess
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from deregister_agent.config.options import Secret
from deregister_agent.errors import AgentError, masked
from deregister_agent.model import Instance

PASSED_ON = ("PATH", "HOME", "LANG")
AFTER_KILL = 5.0  # seconds; a killed process that is still there then hangs in the kernel
PIPE = 65536  # bytes: a whole pipe (man 7 pipe)
TAIL = 4096  # bytes of standard error that are kept
LINE = 300  # characters of its last line that are shown
_EXIT_POLL = 0.05  # seconds between two looks where a child of the program keeps its pipes open


class ProgramError(AgentError):
    """
    The program did not do what it was run for. A fragment of a sentence: why.

    *status* is what the program exited with by itself, and *complained* tells whether it
    had printed anything on standard error.
    """

    def __init__(self, why: str, *, status: int | None = None, complained: bool = False) -> None:
        super().__init__(why)
        self.status, self.complained = status, complained


@dataclass(frozen=True, slots=True)
class Run:
    """What is run, where, and how much of its output is believed."""

    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path | None = None
    output_limit: int | None = PIPE  # bytes of standard output; None: thrown away
    given: bytes = b""  # what the program finds on standard input, if it reads that
    merged: bool = False  # standard error goes into standard output, in the order printed


class Completed(NamedTuple):
    """A program that has exited by itself, or by somebody else's signal."""

    status: int  # negative: the number of the signal that has ended the program
    output: bytes
    errors: bytes  # the end of what was printed on standard error

    @property
    def why(self) -> str:
        """The exit status and the last line of the errors, as a fragment of a sentence."""
        status = self.status
        ending = f"exit status {status}" if status >= 0 else f"killed by signal {-status}"
        return ending + _last_line(self.errors)


def environment(instance: Instance, more: Mapping[str, str | Secret]) -> dict[str, str]:
    """Return what a program is to know. Raises AgentError if a secret cannot be read."""
    about = {
        "DEREGISTER_INSTANCE": instance.name,
        "DEREGISTER_SERVICE": instance.service,
        "DEREGISTER_ADDRESS": instance.address,
        "DEREGISTER_PORT": str(instance.port),
    }
    given = {key: v if isinstance(v, str) else v.read() for key, v in more.items()}
    return {**plain_environment(), **about, **given}


def plain_environment(*names: str) -> dict[str, str]:
    """Return of the agent's own environment what every program needs, and the given *names*."""
    own = {key: os.environ[key] for key in (*PASSED_ON, *names) if key in os.environ}
    return {"PATH": os.defpath, **own}


def completed(run: Run, timeout: float) -> Completed:
    """
    Run the program to its end, and return how it ended and what it printed.

    Raises ProgramError unless it exits within *timeout* seconds, and if it prints more than
    it may. What the program may have left running after its exit is not waited for.
    """
    end = time.monotonic() + timeout
    child = _Child(run)
    try:
        child.follow(timeout, end)
        return child.completed()
    finally:
        child.end()


def output_of(run: Run, timeout: float) -> bytes:
    """Return all that the program printed, as completed(); an exit status but 0 is an error too."""
    ended = completed(run, timeout)
    if ended.status:
        raise ProgramError(ended.why, status=ended.status, complained=bool(ended.errors))
    return ended.output


class Partner:
    """
    A program that is kept running: it prints a line for each line that it is given.

    The program is started at the first question, and again after any failure or end. It
    must end by itself when its standard input does, and when it is not asked for a while.
    """

    def __init__(self) -> None:
        self._running: list[_Child] = []
        weakref.finalize(self, _end_all, self._running)

    def ask(self, run: Run, timeout: float) -> bytes:
        """Return the next line, however long the program runs. ProgramError if none comes."""
        end = time.monotonic() + timeout
        while True:
            kept = bool(self._running)
            if not kept:
                self._running.append(_Child(run, asked=True))
            child = self._running[0]
            try:
                child.ask()
                child.follow(timeout, end, line=True)
            except ProgramError:
                _end_all(self._running)
                raise
            if child.output.endswith(b"\n"):
                return bytes(child.output)
            why = child.completed().why
            _end_all(self._running)
            if not kept:  # a program that was kept may end between two questions
                raise ProgramError(why)


def _end_all(running: list["_Child"]) -> None:
    while running:
        running.pop().end()


class _Child:
    """A program that was started: its process, and what it has printed."""

    def __init__(self, run: Run, *, asked: bool = False) -> None:
        self.output, self.errors = bytearray(), b""
        self._output_limit = run.output_limit
        printed = subprocess.DEVNULL if run.output_limit is None else subprocess.PIPE
        try:
            with _input(run.given) as given:
                self._process = subprocess.Popen(  # noqa: S603 - the operator's own arguments
                    run.command,
                    stdin=subprocess.PIPE if asked else given,
                    stdout=printed,
                    stderr=subprocess.STDOUT if run.merged else subprocess.PIPE,
                    env=run.environment,
                    cwd=run.folder,
                    start_new_session=True,
                )
        except (OSError, ValueError, subprocess.SubprocessError) as e:
            raise ProgramError(f"it cannot be started: {e}") from e

    def ask(self) -> None:
        """Give the program a line, and forget what it has printed so far."""
        assert self._process.stdin is not None
        self.output, self.errors = bytearray(), b""
        with suppress(BrokenPipeError):  # its end is seen by follow(), with its last words
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()

    def follow(self, timeout: float, end: float, *, line: bool = False) -> None:
        """
        Read until the program exits, or has ended a *line*.

        Raises ProgramError when *end* has come, *timeout* seconds after the beginning, or
        the program has printed more than it may.
        """
        try:
            if not self._followed(end, line=line):
                what = "answer" if line else "end"
                why = f"no {what} within {timeout:g} s; killed, with all it had started"
                raise ProgramError(why + _last_line(self.errors))
        except OSError as e:
            raise ProgramError(f"it cannot be followed: {e}") from e

    def completed(self) -> Completed:
        """Return how the program has ended."""
        return Completed(self._process.wait(), bytes(self.output), self.errors)

    def end(self) -> None:
        """Kill the program and all in its group, unless it has ended; close what leads to it."""
        process = self._process
        if process.returncode is None:  # not reaped yet, so its id is its own
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                process.wait(AFTER_KILL)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _followed(self, end: float, *, line: bool) -> bool:
        """Tell whether the program has exited or ended a *line* before *end*."""
        with selectors.DefaultSelector() as selector:
            for pipe in self._pipes():
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ)
            while (left := end - time.monotonic()) > 0:
                if not selector.get_map():
                    return self._exits_within(left)
                ready = {key.fileobj for key, _ in selector.select(min(left, _EXIT_POLL))}
                for pipe in self._pipes():
                    if pipe in ready and not self._take(pipe):
                        selector.unregister(pipe)
                if line and self.output.endswith(b"\n"):
                    return True
                if self._process.poll() is not None:
                    return self._takes_rest(end)
        return False

    def _exits_within(self, limit: float) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(limit)
        return self._process.returncode is not None

    def _takes_rest(self, end: float) -> bool:
        """Take what an exited program has left in its pipes; False if others go on filling them."""
        for pipe in self._pipes():
            with suppress(BlockingIOError):
                while self._take(pipe):
                    if time.monotonic() >= end:
                        return False
        return True

    def _pipes(self) -> list[IO[bytes]]:
        return [pipe for pipe in (self._process.stdout, self._process.stderr) if pipe is not None]

    def _take(self, pipe: IO[bytes]) -> bool:
        """Read from a pipe that has something; tell whether more may come."""
        more = os.read(pipe.fileno(), PIPE)
        if pipe is self._process.stderr:
            self.errors = (self.errors + more)[-TAIL:]
            return bool(more)
        self.output += more
        if self._output_limit is not None and len(self.output) > self._output_limit:
            raise ProgramError(f"it printed more than {self._output_limit} bytes; killed")
        return bool(more)


@contextmanager
def _input(given: bytes) -> Iterator[int]:
    """Give a descriptor to read *given* from: a file, so that who reads nothing blocks nobody."""
    if not given:
        yield subprocess.DEVNULL
        return
    with os.fdopen(os.memfd_create("given"), "r+b") as file:
        file.write(given)
        file.seek(0)
        yield file.fileno()


def _last_line(errors: bytes) -> str:
    """Return the last line of what a program complained, to be added to a sentence."""
    lines = errors.decode(errors="replace").strip().splitlines()
    return f": {masked(lines[-1])[-LINE:]}" if lines else ""
