"""The page on a port of its own, for apps without HTTP and for those whose port is public."""

import errno
import logging
import os
import threading
import time
import weakref
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from urllib.parse import urlsplit

from deregister_agent.app.page import PageRequest, WorkPage, held

RETRY = 0.5  # seconds between two tries for a port that another process of the app has

LONGEST_BODY = 65536  # bytes of a request that are read, and thrown away

_log = logging.getLogger(__name__)


class OwnPort(ThreadingHTTPServer):
    """Serves the page in threads, until close()."""

    daemon_threads = True
    allow_reuse_port = False  # two processes on one port would each tell half the truth

    def __init__(self, address: tuple[str, int], page: WorkPage) -> None:
        self.page = page
        super().__init__(address, _Request)
        _open.add(self)

    def start(self) -> None:
        """Serve in a thread of its own."""
        threading.Thread(
            target=self.serve_forever, args=(0.1,), name="work-page", daemon=True
        ).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """Log a client that has gone at the level of debugging."""
        del request
        _log.debug("a request from %s failed", client_address, exc_info=True)


class _Request(BaseHTTPRequestHandler):
    """One connection, one request."""

    server: OwnPort
    timeout = 10

    def do_GET(self) -> None:
        """Answer the counts."""
        self._answer()

    def do_HEAD(self) -> None:
        """Answer as for GET, without the body."""
        self._answer()

    def do_POST(self) -> None:
        """Stop or start."""
        # Closing a socket with unread data in it would take the answer back (RST).
        self.rfile.read(min(int(self.headers.get("Content-Length") or 0), LONGEST_BODY))
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Keep the page out of the app's standard error."""
        _log.debug(format, *args)

    def _answer(self) -> None:
        url = urlsplit(self.path)
        asked = PageRequest(
            method=self.command,
            path=url.path,
            query=url.query,
            authorization=self.headers.get("Authorization", ""),
            origin=self.headers.get("Origin", ""),
            foreign_host=self._foreign_host(),
            own_port=True,
        )
        status, headers, body = held(self.server.page.exchange(asked))
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _foreign_host(self) -> str:
        host = urlsplit("//" + self.headers.get("Host", "localhost")).hostname or ""
        if host == "localhost" or host == self.server.server_address[0]:
            return ""
        try:
            ip_address(host)
        except ValueError:
            return host
        return ""


def serve(address: tuple[str, int], page: WorkPage, *, shared: bool) -> int:
    """
    Serve the page on *address*, in a thread of its own. Returns the port.

    With shared counts any process may answer for all: the others keep trying, and
    one takes over when the first exits. Without, a second one is an error.
    """
    try:
        server = OwnPort(address, page)
    except OSError as e:
        if e.errno != errno.EADDRINUSE:
            raise
        if not shared:
            raise OSError(
                e.errno,
                f"port {address[1]} is taken; if several processes serve this app, let them "
                'share their counts: Work(shared="/run/<instance>/work")',
            ) from e
        threading.Thread(
            target=_take_over, args=(address, page), name="work-page", daemon=True
        ).start()
        return address[1]
    server.start()
    return int(server.server_address[1])


def _take_over(address: tuple[str, int], page: WorkPage) -> None:
    while True:
        time.sleep(RETRY)
        try:
            server = OwnPort(address, page)
        except OSError:
            continue
        server.serve_forever()
        return


_open: weakref.WeakSet[OwnPort] = weakref.WeakSet()


def _close_inherited() -> None:
    """Let go of the parent's ports: after its end, callers would wait for an answer here."""
    for server in list(_open):
        server.socket.close()
    _open.clear()


os.register_at_fork(after_in_child=_close_inherited)
