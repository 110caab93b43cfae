"""What notifiers are tried with: an event, a server that takes it, a process to end."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from deregister_agent.host.clock import SystemClock
from deregister_agent.model import Announcement, Event, Instance, Process

ORDERS = Instance("orders-1", "orders", "127.0.0.1", 8080)


def event(kind: Announcement = Announcement.DRAINED, process: Process | None = None) -> Event:
    """Return an announcement about an instance."""
    detail = {"reason": "deploy 4711", "took": 3.5}
    return Event("evt-1", kind, ORDERS, "drain-1", 1795232700.25, detail, process)


def wait_for(condition: Callable[[], object], what: str, limit: float = 20.0) -> None:
    """Wait until *condition* holds; fail if it does not within a generous time."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.01)


def descriptors(*of: str) -> list[str]:
    """Return what this process has open whose name has one of these words in it."""
    names = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them has gone already
            names.append(str(descriptor.readlink()))
    return sorted(name for name in names if any(word in name for word in of))


def started(pid: int) -> int:
    """Return the start time of a process, as the kernel tells it (man 5 proc_pid_stat)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def identity(*pids: int) -> Process:
    """Return what the agent would know of these processes."""
    return Process(SystemClock().boot_id(), tuple((pid, started(pid)) for pid in pids))


class Receiver(ThreadingHTTPServer):
    """Keeps what it was sent, and answers with the status it was told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.status = 204
        self.answer = b""
        self.sent: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hooks?team=orders"


class _Answering(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.sent.append((self.path, headers, body))
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(self.server.answer)))
        self.send_header("location", "/elsewhere")
        self.end_headers()
        self.wfile.write(self.server.answer)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run a receiver for as long as the block lasts."""
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
