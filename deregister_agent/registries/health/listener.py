"""
A port that answers one health check, and nothing else.

It is open to everybody who can reach it, so it gives away nothing and takes nothing:
GET and HEAD of one path, a limit for each step, one request per connection.
"""

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

HEAD_LIMIT = 8192  # bytes
STEP_TIMEOUT = 5.0  # seconds for the head of a request, and for taking the answer
MOST_CONNECTIONS = 256  # connections at once; more are closed
THREADS = 16  # polls that may wait for the app at once
BACKLOG = 128


@dataclass(frozen=True, slots=True)
class HealthAnswer:
    """What is answered; *sent* is called once the last byte is on its way."""

    status: int
    kind: str = "text/plain"
    body: bytes = b""
    sent: Callable[[], None] = lambda: None
    done: Callable[[], None] = lambda: None


Decide = Callable[[str], HealthAnswer]
"""Return the answer to a poll from that address; may block for as long as the app may."""


class HealthListener:
    """Answers polls on a thread of its own until close()."""

    def __init__(self, address: str, port: int, path: str, decide: Decide) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.create_server((address, port), family=family, backlog=BACKLOG)
        self._path, self._decide = path, decide
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="health")
        self._open = 0
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering and give the port back."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._threads.shutdown()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, sock=self._socket, limit=HEAD_LIMIT)
        async with server:
            await self._over.wait()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= MOST_CONNECTIONS:
                await self._exchange(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asks so has not been answered, and is not counted
        finally:
            self._open -= 1
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(STEP_TIMEOUT):
            head = await reader.readuntil(b"\r\n\r\n")
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        target = rest.partition(b" ")[0].partition(b"?")[0].decode("latin-1")
        if target != self._path:
            reply = HealthAnswer(404, body=b"there is nothing here\n")
        elif method not in {b"GET", b"HEAD"}:
            reply = HealthAnswer(405, body=b"use GET\n")
        else:
            peer = writer.get_extra_info("peername")
            if peer is None:
                raise ConnectionResetError("whoever asked has gone already")
            try:
                deciding = self._loop.run_in_executor(self._threads, self._decide, peer[0])
            except RuntimeError as e:  # no thread begins any more: the agent is ending
                raise ConnectionAbortedError("nobody is left to answer") from e
            reply = await deciding
        try:
            writer.transport.set_write_buffer_limits(0)  # so that drain() waits for all of it
            writer.write(_encoded(reply, bodiless=method == b"HEAD"))
            async with asyncio.timeout(STEP_TIMEOUT):
                await writer.drain()
            reply.sent()
        finally:
            reply.done()


def _encoded(reply: HealthAnswer, *, bodiless: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {reply.status} {_phrase(reply.status)}",
        f"Content-Type: {reply.kind}",
        f"Content-Length: {len(reply.body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    head = "".join(f"{line}\r\n" for line in (*lines, ""))
    return head.encode("latin-1", "replace") + (b"" if bodiless else reply.body)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
