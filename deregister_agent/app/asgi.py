"""ASGI: a request counts until the app and each of its threads have ended, tasks included."""

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

from deregister_agent.app.board import KINDS, Ticket
from deregister_agent.app.kept_connections import asgi_send
from deregister_agent.app.message_scope import MessageScope
from deregister_agent.app.page import POLL, Exchange, PageRequest, WorkPage
from deregister_agent.app.threads import CountedRequest, current, watch

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Message, Receive, Send], Awaitable[None]]

REQUESTS, WEBSOCKETS = KINDS.index("requests"), KINDS.index("websockets")
MESSAGES = KINDS.index("messages")
SCOPES = {
    "http": REQUESTS,
    "websocket": WEBSOCKETS,
    "webtransport": WEBSOCKETS,  # a session, too
    "message": MESSAGES,  # AMGI calls the app once for each message
}
"""What one call of the app is, by the type of its scope; any other type is a request."""
BY_MESSAGE = {"channel", "mqtt"}
"""
Scopes that live as long as the server, with a message for each piece of work.

Channels' ``runworker`` (channels/worker.py) and mqttasgi (mqttasgi/server.py). What lives as
long and does not stand here counts as one request: such a drain does not end, and says why.
"""


class AsgiWork:
    """The middleware: it counts requests, sessions and messages, and answers the page itself."""

    def __init__(
        self,
        app: AsgiApp,
        begin: Callable[[int], Ticket],
        page: WorkPage,
        letting_go: Callable[[], bool],
    ) -> None:
        self._app, self._begin, self._page = app, begin, page
        self._letting_go = letting_go
        self._watched: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or serve one WebSocket, or one consumer of messages."""
        kind = scope["type"]
        path = scope.get("path", "").removeprefix(scope.get("root_path", "").rstrip("/"))
        if kind == "http" and self._page.has(path):
            await self._answer(scope, path, send)
        elif kind == "lifespan" or path in self._page.ignored:
            await self._app(scope, receive, asgi_send(scope, send, self._letting_go))
        elif kind in BY_MESSAGE:
            await self._consume(scope, receive, send)
        else:
            await self._count(
                CountedRequest(self._begin(SCOPES.get(kind, REQUESTS))), scope, receive, send
            )

    async def _count(
        self, request: CountedRequest, scope: Message, receive: Receive, send: Send
    ) -> None:
        before = current.set(request)
        try:
            self._watch_threads()
            await self._served(scope, receive, send)
        finally:
            current.reset(before)
            request.end_part()

    async def _consume(self, scope: Message, receive: Receive, send: Send) -> None:
        messages = MessageScope(partial(self._begin, MESSAGES), receive)
        before = current.set(messages)
        try:
            self._watch_threads()
            await self._app(scope, messages.receive, send)
        finally:
            current.reset(before)
            messages.end()

    def _watch_threads(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # trio: it has no such loop
            return
        if loop is not self._watched:
            watch(loop)
            self._watched = loop

    async def _served(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, asgi_send(scope, send, self._letting_go))
        except Exception:
            # A background task may fail when the answer is on its way, and is no end of that.
            await _sent(send)
            raise
        await _sent(send)

    async def _answer(self, scope: Message, path: str, send: Send) -> None:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        asked = PageRequest(
            method=scope["method"],
            path=path,
            query=scope.get("query_string", b"").decode("latin-1"),
            authorization=headers.get(b"authorization", ""),
            origin=headers.get(b"origin", ""),
        )
        exchange = self._page.exchange(asked)
        await _held(exchange)
        status, fields, body = exchange.answer()
        start = {
            "type": "http.response.start",
            "status": status,
            "headers": [(n.lower().encode(), v.encode("latin-1")) for n, v in fields],
        }
        await send(start)
        await send({"type": "http.response.body", "body": b"" if asked.method == "HEAD" else body})


async def _held(exchange: Exchange) -> None:
    """Hold a request without holding the event loop. Under trio it is answered at once."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    end = time.monotonic() + exchange.hold
    # Another process may end the wait: there is no event to wait for.
    while not exchange.over() and time.monotonic() < end:  # noqa: ASYNC110 - see above
        await asyncio.sleep(POLL)


async def _sent(send: Send) -> None:
    """
    Wait until the server has handed the last byte to the kernel, where that can be seen.

    uvicorn takes a whole answer into its own buffer and lets the app return while
    a slow client has yet to read it. Its ``send`` belongs to an object with the
    connection's transport (uvicorn/protocols/http/h11_impl.py: RequestResponseCycle);
    a lost connection empties the buffer.
    """
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    size = getattr(transport, "get_write_buffer_size", None)
    while size is not None and size() > 0:  # noqa: ASYNC110 - asyncio tells of half-full only
        await asyncio.sleep(POLL)
