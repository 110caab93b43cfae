"""
The bridge from ASGI, which the server speaks, to WSGI, which the API is written in.

The server's own bridge was not good enough for long polls: a client that had
left was never noticed, a body too large was answered without a word, and six
threads served everybody (docs/decisions/0004-http-server.md).
"""

import asyncio
import contextlib
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from io import BytesIO
from typing import Any
from urllib.parse import unquote_to_bytes
from wsgiref.types import WSGIApplication

from deregister_agent.api.listen import unix_peer
from deregister_agent.api.problem import ALWAYS, MEDIA_TYPE, Problem, try_later
from deregister_agent.api.trust import UNIX

GONE = "deregister_agent.gone"
"""Key of the WSGI environ: a threading.Event, set when the client has left."""
PEER = "deregister_agent.peer"
"""Key of the WSGI environ: who is at the other end, as far as the kernel knows."""
BODY_LIMIT = 64 * 1024
"""The largest body of a request, in bytes."""

_READ_ON = 1024 * 1024  # read this much of a body too large: else the answer is lost in a reset
_BODY_TIMEOUT = 10.0  # for a whole body, however slowly it comes
_SEND_TIMEOUT = 10.0  # for one piece of an answer to be taken by the client
_SLOT_TIMEOUT = 5.0  # for a thread to come free

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


Check = Callable[[dict[str, Any]], None]
"""Raises Problem for a WSGI environ, whose body has not been read, of who may not ask."""


class WsgiBridge:
    """
    Runs each request of a WSGI app in a thread of its own, at most *threads* at once.

    *check* raises Problem for who may not ask. It sees the head of a request, so that nobody
    without a right takes a thread, or memory for a body.
    The threads are daemons: one that is stuck cannot keep the process from ending.
    """

    def __init__(self, app: WSGIApplication, threads: int, check: Check) -> None:
        self._app, self._check = app, check
        self._slots = asyncio.Semaphore(threads)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI 3.0)."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        if scope["type"] != "http":
            return
        exchange = _Exchange(self._app, scope, send)
        problem = await exchange.read_request(receive, self._check)
        # From here on somebody must take what the client still sends: the server
        # waits for room in its queue, even to say that the client has gone.
        watch = asyncio.create_task(exchange.watch(receive))
        try:
            await self._answer(exchange, problem)
        finally:
            watch.cancel()
            exchange.give_up()

    async def _answer(self, exchange: "_Exchange", problem: Problem | None) -> None:
        if problem is not None:
            await exchange.refuse(problem)
            return
        try:
            await asyncio.wait_for(self._slots.acquire(), _SLOT_TIMEOUT)
        except TimeoutError:
            await exchange.refuse(try_later("too many requests at once; try again"))
            return
        try:
            await in_thread("http", exchange.run_app)
        finally:
            self._slots.release()
        await exchange.finish()


class _Exchange:
    """One request and its answer."""

    def __init__(self, app: WSGIApplication, scope: Message, send: Send) -> None:
        self._app, self._scope, self._send = app, scope, send
        self._loop = asyncio.get_running_loop()
        self._peer = scope["client"][0] if scope.get("client") else unix_peer.get()
        self._gone = threading.Event()
        self._body = b""
        self._start: Message | None = None  # not sent before the first piece of the body is there
        self._started = False

    async def read_request(self, receive: Receive, check: Check) -> Problem | None:
        """Read the body, if the head may pass; or return why the request is refused."""
        if self._scope["http_version"] not in {"1.0", "1.1"}:
            return Problem(505, "this server speaks HTTP/1.1")
        problem: Problem | None = None
        try:
            check(self._environ())
        except Problem as e:
            problem = e
        try:
            async with asyncio.timeout(_BODY_TIMEOUT):
                self._body = await self._read(receive, 0 if problem else BODY_LIMIT + 1)
        except TimeoutError:
            return problem or Problem(408, f"the body did not arrive within {_BODY_TIMEOUT:g} s")
        if len(self._body) > BODY_LIMIT:
            return Problem(413, f"the body is larger than {BODY_LIMIT} bytes")
        return problem

    async def _read(self, receive: Receive, most: int) -> bytes:
        """Read the body, and keep *most* bytes of it."""
        body, size = bytearray(), 0
        while size <= _READ_ON:
            message = await receive()
            if message["type"] == "http.disconnect":
                self._gone.set()
                break
            piece = message.get("body", b"")
            size += len(piece)
            body += piece[: most - len(body)]
            if not message.get("more_body"):
                break
        return bytes(body)

    async def watch(self, receive: Receive) -> None:
        """Note when the client has left."""
        while not self._gone.is_set():
            if (await receive())["type"] == "http.disconnect":
                self._gone.set()

    def give_up(self) -> None:
        """Tell a thread that still works on the answer that nothing more can be sent."""
        self._gone.set()

    async def refuse(self, problem: Problem) -> None:
        """Answer with *problem*, and close: the rest of the request was not read."""
        body = problem.body(self._scope["path"])
        headers = {
            "Content-Type": MEDIA_TYPE,
            "Content-Length": str(len(body)),
            "Connection": "close",
            **ALWAYS,
            **problem.headers,
        }
        self._start = _response_start(problem.status, headers.items())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._emit(body), _SEND_TIMEOUT)
        await self.finish()

    def run_app(self) -> None:
        """Run the app and pass on what it answers, piece by piece. Runs in a thread."""
        if self._gone.is_set():
            return
        pieces = self._app(self._environ(), self._start_response)  # type: ignore[arg-type]
        try:
            for piece in pieces:
                if self._gone.is_set():
                    break
                self._pass_on(piece)
        finally:
            if hasattr(pieces, "close"):
                pieces.close()

    def _pass_on(self, piece: bytes) -> None:
        sent = asyncio.run_coroutine_threadsafe(self._emit(piece), self._loop)
        try:
            sent.result(_SEND_TIMEOUT)
        except TimeoutError:  # the client does not read; nothing more can reach it
            sent.cancel()
            self._gone.set()

    async def finish(self) -> None:
        """End the answer; where none was begun, the server answers 500 by itself."""
        with contextlib.suppress(TimeoutError):
            if self._start is not None and not self._gone.is_set():
                await asyncio.wait_for(self._emit(b"", more=False), _SEND_TIMEOUT)

    async def _emit(self, piece: bytes, *, more: bool = True) -> None:
        if not self._started and self._start is not None:
            self._started = True
            await self._send(self._start)
        await self._send({"type": "http.response.body", "body": piece, "more_body": more})

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: object = None
    ) -> None:
        del exc_info
        self._start = _response_start(int(status.split(" ", 1)[0]), headers)

    def _environ(self) -> dict[str, Any]:
        scope = self._scope
        server = scope.get("server")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": scope["method"],
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(scope["raw_path"]).decode("latin-1"),
            "QUERY_STRING": scope["query_string"].decode("latin-1"),
            "SERVER_NAME": server[0] if server else "localhost",
            "SERVER_PORT": str(server[1]) if server else "0",
            "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": scope["scheme"],
            "wsgi.input": BytesIO(self._body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            UNIX: server is None,  # the server names an address for TCP only
            PEER: self._peer,
            GONE: self._gone,
        }
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            if "_" in name:
                continue  # would be taken for the header with dashes in its place
            key = "HTTP_" + name.upper().replace("-", "_")
            environ[key] = f"{environ[key]},{value}" if key in environ else value
        environ["CONTENT_TYPE"] = environ.pop("HTTP_CONTENT_TYPE", "")
        environ.pop("HTTP_CONTENT_LENGTH", None)
        environ["CONTENT_LENGTH"] = str(len(self._body))
        return environ


def _response_start(status: int, headers: Iterable[tuple[str, str]]) -> Message:
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return {"type": "http.response.start", "status": status, "headers": raw}


async def in_thread(name: str, call: Callable[[], object]) -> None:
    """
    Run *call* in a daemon thread and wait for its end.

    An exception of *call* goes to threading.excepthook, like that of any thread.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    threading.Thread(
        target=_run_and_tell, args=(call, loop, ended.set), name=name, daemon=True
    ).start()
    await ended.wait()


def _run_and_tell(
    call: Callable[[], object], loop: asyncio.AbstractEventLoop, tell: Callable[[], None]
) -> None:
    try:
        call()
    finally:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell)
