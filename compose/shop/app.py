"""
The app: requests of every kind, work that goes on after the answer, messages of a queue.

``python -m compose.shop.app ADDRESS:PORT --redis ADDRESS:PORT --ledger FILE``. What it accepts and
what it finishes it writes into the ledger, unbuffered, so that a kill shows what it took
along. Nothing here takes care of a kill. At SIGTERM uvicorn finishes the requests in hand;
with ``--wait`` the app also waits for its background work, which is as graceful as an app
can be.
"""

import argparse
import asyncio
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import uvicorn

from compose.shop.consumer import Consumer
from compose.shop.counter import Commands
from compose.shop.doors import Doors
from compose.shop.rpc import Calls
from deregister_agent.app import Work

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PIECES = 10  # of a streamed answer, of an upload, of a WebSocket's conversation
KEEP_ALIVE = 75  # seconds; longer than any client keeps an idle connection

Place = tuple[str, int]
"""An address and a port."""


class Ledger:
    """What one process accepted and finished, at which monotonic time; a kill cannot lose it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def accepted(self, work: str, until: float) -> None:
        """Note work that was accepted now, and until when it will be in hand."""
        os.write(self._file, f"+ {work} {time.monotonic():.4f} {until:.4f}\n".encode())

    def finished(self, work: str) -> None:
        """Note that it is finished."""
        os.write(self._file, f"- {work} {time.monotonic():.4f} 0\n".encode())


class Shop:
    """The ASGI app."""

    def __init__(
        self, redis: Place, ledger: Ledger, work: Work, doors: Doors, *, waits: bool
    ) -> None:
        self._redis, self._ledger, self._work, self._waits = redis, ledger, work, waits
        self._doors = doors
        self._connection: Commands | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request, one WebSocket, or the life of the process."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        query = dict(parse_qsl(scope["query_string"].decode()))
        work, seconds = query.get("id", ""), float(query.get("seconds", "0"))
        if not work:
            await _answer(send, 200, b"ok")
            return
        self._ledger.accepted(work, time.monotonic() + seconds)
        if scope["path"] == "/later":
            task = self._work.create_task(self._later(work, seconds))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await _answer(send, 202, b"accepted")
            return
        await self._serve(scope["path"], seconds, receive, send)
        self._ledger.finished(work)

    async def _serve(self, path: str, seconds: float, receive: Receive, send: Send) -> None:
        match path:
            case "/stream" | "/sse":
                await _stream(path, seconds, send)
            case "/upload":
                await _answer(send, 200, b"%d" % await _uploaded(receive))
            case "/ws":
                await _converse(receive, send)
            case _:
                await asyncio.sleep(seconds)
                await _answer(send, 200, b"ok")

    async def _later(self, work: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if self._connection is None:
            self._connection = Commands(self._redis[1], self._redis[0])
        self._connection.finished(work)
        self._ledger.finished(work)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if self._waits:
            await asyncio.to_thread(self._doors.close)
        if self._waits and self._tasks:
            await asyncio.wait(self._tasks)
        await send({"type": "lifespan.shutdown.complete"})


async def _answer(send: Send, status: int, body: bytes) -> None:
    length = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": length})
    await send({"type": "http.response.body", "body": body})


async def _stream(path: str, seconds: float, send: Send) -> None:
    """Send the answer in pieces, spread over the time asked for; events look like events."""
    events = path == "/sse"
    kind = b"text/event-stream" if events else b"application/octet-stream"
    headers = [(b"content-type", kind), (b"x-accel-buffering", b"no")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for number in range(PIECES):
        await asyncio.sleep(seconds / PIECES)
        piece = b"data: %d\n\n" % number if events else b"%d\n" % number
        more = number + 1 < PIECES
        await send({"type": "http.response.body", "body": piece, "more_body": more})


async def _uploaded(receive: Receive) -> int:
    """Return how many bytes came."""
    count = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return count
        count += len(message.get("body", b""))
        if not message.get("more_body"):
            return count


async def _converse(receive: Receive, send: Send) -> None:
    """Say what is said, until the other side closes."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


def place(text: str) -> Place:
    """Return the address and the port of ``ADDRESS:PORT``."""
    address, _, port = text.rpartition(":")
    return address, int(port)


def main() -> None:
    """Serve until killed, or until SIGTERM and everything in hand is finished."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("listen", type=place)
    parser.add_argument("--redis", type=place, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--broker", type=place, help="take messages of its queue")
    parser.add_argument("--rpc", type=place, help="serve gRPC too")
    parser.add_argument("--stream", metavar="NAME", help="take messages of Redis under this name")
    parser.add_argument("--own", type=place, help="where the agent may stop and start it")
    parser.add_argument("--wait", action="store_true", help="at SIGTERM for background work too")
    given = parser.parse_args()
    work, ledger = Work(ignored=["/healthz"]), Ledger(given.ledger)
    if given.own:
        work.serve(given.own[1], given.own[0])
    if given.broker:
        Consumer(given.broker, given.redis, work, ledger)
    doors = Doors(work, ledger)
    if given.rpc:
        doors.add(Calls(given.rpc, work, ledger))
    if given.stream:
        doors.consume(given.redis, given.stream)
    uvicorn.run(
        work.asgi(Shop(given.redis, ledger, work, doors, waits=given.wait)),
        host=given.listen[0],
        port=given.listen[1],
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE,
    )


if __name__ == "__main__":
    main()
