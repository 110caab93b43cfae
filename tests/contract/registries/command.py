"""Programs behind which is a folder: an instance is listed while a file has its name."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deregister_agent.model import Instance
from deregister_agent.registries.command import CommandRegistry, Options, build
from tests.contract.registries import World

PROGRAM = """
import os, pathlib, socket, sys
what, folder, port = sys.argv[1:]
if port != "0":
    socket.create_connection(("127.0.0.1", int(port))).recv(1)
file = pathlib.Path(folder, os.environ["DEREGISTER_INSTANCE"])
match what:
    case "lists":
        sys.exit(0 if file.exists() else 3)
    case "withdraw":
        file.unlink(missing_ok=True)
    case "restore":
        file.touch()
    case "others":
        print(sum(other != file for other in file.parent.iterdir()))
"""


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Give a folder that lists three instances."""
    for n in range(3):
        (folder / f"orders-{n}").touch()

    def registry(n: int, port: int = 0) -> CommandRegistry:
        def command(what: str) -> tuple[str, ...]:
            return (sys.executable, "-I", "-S", "-c", PROGRAM, what, str(folder), str(port))

        options = Options(
            kind="command",
            lists=command("lists"),
            withdraw=command("withdraw"),
            restore=command("restore"),
            others=command("others"),
            withdrawn_status=3,
            timeout=1.0 if port else 20.0,
        )
        return build(options, Instance(f"orders-{n}", "orders", "127.0.0.1", 8000 + n))

    def at(port: int) -> CommandRegistry:
        return registry(0, port)

    yield World(
        registry=registry(0),
        relist=(folder / "orders-0").touch,
        neighbours=lambda: sum((folder / f"orders-{n}").exists() for n in (1, 2)),
        absent=registry(3),
        silent=at,
        refused=at,
        watches=False,
    )


WORLDS = {"command": world}
