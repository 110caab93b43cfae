"""Network namespaces: hosts of their own on this machine, that can be cut off from each other."""

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

CLONE_NEWNET = 0x40000000
T = TypeVar("T")


class Hosts:
    """Hosts on one network, 10.77.0.0/24, and the hub on it from which tests reach them all."""

    def __init__(self, count: int) -> None:
        self._mark = f"da{os.getpid()}"
        self.hub = f"{self._mark}hub"
        self.names = [f"{self._mark}m{n}" for n in range(count)]

    def address(self, n: int) -> str:
        """Return the address of host *n*."""
        return f"10.77.0.{n + 11}"

    def before(self, n: int) -> tuple[str, ...]:
        """Return what to put before a command to run it on host *n*."""
        return ("ip", "netns", "exec", self.names[n])

    def cut_off(self, n: int) -> None:
        """Let host *n* reach no other host; the hub still reaches it."""
        for other in range(len(self.names)):
            if other != n:
                _ip("-n", self.names[n], "route", "add", "blackhole", f"{self.address(other)}/32")

    def join(self, n: int) -> None:
        """Undo cut_off()."""
        for other in range(len(self.names)):
            if other != n:
                _ip("-n", self.names[n], "route", "del", "blackhole", f"{self.address(other)}/32")

    def at_hub(self, work: Callable[[], T]) -> T:
        """Run *work* in a thread that is at the hub, as are the threads that it starts."""
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(self._enter_and, work).result()

    def _enter_and(self, work: Callable[[], T]) -> T:
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/run/netns", self.hub).open("rb") as namespace:
            assert libc.setns(namespace.fileno(), CLONE_NEWNET) == 0, ctypes.get_errno()
        return work()

    def make(self) -> None:
        """Make them all."""
        _ip("netns", "add", self.hub)
        _ip("-n", self.hub, "link", "set", "lo", "up")
        _ip("-n", self.hub, "link", "add", "hub", "type", "bridge")
        _ip("-n", self.hub, "addr", "add", "10.77.0.1/24", "dev", "hub")
        _ip("-n", self.hub, "link", "set", "hub", "up")
        for n, name in enumerate(self.names):
            _ip("netns", "add", name)
            ends = ("eth0", "netns", name, "type", "veth", "peer", "name", f"p{n}")
            _ip("-n", self.hub, "link", "add", *ends)
            _ip("-n", self.hub, "link", "set", f"p{n}", "master", "hub", "up")
            _ip("-n", name, "addr", "add", f"{self.address(n)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", "eth0", "up")

    def end(self) -> None:
        """Take them all down."""
        for name in (*self.names, self.hub):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@contextmanager
def hosts(count: int) -> Iterator[Hosts]:
    """Make *count* hosts; skip the test, loudly, where this user may not."""
    made = Hosts(count)
    try:
        try:
            made.make()
        except (OSError, subprocess.CalledProcessError) as e:
            detail = getattr(e, "stderr", b"") or str(e).encode()
            pytest.skip(f"no network namespaces here (root is needed): {detail.decode()}")
        yield made
    finally:
        made.end()


def _ip(*arguments: str) -> None:
    command: Sequence[str] = ("ip", *arguments)
    subprocess.run(command, capture_output=True, check=True, timeout=30)
