"""
The few words of Redis' protocol (RESP2) that a probe needs, over one socket, with an end.

https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

import socket
import ssl
import time
from collections.abc import Sequence

from deregister_agent.errors import AgentError

LINE = 65536  # bytes in a line; a reply's bulk strings are limited by what is left of *limit*
DEPTH = 8  # arrays in arrays


class RespError(AgentError):
    """There was no answer, or not one that can be read. A fragment of a sentence: why."""


class Refusal(AgentError):  # noqa: N818 - an answer, not a fault of ours
    """An error that the server answered with: its own words, which begin with a code."""


Reply = str | int | None | list["Reply"] | Refusal


class Line:
    """One connection; everything on it ends *timeout* seconds from its beginning."""

    def __init__(
        self,
        address: tuple[str, int] | str,
        *,
        timeout: float,
        tls: ssl.SSLContext | None = None,
        limit: int = 1_048_576,
    ) -> None:
        self._deadline = time.monotonic() + timeout
        self._timeout = timeout
        self._left = limit
        self._read, self._at = b"", 0  # what has come, and how much of it was taken
        try:
            self._socket = self._opened(address, tls)
        except OSError as e:
            raise self._failed(e) from e

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def ask(self, commands: Sequence[Sequence[str]]) -> list[Reply]:
        """Send *commands* at once, and return the reply to each. Raises RespError."""
        sent = b"".join(_encoded(command) for command in commands)
        try:
            self._socket.settimeout(self._remaining())
            self._socket.sendall(sent)
            return [self._reply(0) for _ in commands]
        except OSError as e:
            raise self._failed(e) from e
        except (ValueError, IndexError) as e:
            raise RespError("it does not speak the protocol of Redis") from e

    def _opened(self, address: tuple[str, int] | str, tls: ssl.SSLContext | None) -> socket.socket:
        if isinstance(address, str):
            plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                plain.settimeout(self._remaining())
                plain.connect(address)
            except OSError:
                plain.close()
                raise
            return plain
        plain = socket.create_connection(address, timeout=self._remaining())
        if tls is None:
            return plain
        try:
            plain.settimeout(self._remaining())
            return tls.wrap_socket(plain, server_hostname=address[0])
        except OSError:
            plain.close()
            raise

    def _remaining(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _failed(self, error: OSError) -> RespError:
        if isinstance(error, TimeoutError):
            return RespError(f"no answer within {self._timeout:g} s")
        if isinstance(error, ssl.SSLError):
            return RespError(f"TLS failed: {error}")
        return RespError(error.strerror or str(error))

    def _more(self) -> None:
        self._socket.settimeout(self._remaining())
        piece = self._socket.recv(65536)
        if not piece:
            raise RespError("its answer breaks off")
        self._left -= len(piece)
        if self._left < 0:
            raise RespError("its answer is too large")
        self._read, self._at = self._read[self._at :] + piece, 0

    def _line(self) -> bytes:
        while (end := self._read.find(b"\r\n", self._at)) < 0:
            if len(self._read) - self._at > LINE:
                raise ValueError("no end of line")
            self._more()
        line, self._at = self._read[self._at : end], end + 2
        return line

    def _reply(self, depth: int) -> Reply:
        line = self._line()
        kind, rest = line[:1], line[1:].decode(errors="replace")
        match kind:
            case b"+":
                return rest
            case b"-":
                return Refusal(rest)
            case b":":
                return int(rest)
            case b"$" if (size := int(rest)) >= 0:
                return self._bulk(size)
            case b"*" if (size := int(rest)) >= 0 and depth < DEPTH:
                return [self._reply(depth + 1) for _ in range(size)]
            case b"$" | b"*" if rest == "-1":
                return None
            case _:
                raise ValueError("no reply")

    def _bulk(self, size: int) -> str:
        if size > self._left + len(self._read):
            raise RespError("its answer is too large")
        while len(self._read) - self._at < size + 2:
            self._more()
        start, self._at = self._at, self._at + size + 2
        return self._read[start : start + size].decode(errors="replace")


def _encoded(command: Sequence[str]) -> bytes:
    words = [word.encode() for word in command]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)
