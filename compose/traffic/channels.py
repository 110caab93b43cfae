"""gRPC channels as a client of a registry keeps them: one for each target that is listed."""

import asyncio
from collections.abc import Collection

import grpc.aio

GRACE = 45.0  # seconds for the calls on a channel to a target that is listed no more
OPTIONS = (("grpc.use_local_subchannel_pool", 1),)
"""A channel to a target that has come back is a new one: it does not wait as the old one would."""


class Channels:
    """
    Channels by target. Use them in one event loop.

    All else is as gRPC has it: also its transparent retry of a call that the server says
    it has not begun (github.com/grpc/proposal, A6), such as after a GOAWAY.
    """

    def __init__(self) -> None:
        self._open: dict[str, grpc.aio.Channel] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def to(self, target: str) -> grpc.aio.Channel:
        """Return the channel to a target; it connects with the first call."""
        if target not in self._open:
            self._open[target] = grpc.aio.insecure_channel(target, options=OPTIONS)
        return self._open[target]

    def keep(self, listed: Collection[str]) -> None:
        """Let go of the channels to all others, once their calls have ended."""
        for target in self._open.keys() - set(listed):
            task = asyncio.create_task(self._open.pop(target).close(GRACE))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close them all."""
        for channel in self._open.values():
            await channel.close()
        await asyncio.gather(*self._closing)
