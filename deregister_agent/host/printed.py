"""What a program prints while it runs: read from its pipes, with a limit and an end."""

import os
import selectors
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO

PIPE = 65536  # a whole pipe (man 7 pipe)
TAIL = 4096  # bytes of standard error that are kept
LINE = 300  # characters of its last line that are shown


class Printed:
    """What a program has printed: all of its output, and the end of its errors."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit  # bytes of output; None: it goes nowhere
        self.output = bytearray()
        self.errors = b""

    @property
    def too_much(self) -> bool:
        """Whether its output is longer than it may be."""
        return self._limit is not None and len(self.output) > self._limit

    def last_words(self) -> str:
        """Return the last line of its errors, to be added to a sentence."""
        lines = self.errors.decode(errors="replace").strip().splitlines()
        return f": {lines[-1][-LINE:]}" if lines else ""

    def follow(self, process: subprocess.Popen[bytes], end: float, *, line: bool = False) -> bool:
        """Read until it exits, has ended a *line*, or *end* has come; False: only that."""
        exit_seen = os.pidfd_open(process.pid)
        pipes = ((process.stdout, self._take_output), (process.stderr, self._take_errors))
        takers = {pipe: take for pipe, take in pipes if pipe is not None}
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(exit_seen, selectors.EVENT_READ)
                for pipe in takers:
                    os.set_blocking(pipe.fileno(), False)
                    selector.register(pipe, selectors.EVENT_READ)
                while not self.too_much and (left := end - time.monotonic()) > 0:
                    ready = {key.fileobj for key, _ in selector.select(left)}
                    for pipe, take in takers.items():
                        if pipe in ready and not take(pipe):
                            selector.unregister(pipe)
                    if line and self.output.endswith(b"\n"):
                        return True
                    if exit_seen in ready:
                        for pipe, take in takers.items():
                            self._take_rest(pipe, take)
                        process.wait()
                        return True
        finally:
            os.close(exit_seen)
        return False

    def _take_output(self, pipe: IO[bytes]) -> bool:
        more = os.read(pipe.fileno(), PIPE)
        self.output += more
        return bool(more)

    def _take_errors(self, pipe: IO[bytes]) -> bool:
        more = os.read(pipe.fileno(), PIPE)
        self.errors = (self.errors + more)[-TAIL:]
        return bool(more)

    def _take_rest(self, pipe: IO[bytes], take: Callable[[IO[bytes]], bool]) -> None:
        """Take what the program has left in a pipe: it has exited, so no more of it comes."""
        with suppress(BlockingIOError):
            while not self.too_much and take(pipe):
                pass
