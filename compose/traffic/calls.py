"""Calls by gRPC, as a client makes them, and how each can fail."""

import asyncio
from collections.abc import AsyncIterator

import grpc.aio

from compose.shop.rpc import PIECES, SERVICE
from compose.traffic.kinds import LostError, Order

Unary = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
Stream = grpc.aio.UnaryStreamMultiCallable[bytes, bytes]
Talk = grpc.aio.StreamStreamMultiCallable[bytes, bytes]


async def unary(order: Order) -> None:
    """Make a call with one answer."""
    call: Unary = order.channels.to(order.target).unary_unary(f"/{SERVICE}/Unary")
    try:
        answer = await call(_who(order))
    except grpc.aio.AioRpcError as e:
        raise LostError(_cause(e)) from e
    if answer != b"ok":
        raise LostError("wrong answer")


async def stream(order: Order) -> None:
    """Make a call whose answer comes in pieces."""
    call: Stream = order.channels.to(order.target).unary_stream(f"/{SERVICE}/Stream")
    try:
        pieces = [piece async for piece in call(_who(order))]
    except grpc.aio.AioRpcError as e:
        raise LostError(_cause(e)) from e
    if pieces != [b"%d" % number for number in range(PIECES)]:
        raise LostError("wrong answer")


async def talk(order: Order) -> None:
    """Send messages one by one, and have each answered before the next."""
    call: Talk = order.channels.to(order.target).stream_stream(f"/{SERVICE}/Talk")
    answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def messages() -> AsyncIterator[bytes]:
        yield _who(order)
        for number in range(PIECES):
            await answers.get()
            await asyncio.sleep(order.seconds / PIECES)
            yield b"%d" % number

    heard = []
    try:
        async for answer in call(messages()):
            heard.append(answer)
            answers.put_nowait(answer)
    except grpc.aio.AioRpcError as e:
        raise LostError(_cause(e)) from e
    if heard != [_who(order), *(b"%d" % number for number in range(PIECES))]:
        raise LostError("wrong answer")


def _who(order: Order) -> bytes:
    return f"{order.work} {order.seconds}".encode()


def _cause(error: grpc.aio.AioRpcError) -> str:
    return f"gRPC {error.code().name}"
