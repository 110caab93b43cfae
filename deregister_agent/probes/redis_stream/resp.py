"""
The few words of Redis' protocol (RESP2) that the probe needs, over one socket, with an end.

https://redis.io/docs/latest/develop/reference/protocol-spec/
Why not the package ``redis``: docs/decisions, number 11.
"""

import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from deregister_agent.errors import AgentError
from deregister_agent.net.sockets import (
    DeadlineSocket,
    DeadlineTlsSocket,
    connect_to_file,
    connect_to_host,
)

ANSWER_LIMIT = 1_048_576  # bytes, of all answers on a connection together
LINE_LIMIT = 65536  # bytes
DEPTH_LIMIT = 8  # arrays in arrays


class RespError(AgentError):
    """There was no answer, or none that can be read. A fragment of a sentence: why."""


class RedisRefusal(AgentError):  # noqa: N818 - an answer, not a fault of ours
    """An error that the server answered with: its own words, which begin with a code."""


RedisReply = str | int | None | list["RedisReply"] | RedisRefusal


class RedisConnection:
    """One connection; everything on it ends *limit* seconds from its beginning."""

    def __init__(
        self, address: tuple[str, int] | str, *, limit: float, tls: ssl.SSLContext | None = None
    ) -> None:
        self._limit, self._left = limit, ANSWER_LIMIT
        with self._in_words():
            self._socket = _connected(address, limit, tls)
        self._answers = self._socket.makefile("rb")

    def close(self) -> None:
        """Close the connection."""
        self._answers.close()
        self._socket.close()

    def ask(self, commands: Sequence[Sequence[str]]) -> list[RedisReply]:
        """Send *commands* at once, and return the reply to each. Raises RespError."""
        try:
            with self._in_words():
                self._socket.sendall(b"".join(_encoded(command) for command in commands))
                return [self._reply(0) for _ in commands]
        except (ValueError, IndexError) as e:
            raise RespError("it does not speak the protocol of Redis") from e

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as e:
            raise RespError(f"no answer within {self._limit:g} s") from e
        except ssl.SSLError as e:
            raise RespError(f"TLS failed: {e}") from e
        except OSError as e:
            raise RespError(e.strerror or str(e)) from e

    def _line(self) -> bytes:
        line = self._answers.readline(LINE_LIMIT)
        self._take(len(line))
        if not line.endswith(b"\n") and len(line) < LINE_LIMIT:
            raise RespError("its answer breaks off")
        if not line.endswith(b"\r\n"):
            raise ValueError("no end of line")
        return line[:-2]

    def _bulk(self, size: int) -> str:
        self._take(size + 2)
        text = self._answers.read(size + 2)
        if len(text) < size + 2:
            raise RespError("its answer breaks off")
        return text[:size].decode(errors="replace")

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise RespError("its answer is too large")

    def _reply(self, depth: int) -> RedisReply:
        line = self._line()
        kind, rest = line[:1], line[1:].decode(errors="replace")
        match kind:
            case b"+":
                return rest
            case b"-":
                return RedisRefusal(rest)
            case b":":
                return int(rest)
            case b"$" if (size := int(rest)) >= 0:
                return self._bulk(size)
            case b"*" if (size := int(rest)) >= 0 and depth < DEPTH_LIMIT:
                return [self._reply(depth + 1) for _ in range(size)]
            case b"$" | b"*" if rest == "-1":
                return None
            case _:
                raise ValueError("no reply")


def _connected(
    address: tuple[str, int] | str, limit: float, tls: ssl.SSLContext | None
) -> DeadlineSocket:
    if isinstance(address, str):
        return connect_to_file(address, time.monotonic() + limit)
    plain = connect_to_host(*address, time.monotonic() + limit)
    if tls is None:
        return plain
    tls.sslsocket_class = DeadlineTlsSocket
    try:
        plain.take_what_is_left()
        secure = tls.wrap_socket(plain, server_hostname=address[0])
    except OSError:
        plain.close()
        raise
    assert isinstance(secure, DeadlineTlsSocket)
    return secure


def _encoded(command: Sequence[str]) -> bytes:
    words = [word.encode() for word in command]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)
