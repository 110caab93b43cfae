"""Pipes that nobody reads."""

import os
from contextlib import suppress


def full_pipe() -> tuple[int, int]:
    """Return the two ends of a pipe that is full: whoever writes there waits."""
    reader, writer = os.pipe()
    fill(writer)
    return reader, writer


def fill(writer: int) -> None:
    """Write ``x`` into a pipe until there is no room for one more."""
    os.set_blocking(writer, False)
    for size in (1000, 1):
        with suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * size)
    os.set_blocking(writer, True)
