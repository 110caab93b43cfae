"""A rolling deploy's view of the stack, and the part of it that one front needs, as processes."""

import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.counter import Commands
from bench.fronts import Front, front
from bench.shop import Place
from bench.sides import Sides
from bench.targets import Doors, Targets, by_door
from compose.hosts import shop
from compose.tables import instance, page, probe, ready, table
from deregister_agent.client import Address, AgentClient
from deregister_agent.errors import AgentError
from tests.servers.child import Child, free_ports, wait_until
from tests.servers.redis import Redis

NAMES = ("shop-1", "shop-2", "shop-3")
QUIET = 1.0
ROOT = Path(__file__).resolve().parents[1]

Command = Callable[[str, Path], Sequence[str]]
"""Returns the command line of an instance that writes into that ledger."""


class Shops:
    """The instances' processes, and what each of them wrote into its ledger."""

    def __init__(self, folder: Path, places: Mapping[str, Place], command: Command) -> None:
        self.folder, self.places = folder, places
        self.ports = {name: port for name, (_, port) in places.items()}
        self.ledgers: dict[str, list[Path]] = {name: [] for name in places}
        self._command, self._running = command, dict[str, Child]()

    def next_ledger(self, name: str) -> Path:
        """Return the file for what the next process of an instance will have had in hand."""
        self.ledgers[name].append(self.folder / f"{name}.{len(self.ledgers[name])}.ledger")
        return self.ledgers[name][-1]

    def start(self, name: str) -> None:
        """Start the next process of an instance, and return once it accepts connections."""
        command = self._command(name, self.next_ledger(name))
        child = Child([sys.executable, *command[1:]], self.folder / f"{name}.log", folder=ROOT)
        self._running[name] = child
        child.wait_ready(lambda: accepts(self.places[name]))

    def kill(self, name: str) -> None:
        """Kill it as hard as can be: what it has in hand is lost."""
        self._running.pop(name).kill()

    def terminate(self, name: str, limit: float) -> None:
        """Send SIGTERM and wait until it has exited, for *limit* seconds; then kill it."""
        child = self._running.pop(name)
        child.signal(signal.SIGTERM)
        with suppress(AssertionError):
            wait_until(lambda: child.process.poll() is not None, "it has exited", limit=limit)
        child.kill()

    def process(self, name: str) -> Child:
        """Return the process that runs now."""
        return self._running[name]

    def close(self) -> None:
        """End them all."""
        for name in list(self._running):
            self.kill(name)


class Agent:
    """The agent's process: it can be killed and started again."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder
        (folder / "agent.toml").write_text(config)
        self.client = AgentClient(Address(f"unix:{folder}/agent.sock"))
        self.child: Child | None = None

    def start(self) -> None:
        """Start it, and return once it answers."""
        serve = ["-m", "deregister_agent", "--config", str(self.folder / "agent.toml"), "serve"]
        self.child = Child([sys.executable, *serve], self.folder / "agent.log", folder=ROOT)
        self.child.wait_ready(self._answers)

    def kill(self) -> None:
        """Kill it in whatever it does."""
        if self.child is not None:
            self.child.kill()

    def close(self) -> None:
        """End it."""
        if self.child is not None:
            self.child.close()

    def _answers(self) -> bool:
        with suppress(AgentError):
            return self.client.get("/v1/instances").status == 200
        return False


@dataclass(frozen=True, slots=True)
class Stack:
    """All of it, running."""

    folder: Path
    counts: Callable[[], tuple[int, Mapping[str, int]]]
    shops: Shops
    front: Front
    agent: Agent  # started only by those who want one
    doors: Doors = field(default_factory=dict)
    queue: Targets = field(default_factory=dict)

    def targets(self) -> Targets:
        """Return where the load sends what now, for each door."""
        return {**by_door(self.front.targets()), **self.queue}

    def counted(self, expected: int, limit: float) -> tuple[int, Mapping[str, int]]:
        """Return Redis' counter and each work's own, once *expected* or *limit* is reached."""
        end = time.monotonic() + limit
        while (counted := self.counts())[0] < expected and time.monotonic() < end:
            time.sleep(0.1)
        return counted


def config(
    folder: Path, shops: Shops, front_: Front, sides: Sides, *, deadline: float = 120.0
) -> str:
    """Return the configuration of one agent for all instances."""
    times = {"quiet": QUIET, "settle": front_.settle, "deadline": deadline}
    return "\n".join(
        [
            table("[agent]", {"journal": f"{folder}/journal.db", "log_format": "text"}),
            table("[server]", {"listen": [f"unix:{folder}/agent.sock"]}),
            *(
                instance(
                    name,
                    place,
                    ready(place),
                    front_.table(name),
                    sides.table(name),
                    probe(page(place)),
                    **times,
                )
                for name, place in shops.places.items()
            ),
        ]
    )


def accepts(place: Place) -> bool:
    """Tell whether somebody accepts connections there."""
    with suppress(OSError), socket.create_connection(place, timeout=5):
        return True
    return False


@contextmanager
def stack(kind: str, *, waits: bool = False, deadline: float = 120.0) -> Iterator[Stack]:
    """Run the stack behind a front of that kind; the agent is configured and not yet started."""
    with ExitStack() as last, tempfile.TemporaryDirectory(prefix="rolling-") as name:
        folder = Path(name)
        redis = last.enter_context(Redis(folder))
        ports = zip(NAMES, free_ports(len(NAMES)), strict=True)
        places = {name: ("127.0.0.1", port) for name, port in ports}

        def command(name: str, ledger: Path) -> list[str]:
            more = [*sides.arguments(name), *(["--wait"] if waits else [])]
            return shop(places[name], ("127.0.0.1", redis.port), str(ledger), *more)

        shops = Shops(folder, places, command)
        sides = Sides(shops.ports, redis.port)
        last.callback(shops.close)
        for one in NAMES:
            shops.start(one)
        server = last.enter_context(front(kind, sides.doors, folder))
        text = "" if kind == "HAProxy" else config(folder, shops, server, sides, deadline=deadline)
        agent = Agent(folder, text)
        last.callback(agent.close)
        counts = last.enter_context(Commands(redis.port)).counted
        yield Stack(folder, counts, shops, server, agent, sides.doors, sides.queue)
        last.close()
