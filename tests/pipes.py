"""Pipes that nobody reads."""

import os


def full_pipe() -> tuple[int, int]:
    """Return the two ends of a pipe that is full: whoever writes there waits."""
    reader, writer = os.pipe()
    fill(writer)
    return reader, writer


def fill(writer: int) -> None:
    """Write ``x`` into a pipe until there is no room."""
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 1000)
    except BlockingIOError:
        os.set_blocking(writer, True)
