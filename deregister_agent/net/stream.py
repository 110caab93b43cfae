"""An answer that comes line by line, each with a deadline of its own."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import requests

from deregister_agent.net.connections import Call

PIECE = 65536

Explain = Callable[[Call, float], AbstractContextManager[None]]
"""Turns what goes wrong inside it, in a call of so many seconds, into a FetchError."""


class Stream:
    """
    An answer without a known end. Made by Fetcher.stream(), for one thread.

    ``status`` is the HTTP status. After an error it is over.
    """

    def __init__(
        self, response: requests.Response, call: Call, explain: Explain, line_limit: int
    ) -> None:
        self.status = response.status_code
        self._raw = response.raw
        self._call, self._explain, self._line_limit = call, explain, line_limit
        self._rest = bytearray()
        self._searched = 0  # this much of the rest is known to have no end of a line

    def line(self, timeout: float) -> bytes | None:
        """
        Return the next line, without its end, as soon as it is there; None after the last.

        Raises FetchError if that takes more than *timeout* seconds, or the line is too long.
        """
        self._call.deadline = time.monotonic() + timeout
        with self._explain(self._call, timeout):
            while (end := self._rest.find(b"\n", self._searched)) < 0:
                self._searched = len(self._rest)
                if self._searched > self._line_limit:
                    raise OSError(0, f"a line of its answer has over {self._line_limit} bytes")
                piece = self._raw.read1(PIECE, decode_content=False)  # what there is, at once
                if not piece:
                    return self._take(len(self._rest)) or None
                self._rest += piece
            return self._take(end)

    def _take(self, end: int) -> bytes:
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        self._searched = 0
        return line
