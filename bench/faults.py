"""The same deploy while something is broken: nothing is lost, and what cannot be proved expires."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bench import harms
from bench.harms import Report
from bench.stepped import stepped
from compose.alternatives import HELD, WAYS, Way
from compose.clusters import MEMBERS
from compose.places import NAMES
from compose.rollout import Result, Took, run
from compose.rollout import replace as replace_one
from compose.stack import CONSUL_CLUSTER, ETCD_CLUSTER, Local, Stack
from compose.traffic.loads import Load
from deregister_agent.cli.client import AgentAnswer, Unreachable, path_of
from deregister_agent.errors import AgentError
from tests.servers.child import wait_until
from tests.servers.netns import hosts

START = 5.0  # seconds of load before the deploy
LIMIT = 240.0  # seconds that the pipeline has patience for: more than what is broken may cost
DEADLINE = 15.0  # seconds for a drain that is to expire
ROOM = "4m"  # the size of a small disk, for tmpfs

Disturb = Callable[[Local, Report], None]
"""Do harm until the deploy is over, and report it; the thread of its own ends then."""
Prepare = Callable[[Local], AbstractContextManager[object]]
"""Make ready what can be broken, until the block ends."""
Where = Callable[[Callable[[], Result]], Result]
"""Run a deploy in the place that the fault needs."""


def _here(work: Callable[[], Result]) -> Result:
    return work()


def _between_hosts(work: Callable[[], Result]) -> Result:
    """Run it at the hub of a network of hosts, one for each member of etcd."""
    with hosts(MEMBERS) as net:
        return net.at_hub(work)


@contextmanager
def _on_a_small_disk(here: Local) -> Iterator[None]:
    """Give all agents journals on a disk of their own, which can be filled."""
    disk = harms.disk_of(here)
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here (root is needed): {done.stderr.strip()}")
    try:
        for agent in here.place.agents:
            here.processes.kill(agent)
            folder = Path(here.place.state(agent))
            shutil.rmtree(folder)
            (disk / agent).mkdir(mode=0o700)
            folder.symlink_to(disk / agent)
        here.start_agents()
        yield
    finally:
        for agent in here.place.agents:
            here.processes.kill(agent)
        subprocess.run(["umount", str(disk)], check=True, capture_output=True)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is broken, behind which front, and what that takes."""

    what: str
    way: str
    disturb: Disturb
    deadline: float = 120.0
    prepare: Prepare = nullcontext
    where: Where = _here
    front: str = ""  # another one than that of the way


FAULTS = {
    "consul-frozen": Fault("Consul is frozen", "ours-consul", harms.freeze_front),
    "consul-killed": Fault(
        "Consul's leader is killed", "ours-consul", harms.kill_leader, front=CONSUL_CLUSTER
    ),
    "etcd-frozen": Fault("etcd is frozen", "ours-etcd", harms.freeze_front),
    "etcd-cut-off": Fault(
        "etcd's leader is cut off",
        "ours-etcd",
        harms.cut_off_leader,
        where=_between_hosts,
        front=ETCD_CLUSTER,
    ),
    "agent-killed": Fault("the agent is killed at random", "ours-consul", harms.kill_agent),
    "agent-killed-nginx": Fault("the agent is killed at random", "ours-nginx", harms.kill_agent),
    "app-hangs": Fault("the app hangs", "ours-consul", harms.hang_app, DEADLINE),
    "nginx-reloads": Fault("Nginx is reloaded by others", "ours-nginx", harms.reload_front),
    "disk-full": Fault(
        "the journal's disk is full",
        "ours-consul",
        harms.fill_disk,
        prepare=_on_a_small_disk,
    ),
    "clock-steps": Fault(
        "the clock steps by 10 minutes",
        "ours-consul",
        harms.step_clock,
        prepare=stepped,
    ),
}


def under(name: str) -> Callable[[int], Result]:
    """Return the experiment that does one deploy under the fault of that name."""
    fault = FAULTS[name]
    report = Report()
    found = next(way for way in WAYS if way.slug == fault.way)
    patient = _Patient(report)
    front = fault.front or found.front
    way = replace(found, what=fault.what, front=front, leave=patient.leave, back=patient.back)

    def act(here: Local, load: Load) -> list[Took]:
        del load
        with fault.prepare(here):
            return _disturbed(fault, way, here, report)

    def measure(rounds: int) -> Result:
        del rounds
        report.begin()
        try:
            result = fault.where(lambda: run(way, act, deadline=fault.deadline))
        except pytest.skip.Exception as e:
            report.note(f"NOT RUN: {e}")
            result = _nothing(way)
        as_named = replace(result.way, front=found.front)
        return replace(result, way=as_named, notes=tuple(report.notes))

    return measure


def _disturbed(fault: Fault, way: Way, here: Local, report: Report) -> list[Took]:
    time.sleep(START)
    with ThreadPoolExecutor(1) as pool:
        harm = pool.submit(fault.disturb, here, report)
        try:
            return [replace_one(here, way, one) for one in NAMES]
        finally:
            report.over.set()
            harm.result(LIMIT)


def _nothing(way: Way) -> Result:
    return Result(way, time.monotonic(), (), (), 0, 0, {}, (), 0, 0)


class _Patient:
    """A pipeline that asks again while the agent is away, and drains again what has expired."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def leave(self, here: Stack, name: str) -> None:
        self._ask(here, name, "stop-traffic")
        end = time.monotonic() + LIMIT
        while (answer := self._answer(here, name, "traffic-drained", end)).status != 200:
            if answer.status == 504:
                blocking = "; ".join(answer.body.get("blocking", ()))
                self._report.note(f"{name} expired: {blocking}")
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
                return here.agent.post(path_of(name, what), body).status == 202
            return False

        wait_until(done, f"{what} is accepted for {name}", limit=LIMIT, pause=0.2)

    def _answer(self, here: Stack, name: str, question: str, end: float) -> AgentAnswer:
        """Return an answer; the agent may be away meanwhile."""
        while time.monotonic() < end:
            with suppress(Unreachable):
                return here.agent.get(path_of(name, question), wait=HELD)
            time.sleep(0.1)
        raise AgentError(f"{name}: {question} had no good answer in {LIMIT:g} s")
