"""Two real HTTP servers, each in a process of its own, and a client that talks by hand."""

import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from deregister_agent.demo.stage import free_ports
from deregister_agent.host.sockets import Socket, connections
from deregister_agent.model import Instance
from deregister_agent.probes.tcp import Options, TcpProbe

STILL = 60.0
PAUSE = 40  # ms: several jiffies, so that before and after are told apart

# Both serve: /now at once, /hold never, /pieces with one piece and no end, /big which is large.
PLAIN = """
import socket, ssl, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/hold":
            threading.Event().wait()
        body = b"x" * (30_000_000 if self.path == "/big" else 2)
        self.send_response(200)
        if self.path == "/pieces":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"2\\r\\nxx\\r\\n")
            threading.Event().wait()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

listener = socket.socket(fileno=int(sys.argv[1]))
server = ThreadingHTTPServer(listener.getsockname(), Answers, bind_and_activate=False)
server.socket.close()
server.socket = listener
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2] + "/server.pem", sys.argv[2] + "/server.key")
    context.num_tickets = int(sys.argv[3])
    server.socket = context.wrap_socket(listener, server_side=True)
server.serve_forever()
"""
ASGI = """
import asyncio, sys
from hypercorn.asyncio import serve
from hypercorn.config import Config

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    if scope["type"] == "websocket":
        return await talk(receive, send)
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
    path = scope["path"]
    if path == "/hold":
        await asyncio.Event().wait()
    body = b"x" * (30_000_000 if path == "/big" else 2)
    length = [(b"content-length", str(len(body)).encode())] if path != "/pieces" else []
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": body, "more_body": path == "/pieces"})
    if path == "/pieces":
        await asyncio.Event().wait()

async def talk(receive, send):
    while (message := await receive())["type"] != "websocket.disconnect":
        if message["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        elif message["text"] == "echo":
            await send({"type": "websocket.send", "text": "echo"})

config = Config()
config.bind = ["fd://" + sys.argv[1]]
config.keep_alive_timeout = 3600
config.accesslog = config.errorlog = None
asyncio.run(serve(app, config))
"""


class HandClock:
    """Time as the test wants it: no row waits for ``still`` seconds."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


class Stage:
    """A server, the probe of its port, and the clock by which the probe measures."""

    def __init__(self, stack: ExitStack, code: str, *arguments: str, protocol: int = 0) -> None:
        self._protocol = protocol
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol) as listener:
            listener.bind(("127.0.0.1", *free_ports(1)))
            listener.listen()
            self.port: int = listener.getsockname()[1]
            child = subprocess.Popen(
                [sys.executable, "-c", code, str(listener.fileno()), *arguments],
                pass_fds=[listener.fileno()],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        stack.callback(child.wait)
        stack.callback(child.kill)
        self._stack = stack
        self._enough = threading.Event()
        self._thread: threading.Thread | None = None
        self.wrap: ssl.SSLContext | None = None  # with it, clients speak TLS
        self.clock = HandClock()
        self.meet()

    def meet(self) -> None:
        """Begin with a probe that knows nothing yet."""
        options = Options(kind="tcp", still=STILL)
        self.probe = TcpProbe(
            options, Instance("web", "web", "127.0.0.1", self.port), now=self.clock
        )

    def look(self) -> str:
        """Return what the probe takes the one connection for."""
        (busy, unknown) = self.probe.read(0.0).in_flight.values()
        assert busy + unknown <= 1
        return "busy" if busy else "unknown" if unknown else "idle"

    def look_often(self) -> None:
        """Look every few milliseconds from now on, as during a drain, until look_no_more()."""

        def looks() -> None:
            while not self._enough.wait(0.005):
                self.look()

        self._thread = threading.Thread(target=looks)
        self._thread.start()
        self._stack.callback(self.look_no_more)

    def look_no_more(self) -> None:
        """Look only when told."""
        self._enough.set()
        if self._thread is not None:
            self._thread.join()

    def connect_plain(self) -> socket.socket:
        """Open a connection that is closed at the end of the test."""
        one = socket.socket(socket.AF_INET, socket.SOCK_STREAM, self._protocol)
        self._stack.enter_context(one).settimeout(20)
        one.connect(("127.0.0.1", self.port))
        return one

    def connect(self) -> "Client":
        """Open a connection for a client, with TLS where the server speaks it."""
        plain = self.connect_plain()
        if self.wrap is None:
            return Client(self, plain)
        secure = self.wrap.wrap_socket(plain, server_hostname="127.0.0.1")
        return Client(self, self._stack.enter_context(secure))

    def kernel(self) -> Socket:
        """Return the app's end of the one connection."""
        (found,) = connections(self.port, with_info=True)
        return found

    def taken(self) -> None:
        """Wait until the app has taken what it was sent, and its peer what the app sent."""

        def is_taken() -> bool:
            found = self.kernel()
            return bool(found.inode) and not found.receive_queue and not found.send_queue

        wait_for(is_taken, "everything taken")

    def pause(self) -> None:
        """Wait until nothing has moved for longer than the kernel's clock is coarse."""

        def is_over() -> bool:
            info = self.kernel().info
            return info is not None and min(info.last_data_recv, info.last_data_sent) > PAUSE

        self.taken()
        wait_for(is_over, "a pause")


class Client:
    """The other end of one connection."""

    def __init__(self, stage: Stage, connection: socket.socket) -> None:
        self._stage, self.connection = stage, connection

    def send(self, *requests: str) -> None:
        """Send requests, such as ``GET /now``, in one piece."""
        head = "".join(f"{one} HTTP/1.1\r\nHost: web\r\n\r\n" for one in requests)
        self.connection.sendall(head.encode())

    def until(self, end: bytes) -> None:
        """Read until the answer ends so, then let the probe look."""
        got = b""
        while not got.endswith(end):
            piece = self.connection.recv(65536)
            assert piece, f"closed after {got[-200:]!r}"
            got += piece
        self._stage.look()

    def now(self) -> None:
        """Ask for what is answered at once, and read the answer."""
        self.send("GET /now")
        self.until(b"\r\n\r\nxx")


def wait_for(condition: Callable[[], object], what: str, limit: float = 20.0) -> None:
    """Wait until *condition* holds; fail if it does not within a generous time."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.01)


def trusting(folder: Path, version: ssl.TLSVersion) -> ssl.SSLContext:
    """Return a client's settings for exactly this *version* of TLS."""
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.minimum_version = context.maximum_version = version
    return context
