"""A probe of an app in memory: the smallest that keeps the contract."""

from collections.abc import Iterator
from contextlib import contextmanager

from deregister_agent.errors import ProbeError
from deregister_agent.model import Reading
from deregister_agent.ports import IdleProbe

from . import World


class MemoryProbe(IdleProbe):
    """Tells what it was told, or that it does not know."""

    def __init__(self) -> None:
        self.name = "memory"
        self.requests = self.started = 0
        self.known = True

    def read(self, wait: float) -> Reading:
        """Tell what the app has in hand."""
        del wait
        if not self.known:
            raise ProbeError(self.name, "ask the app", "it is lost")
        return Reading({"requests": self.requests}, self.started, "first")

    def busy(self, count: int) -> None:
        """Have so many requests in hand."""
        self.started += max(0, count - self.requests)
        self.requests = count

    def serve(self) -> None:
        """Have had one request in hand."""
        self.started += 1


@contextmanager
def world() -> Iterator[World]:
    """Give a probe whose app is a number."""
    probe = MemoryProbe()

    def know(known: bool) -> None:
        probe.known = known

    yield World(
        probe,
        "requests",
        probe.busy,
        lose=lambda: know(False),
        find=lambda: know(True),
        outlives="there is nobody who waits",
        strangers="there is only one app",
        serve=probe.serve,
    )
