"""The ways to take an instance away before it is replaced: what people do today, and ours."""

import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from compose.haproxy import ByHaproxy
from compose.stack import EVERY, HAPROXY, Local, Stack
from deregister_agent.cli.client import AgentClient, path_of
from deregister_agent.errors import AgentError
from tests.servers.child import wait_until

LIMIT = 60.0  # seconds after which a script gives up and kills all the same
HELD = 30.0  # seconds that the agent may hold an answer
RELOADED = 1.0  # seconds in which Nginx has surely begun to use what a reload has read
ESTABLISHED = "01"  # in /proc/net/tcp (include/net/tcp_states.h)

Step = Callable[[Stack, str], None]


@dataclass(frozen=True, slots=True)
class Way:
    """How an instance leaves, ending with its process gone, and how the next one comes back."""

    slug: str
    what: str
    front: str
    leave: Step
    back: Step
    waits: bool = False  # whether the app's own shutdown waits for its background work
    ours: bool = False


def _kill(stack: Stack, name: str) -> None:
    stack.shops.kill(name)


def _terminate(stack: Stack, name: str) -> None:
    if not isinstance(stack, Local):
        raise TypeError("this way needs processes of this machine")
    stack.processes.terminate(name, LIMIT)


def _out_and_terminate(stack: Stack, name: str) -> None:
    stack.front.out(name)
    _terminate(stack, name)


def _sleep(seconds: float) -> Step:
    def leave(stack: Stack, name: str) -> None:
        stack.front.out(name)
        time.sleep(seconds)
        stack.shops.kill(name)

    return leave


def _zero_connections(every: float, first: float) -> Step:
    """Take it out, wait, and look at the socket table now and then until no connection is left."""

    def leave(stack: Stack, name: str) -> None:
        stack.front.out(name)
        end = time.monotonic() + LIMIT
        time.sleep(first)
        while time.monotonic() < end:
            if not _established(stack.place.app(name)) + _established(stack.place.rpc(name)):
                break
            time.sleep(every)
        stack.shops.kill(name)

    return leave


def _established(place: tuple[str, int]) -> int:
    """Count the connections to an address and a port, as grep does."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    ends = [(line.split()[1], line.split()[3]) for line in lines]
    address = int.from_bytes(socket.inet_aton(place[0]), sys.byteorder)
    return ends.count((f"{address:08X}:{place[1]:04X}", ESTABLISHED))


def _haproxy(stack: Stack, name: str) -> None:
    (front,) = stack.front.every
    if not isinstance(front, ByHaproxy):
        raise TypeError("this way needs HAProxy")
    front.out(name)
    wait_until(lambda: front.sessions(name) == 0, "scur is 0", limit=LIMIT, pause=0.1)
    stack.shops.kill(name)


def _back(stack: Stack, name: str) -> None:
    stack.front.back(name)


def drained(stack: Stack, name: str) -> None:
    """Stop traffic, wait until the agent says drained, and kill. Raises AgentError if not."""
    agent = stack.agent
    answer = agent.post(path_of(name, "stop-traffic"), {"reason": "rolling deploy"})
    if answer.status != 202:
        raise AgentError(answer.detail)
    wait_for(agent, name, "traffic-drained")
    stack.shops.kill(name)


def started(stack: Stack, name: str) -> None:
    """Start traffic, and wait until the agent says that it is back."""
    agent = stack.agent
    agent.post(path_of(name, "start-traffic"), {"reason": "new version is up"})
    wait_for(agent, name, "traffic-started")


def wait_for(agent: AgentClient, name: str, question: str) -> None:
    """Wait for a 200. Raises AgentError with what is blocking if the answer is another one."""
    end = time.monotonic() + 2 * LIMIT
    while time.monotonic() < end:
        answer = agent.get(path_of(name, question), wait=HELD)
        if answer.status == 200:
            return
        if answer.status != 503:
            break
    blocking = "; ".join(answer.body.get("blocking", ())) or answer.detail
    raise AgentError(f"{name}: {question} answered {answer.status}: {blocking}")


WAYS = (
    Way("kill-9", "kill -9", "Consul", _kill, _back),
    Way("sigterm", "SIGTERM, graceful shutdown", "Consul", _terminate, _back, waits=True),
    Way(
        "deregister-sigterm",
        "deregister, SIGTERM at once, graceful",
        "Consul",
        _out_and_terminate,
        _back,
        waits=True,
    ),
    Way("sleep-10", "deregister, sleep 10, kill", "Consul", _sleep(10), _back),
    Way("sleep-30", "deregister, sleep 30, kill", "Consul", _sleep(30), _back),
    Way(
        "established",
        "deregister, grep ESTABLISHED each second, kill",
        "Consul",
        _zero_connections(1.0, first=1.0),
        _back,
    ),
    Way(
        "nginx-down",
        "down, reload, kill at 0 connections",
        "Nginx",
        _zero_connections(0.1, first=RELOADED),
        _back,
    ),
    Way("haproxy-drain", "state drain, kill at scur == 0", HAPROXY, _haproxy, _back),
    Way("ours-consul", "deregister-agent", "Consul", drained, started, ours=True),
    Way("ours-etcd", "deregister-agent", "etcd", drained, started, ours=True),
    Way("ours-nginx", "deregister-agent", "Nginx", drained, started, ours=True),
    Way("ours-every", "deregister-agent", EVERY, drained, started, ours=True),
)
