"""An answer that comes line by line, each with a limit of its own."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import requests

PIECE = 65536  # bytes that are read at a time


class Stream:
    """
    An answer without a known end. Made by Fetcher.stream(), for one thread.

    ``status`` is the HTTP status. *explained* turns what goes wrong in its block, which may
    take so many seconds, into a FetchError. After an error the stream is over.
    """

    def __init__(
        self,
        response: requests.Response,
        explained: Callable[[float], AbstractContextManager[None]],
        line_limit: int,
    ) -> None:
        self.status = response.status_code
        self._raw = response.raw
        connection: Any = response.raw.connection
        self._socket = connection.opened
        self._explained, self._line_limit = explained, line_limit
        self._rest = bytearray()
        self._searched = 0  # this much of the rest is known to have no end of a line

    def line(self, timeout: float) -> bytes | None:
        """
        Return the next line, without its end, as soon as it has come; None after the last.

        Raises FetchError if that takes more than *timeout* seconds, or the line is too long.
        """
        with self._explained(timeout):
            if self._socket.fileno() >= 0:  # else all has been read, and there are lines left
                self._socket.settimeout(timeout)
            while (end := self._rest.find(b"\n", self._searched)) < 0:
                self._searched = len(self._rest)
                if self._searched > self._line_limit:
                    raise OSError(0, f"a line of its answer has over {self._line_limit} bytes")
                piece = self._raw.read1(PIECE, decode_content=False)  # what has come, at once
                if not piece:
                    return self._take(len(self._rest)) or None
                self._rest += piece
            return self._take(end)

    def _take(self, end: int) -> bytes:
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        self._searched = 0
        return line
