"""A load balancer that polls a health check, and believes it after a few equal answers."""

import http.client
import threading
from types import TracebackType
from typing import Self


class Balancer:
    """Polls from an address of its own (all of 127.0.0.0/8 is loopback) until the block ends."""

    def __init__(
        self, port: int, source: str, *, every: float = 0.05, threshold: int = 2, path: str = "/up"
    ) -> None:
        self.up = True
        self.answers: list[int] = []
        self._port, self._source, self._path = port, source, path
        self._every, self._threshold = every, threshold
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._poll)

    def _poll(self) -> None:
        while not self._over.wait(self._every):
            self.answers.append(self._ask())
            last = {status == 200 for status in self.answers[-self._threshold :]}
            if len(last) == 1 and len(self.answers) >= self._threshold:
                self.up = last.pop()

    def _ask(self) -> int:
        connection = http.client.HTTPConnection(
            "127.0.0.1", self._port, timeout=5, source_address=(self._source, 0)
        )
        try:
            connection.request("GET", self._path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def __enter__(self) -> Self:
        """Begin to poll."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self._over.set()
        self._thread.join()
