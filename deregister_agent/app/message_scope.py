"""An ASGI scope that lives as long as its server: each message in it counts, and not the scope."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from deregister_agent.app.board import Ticket
from deregister_agent.app.threads import CountedRequest, Part

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class MessageScope:
    """
    A consumer of messages, such as those of a worker of Channels.

    A message counts from the moment in which the app has received it until the app waits
    for the next one, or has ended; and from the call of the app on until it first waits.
    Where the server shows its queue (asgiref/server.py hands its ``get`` to the app), the
    next message counts before the last one has ended: there is no moment with nothing in
    hand while messages wait. Threads that a message begins are part of it.
    """

    def __init__(self, begin: Callable[[], Ticket], receive: Receive) -> None:
        self._begin, self._receive = begin, receive
        self._empty = getattr(getattr(receive, "__self__", None), "empty", None)
        self._message: CountedRequest | None = CountedRequest(begin())

    async def receive(self) -> MutableMapping[str, Any]:
        """Give the app its next message."""
        if self._empty is None or self._empty():
            self.end()
        message = await self._receive()
        before, self._message = self._message, CountedRequest(self._begin())
        if before is not None:
            before.end_part()
        return message

    def part(self) -> Part:
        """Return a part of the message at hand, or of a piece of work that is all its own."""
        part = self._message.part() if self._message is not None else None
        return part or Part(CountedRequest(self._begin()))

    def end(self) -> None:
        """End the message at hand, if there is one."""
        message, self._message = self._message, None
        if message is not None:
            message.end_part()
