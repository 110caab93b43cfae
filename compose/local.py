"""The whole stack as plain processes of this machine, with no container."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import requests

from compose.places import Place
from compose.processes import free_net
from compose.stack import Local, running
from compose.whole import Whole
from tests.servers.rabbitmq import RabbitMQ

ENDED = 60.0  # seconds in which the load has had its last answer


class Processes(Whole):
    """The stack while it runs."""

    def __init__(self, here: Local) -> None:
        self.stack, self.place, self._processes = here, here.place, here.processes
        here.start_agents()
        here.processes.start("load")

    def ask(self, urls: Sequence[str]) -> list[Any]:
        """Return the JSON at each URL."""
        return [requests.get(url, timeout=10).json() for url in urls]

    def load_result(self) -> str:
        """End the load, and return what it wrote."""
        self._processes.terminate("load", ENDED)
        return Path(self.place.scratch("load", "load.json")).read_text()

    def log(self, service: str) -> str:
        """Return all that a service has written."""
        return self._processes.log(service)


@contextmanager
def processes() -> Iterator[Whole]:
    """Run the whole stack, and end it with all that it started."""
    with ExitStack() as last:
        folder = Path(last.enter_context(tempfile.TemporaryDirectory()))
        broker = last.enter_context(RabbitMQ(folder))
        place = Place(free_net(), broker=("127.0.0.1", broker.port))
        whole = Processes(last.enter_context(running(place)))
        whole.wait_serving()
        yield whole
