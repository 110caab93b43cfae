"""The described services as plain processes: real servers, on addresses that nobody else has."""

import os
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import SystemRandom

from compose.configs import files
from compose.described import services
from compose.places import NUMBERS, REDIS, Place
from tests.servers import find, locate
from tests.servers.apt import fetch
from tests.servers.child import Child, wait_until
from tests.servers.nginx import program
from tests.servers.table import Server

ROOT = Path(__file__).resolve().parents[1]
PROMETHEUS = Server(
    "prometheus", "bookworm", ("libc6", "prometheus"), "usr/bin/prometheus", "prometheus, version"
)
_FOLDERS = ("/run/deregister-agent", "/var/lib/deregister-agent", "/tmp")
LIMIT = 60.0  # seconds until a service is ready, and those that run once have ended


class Processes:
    """
    Those of one place, by name, started one by one; each may be killed and started again.

    A machine is none, nor is Grafana: those are in containers only.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.services = {
            each.name: each
            for each in services(place)
            if each.command and each.command[0] != "sleep"
        }
        self.children: dict[str, Child] = {}
        self._write()

    def start(self, name: str) -> None:
        """Start a service, and return once it is ready; those that it needs are."""
        service = self.services[name]
        for path in (self.place.file(path, name) for path in _FOLDERS):
            Path(path).mkdir(parents=True, exist_ok=True)
        programs = {"PATH": f"{self.place.root}/bin:{os.environ['PATH']}"}
        child = Child(list(service.command), self._log(name), environment=programs, folder=ROOT)
        self.children[name] = child
        if not service.once:
            child.wait_ready(lambda: accepts((self.place.at(name), service.port)), limit=LIMIT)
        elif child.process.wait(LIMIT):
            raise AssertionError(f"{name} failed:\n{child.tail()}")

    def kill(self, name: str) -> None:
        """Kill a service as hard as can be."""
        self.children[name].kill()

    def terminate(self, name: str, limit: float) -> None:
        """Send SIGTERM and wait until it has exited, for *limit* seconds; then kill it."""
        child = self.children[name]
        child.signal(signal.SIGTERM)
        with suppress(AssertionError):
            wait_until(lambda: child.process.poll() is not None, "it has exited", limit=limit)
        child.kill()

    def log(self, name: str) -> str:
        """Return all that a service has written."""
        return self._log(name).read_text(errors="replace")

    def use(self, name: str, command: Sequence[str]) -> None:
        """Let a program that services run be this command, from their next start on."""
        wrapper = Path(self.place.root, "bin", name)
        wrapper.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        wrapper.chmod(0o755)

    def close(self) -> None:
        """End them all: nothing of them is needed any more."""
        for child in reversed(self.children.values()):
            child.kill()

    def _log(self, name: str) -> Path:
        return Path(self.place.root, f"{name}.log")

    def _write(self) -> None:
        """Write what the services read, and a folder of the programs that they run."""
        root = Path(self.place.root)
        for name, text in files(self.place).items():
            path = root / "stack" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        shutil.copy(ROOT / "compose" / "prepare.sh", root / "stack")
        (root / "bin").mkdir()
        run = {service.command[0] for service in self.services.values()}
        for name, found in _programs(root).items():
            if name in run:
                self.use(name, found())


def _programs(folder: Path) -> Mapping[str, Callable[[], Sequence[str]]]:
    """Return what each name in the description stands for on this machine."""
    return {
        "python": lambda: [sys.executable],
        "deregister-agent": lambda: [sys.executable, "-m", "deregister_agent"],
        "consul": lambda: find("consul"),
        "etcd": lambda: find("etcd-3.5"),
        "redis-server": lambda: find("redis"),
        "nginx": lambda: [str(program("nginx-1.26", folder / "stack"))],
        "prometheus": _prometheus,
    }


def _prometheus() -> Sequence[str]:
    if locate(PROMETHEUS) is None:
        fetch(PROMETHEUS)
        locate.cache_clear()
    return locate(PROMETHEUS) or ()


def accepts(place: tuple[str, int]) -> bool:
    """Tell whether somebody accepts connections there."""
    with suppress(OSError), socket.create_connection(place, timeout=5):
        return True
    return False


def free_net() -> str:
    """Return the beginning of loopback addresses on which no Redis listens."""
    chance = SystemRandom()
    while True:
        net = f"127.{chance.randrange(1, 255)}.{chance.randrange(1, 255)}"
        if not accepts((f"{net}.{NUMBERS['redis']}", REDIS)):
            return net
