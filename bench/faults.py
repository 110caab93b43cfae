"""The same deploy while something is broken: nothing is lost, and what cannot be proved expires."""

import random
import resource
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from bench.alternatives import HELD, LIMIT, WAYS
from bench.deploy import Result, Took, run
from bench.deploy import replace as replace_one
from bench.loads import Load
from bench.proxies import ByNginx
from bench.stack import NAMES, Stack
from deregister_agent.client import Answer, Unreachable, path_of
from deregister_agent.errors import AgentError
from tests.servers.child import Child, wait_until

START = 5.0  # seconds of load before the deploy
OUTAGE = 6.0  # seconds for which something is away
DEADLINE = 15.0  # seconds for a drain that is to expire

Notes = list[str]
Disturb = Callable[[Stack, threading.Event, Notes], None]
"""Do harm until the deploy is over, and note what was done; the thread of its own ends then."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is broken, and behind which front."""

    what: str
    way: str
    disturb: Disturb
    deadline: float = 120.0


def _phase(here: Stack, name: str) -> str:
    with suppress(AgentError):
        return str(here.agent.client.get(path_of(name)).body["phase"])
    return "unknown"


def _once_draining(here: Stack, over: threading.Event, name: str = NAMES[0]) -> None:
    """Wait until that instance has been withdrawn and still has work in hand."""
    while not over.is_set() and _phase(here, name) not in ("settling", "draining"):
        time.sleep(0.05)


def _frozen_front(here: Stack, over: threading.Event, notes: Notes) -> None:
    _once_draining(here, over)
    here.front.server.stop()
    over.wait(OUTAGE)
    here.front.server.cont()
    notes.append(f"frozen for {OUTAGE:g} s")


def _killed_front(here: Stack, over: threading.Event, notes: Notes) -> None:
    """Kill the registry's only server, which is its leader, and start it again on its data."""
    _once_draining(here, over)
    server = here.front.server
    server.kill()
    over.wait(OUTAGE)
    arguments = server.process.args
    if not isinstance(arguments, list):
        raise TypeError("a server is started from a list")
    Child.__init__(server, arguments, server.log, folder=server.log.parent)
    notes.append(f"killed, back after {OUTAGE:g} s")


def _killed_agent(here: Stack, over: threading.Event, notes: Notes) -> None:
    chance, kills = random.Random(6), 0
    while not over.wait(chance.uniform(0.3, 3.0)):
        here.agent.kill()
        here.agent.start()
        kills += 1
    notes.append(f"the agent was killed {kills} times")


def _hanging_app(here: Stack, over: threading.Event, notes: Notes) -> None:
    """Freeze the app until its drain has expired: nobody knows what it has in hand."""
    _once_draining(here, over)
    app = here.shops.process(NAMES[0])
    app.stop()
    while not over.is_set() and not any("expired" in note for note in notes):
        time.sleep(0.1)
    app.cont()
    notes.append("the app hung")


def _foreign_reloads(here: Stack, over: threading.Event, notes: Notes) -> None:
    front, count = here.front, 0
    if not isinstance(front, ByNginx):
        raise TypeError("this fault needs Nginx")
    while not over.wait(1.5):
        front.reload()
        count += 1
    notes.append(f"{count} reloads by somebody else")


def _full_disk(here: Stack, over: threading.Event, notes: Notes) -> None:
    """Let every write of the agent to a file fail, as on a full disk (man 2 setrlimit, EFBIG)."""
    _once_draining(here, over)
    child = here.agent.child
    if child is None:
        raise TypeError("this fault needs the agent")
    before = resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    over.wait(2 * OUTAGE)
    refused = here.agent.client.post(path_of(NAMES[1], "stop-traffic"), {}).status
    notes.append(f"while nothing could be written: {NAMES[0]} stayed {_phase(here, NAMES[0])}")
    notes.append(f"stop-traffic for {NAMES[1]} answered {refused}")
    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, before)


FAULTS = {
    "consul-frozen": Fault("Consul is frozen", "ours-consul", _frozen_front),
    "consul-killed": Fault("Consul's leader is killed", "ours-consul", _killed_front),
    "etcd-frozen": Fault("etcd is frozen", "ours-etcd", _frozen_front),
    "agent-killed": Fault("the agent is killed at random", "ours-consul", _killed_agent),
    "agent-killed-nginx": Fault("the agent is killed at random", "ours-nginx", _killed_agent),
    "app-hangs": Fault("the app hangs", "ours-consul", _hanging_app, DEADLINE),
    "nginx-reloads": Fault("Nginx is reloaded by others", "ours-nginx", _foreign_reloads),
    "disk-full": Fault("the journal's disk is full", "ours-consul", _full_disk),
}


def under(name: str) -> Callable[[int], Result]:
    """Return the experiment that does one deploy under the fault of that name."""
    fault = FAULTS[name]
    notes: Notes = []
    found = next(way for way in WAYS if way.slug == fault.way)
    patient = _Patient(notes)
    way = replace(found, what=fault.what, leave=patient.leave, back=patient.back)

    def act(here: Stack, load: Load) -> list[Took]:
        del load
        over = threading.Event()
        harm = threading.Thread(target=fault.disturb, args=(here, over, notes))
        time.sleep(START)
        harm.start()
        try:
            return [replace_one(here, way, one) for one in NAMES]
        finally:
            over.set()
            harm.join()

    def measure(rounds: int) -> Result:
        del rounds
        notes.clear()
        return replace(run(way, act, deadline=fault.deadline), notes=tuple(notes))

    return measure


class _Patient:
    """A pipeline that asks again while the agent is away, and drains again what has expired."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def leave(self, here: Stack, name: str) -> None:
        self._ask(here, name, "stop-traffic")
        end = time.monotonic() + LIMIT
        while (answer := self._answer(here, name, "traffic-drained", end)).status != 200:
            if answer.status == 504:
                blocking = "; ".join(answer.body.get("blocking", ()))
                self._notes.append(f"{name} expired: {blocking}")
                self._ask(here, name, "stop-traffic")
            elif answer.status != 503:
                raise AgentError(f"{name}: {answer.status} {answer.detail}")
        here.shops.kill(name)

    def back(self, here: Stack, name: str) -> None:
        self._ask(here, name, "start-traffic")
        end = time.monotonic() + LIMIT
        while (answer := self._answer(here, name, "traffic-started", end)).status != 200:
            if answer.status != 503:
                raise AgentError(f"{name}: {answer.status} {answer.detail}")

    def _ask(self, here: Stack, name: str, what: str) -> None:
        def done() -> bool:
            with suppress(Unreachable):
                body = {"reason": "rolling deploy"}
                return here.agent.client.post(path_of(name, what), body).status == 202
            return False

        wait_until(done, f"{what} is accepted for {name}", limit=LIMIT, pause=0.2)

    def _answer(self, here: Stack, name: str, question: str, end: float) -> Answer:
        """Return an answer; the agent may be away meanwhile."""
        while time.monotonic() < end:
            with suppress(Unreachable):
                return here.agent.client.get(path_of(name, question), wait=HELD)
            time.sleep(0.1)
        raise AgentError(f"{name}: {question} had no good answer in {LIMIT:g} s")
