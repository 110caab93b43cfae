"""Requests of every kind, as clients make them, and how each can fail."""

import asyncio
import base64
import os
import select
import time
from asyncio import IncompleteReadError, StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from compose.shop.app import PIECES
from compose.shop.counter import QUEUE, encoded
from compose.traffic.channels import Channels

PIECE = 1000  # bytes of an upload sent at a time
PING, PONG = 0x89, 0x8A  # RFC 6455, 5.5
IDLE = 5.0  # seconds that a client keeps a connection it does not use

Wire = tuple[StreamReader, StreamWriter]
Request = Callable[["Order"], Awaitable[None]]


class LostError(Exception):
    """The request was not answered as it should have been; the message is the cause."""


@dataclass(frozen=True, slots=True)
class Order:
    """One request: its name, where it goes, and how many seconds it is to take."""

    work: str
    target: str
    seconds: float
    pool: "Pool"
    channels: Channels

    def path(self, page: str) -> str:
        """Return the request target."""
        return f"/{page}?id={self.work}&seconds={self.seconds}"


class Pool:
    """Connections that are kept alive, by target: as an HTTP library does for its user."""

    def __init__(self) -> None:
        self.retried = 0  # requests on a kept connection that had been closed just then
        self._idle: dict[str, list[tuple[float, Wire]]] = {}

    async def get(self, order: Order) -> None:
        """
        Send a GET on a kept connection, or on a new one.

        A connection that is closed before a byte of the answer has come may have been
        idle to the server: then the request is sent once more, which RFC 9110 (9.2.2)
        allows for idempotent methods and every HTTP library does.
        """
        kept = self._take(order.target)
        if kept is not None:
            try:
                await self._once(order, kept)
            except (ConnectionError, IncompleteReadError) as e:
                if isinstance(e, IncompleteReadError) and e.partial:
                    raise
                self.retried += 1
            else:
                return
        await self._once(order, await _connected(order.target))

    async def _once(self, order: Order, wire: Wire) -> None:
        try:
            _send(wire, "GET", order.path("work"), "")
            _expect(await _answer(wire[0]), 200, b"ok")
        except BaseException:
            wire[1].close()
            raise
        self._idle.setdefault(order.target, []).append((time.monotonic(), wire))

    def _take(self, target: str) -> Wire | None:
        """Return a connection that seems to be open; close those that have been idle too long."""
        for kept in self._idle.values():
            while kept and time.monotonic() - kept[0][0] > IDLE:
                kept.pop(0)[1][1].close()
        mine = self._idle.get(target, [])
        while mine:
            _, wire = mine.pop()
            connection = wire[1].get_extra_info("socket")
            if not select.select([connection.fileno()], [], [], 0)[0]:
                return wire
            wire[1].close()
        return None

    def close(self) -> None:
        """Close them all."""
        for kept in self._idle.values():
            for _, wire in kept:
                wire[1].close()


async def plain(order: Order) -> None:
    """Send a request on a connection of its own."""
    await _one(order, "GET", "work", 200, b"ok")


async def later(order: Order) -> None:
    """Send a request that is answered at once, and whose work is done afterwards."""
    await _one(order, "POST", "later", 202, b"accepted")


async def stream(order: Order) -> None:
    """Ask for an answer that comes in pieces."""
    await _one(order, "GET", "stream", 200, b"".join(b"%d\n" % n for n in range(PIECES)))


async def events(order: Order) -> None:
    """Read server-sent events, as many as there should be."""
    body = b"".join(b"data: %d\n\n" % n for n in range(PIECES))
    await _one(order, "GET", "sse", 200, body)


async def keep_alive(order: Order) -> None:
    """Send a request on a connection that is used again."""
    await order.pool.get(order)


async def upload(order: Order) -> None:
    """Send a body slowly."""
    wire = await _connected(order.target)
    try:
        length = f"Content-Length: {PIECES * PIECE}\r\nConnection: close\r\n"
        _send(wire, "POST", order.path("upload"), length)
        for _ in range(PIECES):
            await asyncio.sleep(order.seconds / PIECES)
            wire[1].write(b"u" * PIECE)
            await wire[1].drain()
        _expect(await _answer(wire[0]), 200, b"%d" % (PIECES * PIECE))
    finally:
        wire[1].close()


async def websocket(order: Order) -> None:
    """Exchange small text frames (RFC 6455), and close."""
    wire = await _connected(order.target)
    reader, writer = wire
    try:
        key = base64.b64encode(os.urandom(16)).decode()
        upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        _send(wire, "GET", order.path("ws"), f"{upgrade}Sec-WebSocket-Key: {key}\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in head.partition(b"\r\n")[0]:
            raise LostError(f"HTTP {head.split(b' ')[1].decode()}")
        for _ in range(PIECES):
            await asyncio.sleep(order.seconds / PIECES)
            writer.write(_frame(0x81, b"hello"))
            if await _heard(wire) != (0x81, b"hello"):
                raise LostError("closed by the server")
        writer.write(_frame(0x88, b"\x03\xe8"))
        if (await _heard(wire))[0] != 0x88:
            raise LostError("closed by the server")
    finally:
        writer.close()


async def message(order: Order) -> None:
    """Put a message into the queue; the broker's answer says that it has it."""
    wire = await _connected(order.target)
    try:
        fields = ("work", order.work, "seconds", str(order.seconds))
        wire[1].write(encoded("XADD", QUEUE, "*", *fields))
        if not (await wire[0].readuntil(b"\r\n")).startswith(b"$"):
            raise LostError("the broker did not take it")
    finally:
        wire[1].close()


async def _heard(wire: Wire) -> tuple[int, bytes]:
    """Return the next short frame; a ping, which servers send now and then, is answered."""
    while True:
        kind, size = await wire[0].readexactly(2)
        text = await wire[0].readexactly(size)
        if kind != PING:
            return kind, text
        wire[1].write(_frame(PONG, text))


def _frame(kind: int, text: bytes) -> bytes:
    """Return a masked frame; the mask is zero, which changes nothing."""
    return bytes([kind, 0x80 | len(text), 0, 0, 0, 0]) + text


async def _one(order: Order, method: str, page: str, status: int, body: bytes) -> None:
    wire = await _connected(order.target)
    try:
        length = "Content-Length: 0\r\n" if method == "POST" else ""
        _send(wire, method, order.path(page), f"{length}Connection: close\r\n")
        _expect(await _answer(wire[0]), status, body)
    finally:
        wire[1].close()


async def _connected(target: str) -> Wire:
    host, _, port = target.rpartition(":")
    return await asyncio.open_connection(host, int(port))


def _send(wire: Wire, method: str, path: str, headers: str) -> None:
    wire[1].write(f"{method} {path} HTTP/1.1\r\nHost: shop\r\n{headers}\r\n".encode())


async def _answer(reader: StreamReader) -> tuple[int, bytes]:
    """Return status and body, of a known length, chunked, or to the end of the connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = int(head.split(" ", 2)[1])
    if "content-length:" in head:
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        return status, await reader.readexactly(length)
    if "transfer-encoding: chunked" not in head:
        return status, await reader.read()
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return status, body


def _expect(answer: tuple[int, bytes], status: int, body: bytes) -> None:
    if answer[0] != status:
        raise LostError(f"HTTP {answer[0]}")
    if answer[1] != body:
        raise LostError("wrong answer")
