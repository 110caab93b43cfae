"""
Network namespaces: hosts of their own on this machine, that can be cut off from each other.

A process keeps each of them; whatever ends that process ends the host and its network.
"""

import ctypes
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

import pytest

from tests.servers.child import Child

CLONE_NEWNET = 0x40000000
LONGEST = "3600"  # seconds that a host is kept
T = TypeVar("T")

_AT_HUB_OF: ContextVar["Hosts"] = ContextVar("_AT_HUB_OF")


class Hosts:
    """Hosts on one network, 10.77.0.0/24, and the hub on it from which tests reach them all."""

    def __init__(self, keepers: Sequence[Child]) -> None:
        self._spaces = [f"/proc/{keeper.pid}/ns/net" for keeper in keepers[1:]]
        self._pids = [str(keeper.pid) for keeper in keepers[1:]]
        self._hub = f"/proc/{keepers[0].pid}/ns/net"

    def address(self, n: int) -> str:
        """Return the address of host *n*."""
        return f"10.77.0.{n + 11}"

    def before(self, n: int) -> tuple[str, ...]:
        """Return what to put before a command to run it on host *n*."""
        return ("nsenter", f"--net={self._spaces[n]}")

    def cut_off(self, n: int) -> None:
        """Let host *n* reach no other host; the hub still reaches it."""
        for other in range(len(self._spaces)):
            if other != n:
                _ip(self._spaces[n], "route", "add", "blackhole", f"{self.address(other)}/32")

    def join(self, n: int) -> None:
        """Undo cut_off()."""
        for other in range(len(self._spaces)):
            if other != n:
                _ip(self._spaces[n], "route", "del", "blackhole", f"{self.address(other)}/32")

    def at_hub(self, work: Callable[[], T]) -> T:
        """Run *work* in a thread that is at the hub, as are the threads that it starts."""
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(self._enter_and, work).result()

    def _enter_and(self, work: Callable[[], T]) -> T:
        libc = ctypes.CDLL(None, use_errno=True)
        with Path(self._hub).open("rb") as namespace:
            assert libc.setns(namespace.fileno(), CLONE_NEWNET) == 0, ctypes.get_errno()
        _AT_HUB_OF.set(self)
        return work()

    def connect(self) -> None:
        """Lay the network."""
        _ip(self._hub, "link", "set", "lo", "up")
        _ip(self._hub, "link", "add", "hub", "type", "bridge")
        _ip(self._hub, "addr", "add", "10.77.0.1/24", "dev", "hub")
        _ip(self._hub, "link", "set", "hub", "up")
        for n, space in enumerate(self._spaces):
            ends = ("eth0", "netns", self._pids[n], "type", "veth", "peer", "name", f"p{n}")
            _ip(self._hub, "link", "add", *ends)
            _ip(self._hub, "link", "set", f"p{n}", "master", "hub", "up")
            _ip(space, "addr", "add", f"{self.address(n)}/24", "dev", "eth0")
            _ip(space, "link", "set", "lo", "up")
            _ip(space, "link", "set", "eth0", "up")


@contextmanager
def hosts(count: int) -> Iterator[Hosts]:
    """Make *count* hosts; skip the test, loudly, where this user may not."""
    with ExitStack() as stack:
        try:
            made = Hosts(list(_keepers(stack, count + 1)))
            made.connect()
        except (OSError, AssertionError, subprocess.CalledProcessError) as e:
            detail = getattr(e, "stderr", b"") or str(e).encode()
            pytest.skip(f"no network namespaces here (root is needed): {detail.decode()}")
        yield made


def hosts_around() -> Hosts:
    """Return the hosts at whose hub this thread is."""
    return _AT_HUB_OF.get()


def _keepers(stack: ExitStack, count: int) -> Iterator[Child]:
    """Start processes that are each in a network namespace of their own."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="netns-")))
    ours = Path("/proc/self/ns/net").readlink()
    for _ in range(count):
        command = ("unshare", "--net", "sleep", LONGEST)
        keeper = stack.enter_context(Child(command, folder / "log"))
        space = Path(f"/proc/{keeper.pid}/ns/net")
        keeper.wait_ready(lambda space=space: space.readlink() != ours)  # type: ignore[misc]
        yield keeper


def _ip(space: str, *arguments: str) -> None:
    command: Sequence[str] = ("nsenter", f"--net={space}", "ip", *arguments)
    subprocess.run(command, capture_output=True, check=True, timeout=30)
