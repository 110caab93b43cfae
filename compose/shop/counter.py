"""Just enough of a client of Redis, in which work counts what it has finished."""

import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

COUNTER, DONE = "shop:counter", "shop:done"
QUEUE, GROUP = "shop:queue", "shop"
"""A stream of messages, and the group of consumers that shares them."""
LIMIT = 5.0  # seconds for one command


def encoded(*words: str) -> bytes:
    """Return one command as Redis wants it."""
    parts = [b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(parts)


class Commands:
    """A connection that sends commands and reads replies (RESP 2, redis.io/docs)."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._socket = socket.create_connection((host, port), timeout=LIMIT)
        self._stream = self._socket.makefile("rb")

    def call(self, *words: str) -> Any:
        """Send one command and return its reply. Raises OSError, also when Redis says no."""
        self._send(words)
        return self._reply()

    def finished(self, work: str, *also: str) -> None:
        """
        Count a piece of work as finished: one more, and once more under its name.

        *also* is one more command; either all of this is done or none.
        """
        more = (also,) if also else ()
        counts = (("INCR", COUNTER), ("HINCRBY", DONE, work, "1"))
        commands = (("MULTI",), *counts, *more, ("EXEC",))
        for words in commands:
            self._send(words)
        for _ in commands:
            self._reply()

    def counted(self) -> tuple[int, Mapping[str, int]]:
        """Return the counter, and how often each piece of work was finished."""
        flat = self.call("HGETALL", DONE)
        by_name = {k.decode(): int(v) for k, v in zip(flat[::2], flat[1::2], strict=True)}
        return int(self.call("GET", COUNTER) or 0), by_name

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()
        self._socket.close()

    def __enter__(self) -> Self:
        """Return itself: it is connected."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()

    def _send(self, words: tuple[str, ...]) -> None:
        self._socket.sendall(encoded(*words))

    def _reply(self) -> Any:
        line = self._stream.readline()
        kind, rest = line[:1], line[1:].strip()
        match kind:
            case b"+":
                return rest
            case b":":
                return int(rest)
            case b"$":
                return None if int(rest) < 0 else self._stream.read(int(rest) + 2)[:-2]
            case b"*":
                return [self._reply() for _ in range(int(rest))]
        raise OSError(f"Redis said {line!r}")
