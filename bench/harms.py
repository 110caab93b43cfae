"""What is broken during a deploy: each does its harm in the middle of drains, and says so."""

import os
import random
import threading
import time
from contextlib import suppress
from pathlib import Path

from bench.stepped import ahead, step
from compose.clusters import consul_leader
from compose.fronts import ByNginx
from compose.places import CONSULS, NAMES, agent_of
from compose.stack import Local
from deregister_agent.cli.client import path_of
from deregister_agent.errors import AgentError
from tests.servers.child import wait_until

OUTAGE = 6.0  # seconds for which something is away
MINUTES = 600.0  # seconds by which the clock steps: more than a drain may take
PENDING = ("withdrawing", "settling", "draining")


class Report:
    """What was done to a deploy, and in which phase of a drain; it ends with the deploy."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.over = threading.Event()
        self._done = self._in_drains = 0

    def begin(self) -> None:
        """Forget an earlier deploy."""
        self.notes.clear()
        self.over.clear()
        self._done = self._in_drains = 0

    def note(self, what: str) -> None:
        """Keep a fact for the table."""
        self.notes.append(what)

    def harm(self, here: Local) -> None:
        """Count a harm that is done now, and whether an instance is being drained meanwhile."""
        self._done += 1
        self._in_drains += any(phase(here, name) in PENDING for name in NAMES)

    def sum_up(self, what: str) -> None:
        """Say how often it was done, and how often in the middle of a drain."""
        self.note(f"{what} {self._done} times, {self._in_drains} of them during a drain")


def phase(here: Local, name: str) -> str:
    """Return the phase of an instance, as the agent tells."""
    with suppress(AgentError):
        return str(here.agent.get(path_of(name)).body["phase"])
    return "unknown"


def once_draining(here: Local, report: Report, name: str) -> bool:
    """Wait until that instance has been withdrawn and is not yet drained; False: never again."""
    while not report.over.is_set() and phase(here, name) not in ("settling", "draining"):
        time.sleep(0.05)
    return not report.over.is_set()


def freeze_front(here: Local, report: Report) -> None:
    """Freeze the registry's server for a while, once in each drain."""
    children = here.processes.children
    server = next(children[name] for name in (CONSULS[0], "etcd") if name in children)
    for name in NAMES:
        if once_draining(here, report, name):
            report.harm(here)
            server.stop()
            report.over.wait(OUTAGE)
            report.note(f"{name} {phase(here, name)} at the end")
            server.cont()
    report.sum_up(f"frozen for {OUTAGE:g} s,")


def kill_leader(here: Local, report: Report) -> None:
    """Kill the leader of Consul's servers, once in each drain, and start it again on its data."""
    for name in NAMES:
        leader = consul_leader(here.place)
        if once_draining(here, report, name):
            report.harm(here)
            here.processes.kill(leader)
            report.over.wait(OUTAGE)
            report.note(f"{name} {phase(here, name)} at the end")
            here.processes.start(leader)
    report.sum_up(f"killed, back after {OUTAGE:g} s,")


def cut_off_leader(here: Local, report: Report) -> None:
    """Cut the leader off from the other members, where clients still reach it."""
    if here.cluster is None:
        raise TypeError("this fault needs a cluster of etcd")
    for name in NAMES:
        if once_draining(here, report, name):
            report.harm(here)
            with here.cluster.without_leader():
                report.over.wait(OUTAGE)
                report.note(f"{name} {phase(here, name)} at the end")
    report.sum_up(f"its leader cut off for {OUTAGE:g} s,")


def kill_agent(here: Local, report: Report) -> None:
    """Kill an agent now and then, one that drains if one does, and start it again at once."""
    chance = random.Random(6)
    while not report.over.wait(chance.uniform(0.3, 5.0)):
        report.harm(here)
        idle = {agent_of(name) for name in NAMES if phase(here, name) not in PENDING}
        busy = [agent for agent in here.place.agents if agent not in idle]
        agent = chance.choice(busy or here.place.agents)
        here.processes.kill(agent)
        here.processes.start(agent)
    report.sum_up("an agent was killed")


def hang_app(here: Local, report: Report) -> None:
    """Freeze the app until its drain has expired: nobody knows what it has in hand."""
    if not once_draining(here, report, NAMES[0]):
        return
    report.harm(here)
    app = here.processes.children[NAMES[0]]
    app.stop()
    while not report.over.is_set() and not any("expired" in note for note in report.notes):
        time.sleep(0.1)
    app.cont()
    report.sum_up("the app hung")


def reload_front(here: Local, report: Report) -> None:
    """Reload Nginx again and again, as another program would."""
    front = ByNginx(here.place)
    while not report.over.wait(1.5):
        report.harm(here)
        front.reload()
    report.sum_up("reloaded")


def fill_disk(here: Local, report: Report) -> None:
    """Fill the disk with the journal to the last byte, and make room again."""
    disk = disk_of(here)
    for name, other in zip(NAMES, (*NAMES[1:], NAMES[0]), strict=True):
        if once_draining(here, report, name):
            before = phase(here, name)
            report.harm(here)
            ballast = _fill(disk)
            refused = here.agent.post(path_of(other, "stop-traffic"), {}).status
            report.over.wait(OUTAGE)
            report.note(f"{name} was {before}, then {phase(here, name)}; {other}: {refused}")
            ballast.unlink()
    report.sum_up(f"full for {OUTAGE:g} s,")


def disk_of(here: Local) -> Path:
    """Return where the disk with the journals is mounted."""
    return Path(here.place.root, "small")


def _fill(disk: Path) -> Path:
    """Write until nothing more can be written (man 2 write, ENOSPC)."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    room = os.statvfs(disk).f_bavail
    if room:
        raise AssertionError(f"{disk} still has {room} blocks free")
    return ballast


def step_clock(here: Local, report: Report) -> None:
    """Step the agents' clock forwards, and then backwards, in the middle of each drain."""
    for name in NAMES:
        if once_draining(here, report, name):
            said = [_step(here, report, name, offset) for offset in (MINUTES, -MINUTES)]
            report.note(f"{name} {', '.join(said)}")
    step(here, 0.0)
    report.sum_up("stepped")


def _step(here: Local, report: Report, name: str, offset: float) -> str:
    """Step, and return the phase once the agent goes by the new time."""
    report.harm(here)
    step(here, offset)
    wait_until(lambda: abs(ahead(here, name) - offset) < OUTAGE, "it goes by the new time")
    report.over.wait(1.0)
    return f"{phase(here, name)} at {offset:+g} s"
