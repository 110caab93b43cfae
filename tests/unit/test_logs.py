"""The log: nobody who logs waits for whoever reads it, and what is lost is said."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from deregister_agent.cli.logs import BackgroundLines, JsonLines
from tests.pipes import full_pipe

LOG = logging.getLogger("test of the log")


@contextmanager
def logging_to(descriptor: int, most: int = 10) -> Iterator[BackgroundLines]:
    """Let that logger write to *descriptor*, and to nothing else."""
    handler = BackgroundLines(descriptor, most)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    LOG.addHandler(handler)
    LOG.propagate = False
    try:
        yield handler
    finally:
        LOG.removeHandler(handler)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Give the two ends of a pipe that is full: whoever writes there waits."""
    ends = full_pipe()
    yield ends
    for end in ends:
        os.close(end)


def text_of(end: int, until: str) -> list[str]:
    """Read from a pipe until a line holds *until*; return the lines, without what filled it."""
    found = b""
    while until.encode() not in found:
        found += os.read(end, 65536)
    return found.decode().lstrip("x").splitlines()


def test_nobody_waits_for_a_log_that_nobody_reads(pipe: tuple[int, int]) -> None:
    """Lines beyond those that may wait are lost; how many, is said before the next one."""
    reader, writer = pipe
    with logging_to(writer, most=10) as handler:
        for number in range(40):
            LOG.warning("line %d", number)
        handler.flush()  # gives up after a moment
        lines = text_of(reader, "line 9")
        handler.flush()
        LOG.warning("the next")
        lines += text_of(reader, "the next")
    kept = [line for line in lines if "line" in line and "lost" not in line]
    assert kept[:10] == [f"WARNING line {number}" for number in range(10)]
    said = [line for line in lines if "lost" in line]
    (told,) = said
    assert told.startswith(f"WARNING {40 - len(kept)} lines of this log are lost")
    assert lines[-1] == "WARNING the next"


def test_a_log_that_cannot_be_written_is_no_error() -> None:
    """Nobody at the other end, then somebody again: the loss is said to them."""
    reader, writer = os.pipe()
    os.close(reader)
    with logging_to(writer) as handler:
        LOG.warning("to nobody")
        handler.flush()
        again, other = os.pipe()
        os.dup2(other, writer)
        LOG.warning("to somebody")
        lines = text_of(again, "somebody")
    assert lines[0].startswith("WARNING 1 lines of this log are lost")
    for end in (writer, again, other):
        os.close(end)


def test_a_terminal_that_somebody_made_non_blocking_gets_every_line(
    pipe: tuple[int, int],
) -> None:
    """The flag belongs to all who share it; a write that does not fit is no loss."""
    reader, writer = pipe
    os.set_blocking(writer, False)
    with logging_to(writer) as handler:
        LOG.warning("first")
        LOG.warning("last")
        assert text_of(reader, "last") == ["WARNING first", "WARNING last"]
        handler.flush()


def test_an_exception_stands_in_its_own_key() -> None:
    """As before, though the line is written by another thread."""
    reader, writer = os.pipe()
    with logging_to(writer) as handler:
        handler.setFormatter(JsonLines())
        try:
            int("on purpose")
        except ValueError:
            LOG.exception("failed with %s", "this")
        line = json.loads(text_of(reader, "\n")[0])
    assert line["message"] == "failed with this"
    assert line["exception"].endswith("'on purpose'")
    for end in (reader, writer):
        os.close(end)


PROGRAM = """
import logging, sys
from deregister_agent.cli import logs
logs.setup("text", "info")
logging.getLogger("a").info("the last words")
"""


def test_the_last_lines_are_out_when_the_program_ends() -> None:
    """Also where it ends at once."""
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
        assert done.stderr.decode().endswith("the last words\n")


def _close(descriptors: tuple[int, ...]) -> None:
    for one in descriptors:
        os.close(one)


@pytest.mark.parametrize("closed", [(2,), (0, 1, 2), (1,)])
def test_a_closed_stream_is_opened_on_nothing(closed: tuple[int, ...]) -> None:
    """What is opened next would get its number, and the log would go there."""
    program = PROGRAM + "sys.exit(open('/dev/zero').fileno() not in (0, 1, 2) and 7)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        preexec_fn=partial(_close, closed),
        check=False,
    )
    assert done.returncode == 7
