"""
Clients that keep their connections, and an app that notes what it was asked and over which one.

Each order is posted once, with a number of its own, whatever comes of it: a client that would
repeat a POST by itself is told not to, so what was lost, or done twice, shows in the record.
"""

import asyncio
import http.client
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import requests

RECORD = '''
import json, os
from pathlib import Path
from deregister_agent.app import Work

work = Work(os.path.abspath("board"), token="secret")
record = os.open("record", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def note(order, peer):
    """One line for each order handled: its number, and the connection that it came over."""
    os.write(record, f"{order} {peer}\\n".encode())
    return b"done " + str(order).encode()
'''
WSGI = (
    RECORD
    + """
def shop(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    answer = note(environ["PATH_INFO"][1:], environ.get("REMOTE_PORT", "?"))
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]

app = work.wsgi(shop)
"""
)
WRAPPED = (
    WSGI
    + """
def outermost(environ, start_response, inner=app):
    return inner(environ, lambda *given: start_response(*given))

app = outermost
"""
)
"""Another middleware stands between the library's and the server."""
ASGI = (
    RECORD
    + """
async def shop(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (said := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": said["text"]})
        return
    while (await receive()).get("more_body"):
        pass
    answer = note(scope["path"][1:], scope["client"][1])
    headers = [(b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})

app = work.asgi(shop)
"""
)

READY = "ready"  # is no order: whoever asks for it looks whether the app can be reached
Orders = Callable[[], str | None]
"""Gives the URL of the next order; None when there are no more."""
Keep = Callable[[str, bytes], None]
"""Takes the answer to an order."""


def post_requests(orders: Orders, keep: Keep) -> None:
    """Post with requests."""
    with requests.Session() as session:
        session.trust_env = False
        while url := orders():
            keep(url, session.post(url, data=b"x", timeout=30).content)


def post_httpx(orders: Orders, keep: Keep) -> None:
    """Post with httpx."""
    with httpx.Client(trust_env=False, timeout=30) as client:
        while url := orders():
            keep(url, client.post(url, content=b"x").content)


def post_http_client(orders: Orders, keep: Keep) -> None:
    """Post with Python's own client, which comes again by itself after a close that was told."""
    url = orders()
    if url is None:
        return
    with closing(http.client.HTTPConnection(url.split("/")[2], timeout=30)) as client:
        while url:
            client.request("POST", "/" + url.rpartition("/")[2], body=b"x")
            keep(url, client.getresponse().read())
            url = orders()


def post_aiohttp(orders: Orders, keep: Keep) -> None:
    """Post with aiohttp."""

    async def all_of_them() -> None:
        limit = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(timeout=limit) as session:
            while url := orders():
                async with session.post(url, data=b"x") as answer:
                    keep(url, await answer.read())

    asyncio.run(all_of_them())


CLIENTS = {
    "requests": post_requests,
    "httpx": post_httpx,
    "http.client": post_http_client,
    "aiohttp": post_aiohttp,
}


class Load:
    """Some clients at work; each order has a number, and must be answered once."""

    def __init__(self, client: str, base: str, threads: int) -> None:
        self._client, self._base = client, base
        self._lock, self._sent, self._over = threading.Lock(), 0, False
        self.answered: dict[str, bytes] = {}
        self.errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def count(self) -> int:
        """How many orders were answered so far."""
        return len(self.answered)

    def end(self) -> int:
        """Let each client finish its order; return how many were sent."""
        self._over = True
        for thread in self._threads:
            thread.join(60)
        return self._sent

    def _run(self) -> None:
        try:
            CLIENTS[self._client](self._order, self._keep)
        except (OSError, http.client.HTTPException, httpx.HTTPError, aiohttp.ClientError) as e:
            self.errors.append(e)

    def _order(self) -> str | None:
        with self._lock:
            if self._over:
                return None
            self._sent += 1
            return f"{self._base}/{self._client}-{self._sent}"

    def _keep(self, url: str, answer: bytes) -> None:
        self.answered[url.rpartition("/")[2]] = answer


def handled(folder: Path) -> list[tuple[str, str]]:
    """Return the orders that the app noted so far, each with its connection."""
    lines = (line.split() for line in (folder / "record").read_text().splitlines())
    return [(order, peer) for order, peer in lines if order != READY]


def twice(record: list[tuple[str, str]]) -> dict[str, int]:
    """Return the orders that were handled more than once."""
    return {order: n for order, n in Counter(order for order, _ in record).items() if n > 1}


def uses(record: list[tuple[str, str]]) -> Any:
    """Return how many orders came over each connection."""
    return Counter(peer for _, peer in record)
