"""The command probe, with a program behind it that reads a file of the test."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deregister_agent.probes.command import Options, build

from . import World, orders

PROGRAM = """
import sys, time
text = open(sys.argv[1]).read()
if text == "hang":
    time.sleep(60)
print(text)
"""


@contextmanager
def world() -> Iterator[World]:
    """Give a probe whose program prints what is in a file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "in-hand"
        command = (sys.executable, "-I", "-S", "-c", PROGRAM, str(file))
        probe = build(Options(kind="command", command=command, timeout=3.0), orders(80))

        def say(text: object) -> None:
            file.write_text(str(text))

        say(0)
        yield World(
            probe,
            "tasks",
            say,
            file.unlink,
            lambda: say(0),
            outlives="the program says what is in hand; the agent does not see whose it is",
            strangers="the program says whose work it tells",
            hang=lambda: say("hang"),
        )
