"""The whole stack as local processes: Redis, three instances of the shop, a front, an agent."""

import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.counter import Commands, Redis
from bench.fronts import SERVICE, Front, front
from bench.proxies import accepts
from deregister_agent.client import Address, AgentClient
from deregister_agent.errors import AgentError
from tests.servers.child import Child, free_ports, wait_until

NAMES = ("shop-1", "shop-2", "shop-3")
QUIET = 1.0
ROOT = Path(__file__).resolve().parents[1]

_AGENT = """
[agent]
journal = "{folder}/journal.db"
log_format = "text"
[server]
listen = ["unix:{folder}/agent.sock"]
"""
_INSTANCE = """
[[instance]]
name = "{name}"
service = "{service}"
port = {port}
quiet = {quiet}
settle = {settle}
deadline = {deadline}
[[instance.ready]]
url = "http://127.0.0.1:{port}/healthz"
every = 0.1
{registry}
[[instance.probe]]
kind = "http_json"
url = "http://127.0.0.1:{port}/-/work"
started = "/started"
mark = "/process/mark"
wait_parameter = "wait"
[instance.probe.in_flight]
requests = "/in_flight/requests"
websockets = "/in_flight/websockets"
tasks = "/in_flight/tasks"
"""


class Shops:
    """The instances' processes, and what each of them wrote into its ledger."""

    def __init__(self, folder: Path, redis: int, *, waits: bool, names: Sequence[str]) -> None:
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.ledgers: dict[str, list[Path]] = {name: [] for name in names}
        self._folder, self._redis, self._waits = folder, redis, waits
        self._running: dict[str, Child] = {}

    def start(self, name: str) -> None:
        """Start the next process of an instance, and return once it accepts connections."""
        ledger = self._folder / f"{name}.{len(self.ledgers[name])}.ledger"
        self.ledgers[name].append(ledger)
        port = self.ports[name]
        command = [sys.executable, "-m", "bench.shop", str(port), str(self._redis), str(ledger)]
        if self._waits:
            command.append("wait")
        child = Child(command, self._folder / f"{name}.log", folder=ROOT)
        self._running[name] = child
        child.wait_ready(lambda: accepts(port))

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
    redis: Redis
    shops: Shops
    front: Front
    agent: Agent  # started only by those who want one

    def counted(self, expected: int, limit: float) -> tuple[int, dict[str, int]]:
        """Return Redis' counter and each work's own, once *expected* or *limit* is reached."""
        with Commands(self.redis.port) as connection:
            end = time.monotonic() + limit
            while connection.counted()[0] < expected and time.monotonic() < end:
                time.sleep(0.1)
            counter, by_name = connection.counted()
        return counter, dict(by_name)


def config(folder: Path, shops: Shops, front_: Front, *, deadline: float = 120.0) -> str:
    """Return the configuration of one agent for all instances."""
    return _AGENT.format(folder=folder) + "".join(
        _INSTANCE.format(
            name=name,
            service=SERVICE,
            port=port,
            quiet=QUIET,
            settle=front_.settle,
            deadline=deadline,
            registry=front_.table(name),
        )
        for name, port in shops.ports.items()
    )


@contextmanager
def stack(kind: str, *, waits: bool = False, deadline: float = 120.0) -> Iterator[Stack]:
    """Run the stack behind a front of that kind; the agent is configured and not yet started."""
    with ExitStack() as last, tempfile.TemporaryDirectory(prefix="rolling-") as name:
        folder = Path(name)
        redis = last.enter_context(Redis(folder))
        shops = Shops(folder, redis.port, waits=waits, names=NAMES)
        last.callback(shops.close)
        for one in NAMES:
            shops.start(one)
        server = last.enter_context(front(kind, shops.ports, folder))
        text = "" if kind == "HAProxy" else config(folder, shops, server, deadline=deadline)
        agent = Agent(folder, text)
        last.callback(agent.close)
        yield Stack(folder, redis, shops, server, agent)
        last.close()
