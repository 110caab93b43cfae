"""An agent whose log nobody reads, or that has none, goes on with its work."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.presence_stage import Host, listed_host
from tests.loops import eventually
from tests.pipes import fill, full_pipe


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Give a host with one instance, in a file of targets."""
    with listed_host(tmp_path) as made:
        yield made


@contextmanager
def agent(host: Host, stderr: int | None) -> Iterator[subprocess.Popen[bytes]]:
    """Run the agent with its log on *stderr*; None: closed."""
    with subprocess.Popen(
        [sys.executable, "-m", "deregister_agent", "serve"],
        env=host.environment(),
        stderr=stderr,
        preexec_fn=None if stderr is not None else lambda: os.close(2),  # noqa: PLW1509
    ) as process:
        try:
            eventually(host._answers, "an answer")
            yield process
        finally:
            process.kill()


def drain_and_restore(host: Host) -> None:
    drained = host.run("drain", "orders-1", "--wait")
    assert (drained.returncode, "safe to kill" in drained.stdout) == (0, True), drained
    restored = host.run("restore", "orders-1", "--wait")
    assert restored.returncode == 0, restored


def test_a_pipe_that_nobody_reads(host: Host) -> None:
    """The drain ends, every answer comes, the agent ends when told, and no line is lost."""
    reader, writer = full_pipe()
    try:
        with agent(host, writer) as process:
            for _ in range(2):
                drain_and_restore(host)
            os.close(writer)
            text = b""
            while text.count(b"-> serving") < 2:
                text += os.read(reader, 65536)
            assert b"lost" not in text
            process.terminate()
            assert process.wait(30) == 0
    finally:
        os.close(reader)


def test_an_agent_ends_though_nobody_reads_its_log(host: Host) -> None:
    """It gives its last lines a moment, and no more."""
    reader, writer = os.pipe()
    with agent(host, writer) as process:
        fill(writer)
        drain_and_restore(host)
        process.terminate()
        assert process.wait(30) == 0
    for end in (reader, writer):
        os.close(end)


@pytest.mark.parametrize("log_format", ["auto", "text", "json"])
def test_a_closed_standard_error(host: Host, log_format: str) -> None:
    """There is no log then, and the agent works, whatever form the log was to have."""
    path = host.root / "agent.toml"
    path.write_text(path.read_text().replace('"text"', f'"{log_format}"'))
    with agent(host, None):
        drain_and_restore(host)


def test_a_reader_that_has_gone(host: Host) -> None:
    """``serve 2>&1 | head -1``: the rest of the log is for nobody."""
    reader, writer = os.pipe()
    with agent(host, writer):
        os.close(writer)
        os.close(reader)
        drain_and_restore(host)
