"""The whole stack as plain processes: real servers, each on its own addresses of loopback."""

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import SystemRandom
from typing import Any

import requests

from bench.counter import Commands
from bench.stack import ROOT, Shops, Stack, accepts
from compose.configs import files
from compose.described import services
from compose.hosts import agent_of, app
from compose.places import CONSUL, NAMES, NUMBERS, REDIS, Place, Service
from compose.whole import Agents, AllFronts, ByInstance, Whole
from deregister_agent.client import Address, AgentClient
from tests.servers import find, locate
from tests.servers.apt import fetch
from tests.servers.child import Child
from tests.servers.nginx import program
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.table import Server

PROMETHEUS = Server(
    "prometheus", "bookworm", ("libc6", "prometheus"), "usr/bin/prometheus", "prometheus, version"
)
ELSEWHERE = ("broker", "grafana", *NAMES)  # started in another way, or not at all
_FOLDERS = ("/run/deregister-agent", "/var/lib/deregister-agent", "/tmp")  # noqa: S108 - below root
ENDED = 60.0  # seconds that something that runs once may take


class Processes(Whole):
    """The stack in a folder, on addresses that nobody else has."""

    def __init__(self, folder: Path, last: ExitStack) -> None:
        self._folder, self._last = folder, last
        self._children: dict[str, Child] = {}
        (folder / "broker").mkdir()
        broker = last.enter_context(RabbitMQ(folder / "broker"))
        self.place = Place(_free_net(), str(folder), ("127.0.0.1", broker.port))
        self._write()
        places = {name: self.place.app(name) for name in NAMES}
        shops = Shops(folder, places, lambda name, ledger: app(self.place, name, str(ledger)))
        last.callback(shops.close)
        for service in services(self.place):
            self._start(service, shops)
        clients = {name: AgentClient(Address(f"unix:{self._socket(name)}")) for name in NAMES}
        counts = last.enter_context(Commands(REDIS, self.place.at("redis"))).counted
        self.stack = Stack(folder, counts, shops, AllFronts(), Agents(ByInstance(clients)))

    def ask(self, urls: Sequence[str]) -> list[Any]:
        """Return the JSON at each URL."""
        return [requests.get(url, timeout=10).json() for url in urls]

    def load_result(self) -> str:
        """End the load, and return what it wrote."""
        load = self._children["load"].process
        load.terminate()
        load.wait(ENDED)
        return Path(self.place.scratch("load", "load.json")).read_text()

    def log(self, service: str) -> str:
        """Return all that a service has written."""
        return self._children[service].log.read_text()

    def _start(self, service: Service, shops: Shops) -> None:
        """Start a service and wait until it is ready; those before it are."""
        if service.name in NAMES:
            shops.start(service.name)
        if service.name in ELSEWHERE or service.command[0] == "sleep":
            return
        for path in (self.place.file(path, service.name) for path in _FOLDERS):
            Path(path).mkdir(parents=True, exist_ok=True)
        log = self._folder / f"{service.name}.log"
        programs = {"PATH": f"{self._folder}/bin:{os.environ['PATH']}"}
        child = self._last.enter_context(
            Child(list(service.command), log, environment=programs, folder=ROOT)
        )
        self._children[service.name] = child
        if service.once:
            if child.process.wait(ENDED):
                raise AssertionError(f"{service.name} failed:\n{child.tail()}")
        else:
            address = self.place.at(service.name)
            child.wait_ready(lambda: accepts((address, service.port)))

    def _socket(self, name: str) -> str:
        return self.place.file("/run/deregister-agent/agent.sock", agent_of(name))

    def _write(self) -> None:
        """Write what the services read, and a folder of the programs that they run."""
        inside = self._folder / "stack"
        for name, text in files(self.place).items():
            (inside / name).parent.mkdir(parents=True, exist_ok=True)
            (inside / name).write_text(text)
        shutil.copy(ROOT / "compose" / "prepare.sh", inside)
        programs = self._folder / "bin"
        programs.mkdir()
        for name, command in _programs(self._folder).items():
            (programs / name).write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
            (programs / name).chmod(0o755)


def _programs(folder: Path) -> dict[str, list[str]]:
    """Return what each name in the description stands for on this machine."""
    if locate(PROMETHEUS) is None:
        fetch(PROMETHEUS)
        locate.cache_clear()
    return {
        "python": [sys.executable],
        "deregister-agent": [sys.executable, "-m", "deregister_agent"],
        "consul": find("consul"),
        "etcd": find("etcd-3.5"),
        "redis-server": find("redis"),
        "nginx": [str(program("nginx-1.22", folder))],
        "prometheus": list(locate(PROMETHEUS) or ()),
    }


def _free_net() -> str:
    """Return the beginning of loopback addresses on which no Consul server listens."""
    chance = SystemRandom()
    while True:
        net = f"127.{chance.randrange(1, 255)}.{chance.randrange(1, 255)}"
        if not accepts((f"{net}.{NUMBERS['consul-server']}", CONSUL)):
            return net


@contextmanager
def processes() -> Iterator[Whole]:
    """Run the whole stack, and end it with all that it started."""
    with tempfile.TemporaryDirectory(prefix="stack-") as name, ExitStack() as last:
        Path(name).chmod(0o755)  # Nginx' workers are somebody else, where its master is root
        whole = Processes(Path(name), last)
        whole.wait_serving()
        yield whole
