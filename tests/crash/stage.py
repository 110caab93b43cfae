"""The surroundings of a crash: an app with work in hand, a release platform, a registry's truth."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from deregister_agent.cli.client import AgentAddress, AgentAnswer, AgentClient, Unreachable
from deregister_agent.demo.stage import Apps
from tests.crash import victim

LIMIT = 30.0  # seconds that anything may take
_PROCESSES = get_context("forkserver")
_PROCESSES.set_forkserver_preload([victim.__name__])


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for *condition*, for LIMIT seconds at most."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, f"never came true: {what}"
        time.sleep(0.01)


@dataclass
class Platform:
    """The release platform: takes announcements, and notes whether the app had work in hand."""

    busy: threading.Event
    got: list[tuple[str, str, bool]] = field(default_factory=list)  # id, kind, too early

    def ids(self, kind: str) -> set[str]:
        return {each for each, what, _ in self.got if what == kind}

    @contextmanager
    def listening(self) -> Iterator[str]:
        platform = self

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                kind = body["data"]["kind"]
                platform.got.append((self.headers["webhook-id"], kind, platform.busy.is_set()))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class Work:
    """One long request in the app's hands, and when it was over."""

    def __init__(self, port: int, seconds: float) -> None:
        self.busy = threading.Event()
        self.answer = 0
        self._thread = threading.Thread(target=self._ask, args=(port, seconds))

    def _ask(self, port: int, seconds: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
        try:
            connection.request("GET", f"/work?seconds={seconds}")
            self.answer = connection.getresponse().status
        except OSError:
            self.answer = 0  # cut
        finally:
            self.busy.clear()
            connection.close()

    def begin(self) -> None:
        self.busy.set()
        self._thread.start()

    def end(self) -> None:
        if self._thread.ident is not None:
            self._thread.join(LIMIT)


class Busy:
    """Work without a pause, from begin() to end()."""

    def __init__(self, port: int) -> None:
        self.busy, self._port = threading.Event(), port
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(at,)) for at in range(3)]

    def _ask(self, at: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=LIMIT)
        try:
            while not self._over.is_set():
                connection.request("GET", f"/work?seconds={0.3 + at / 10}")
                connection.getresponse().read()
        finally:
            connection.close()

    def begin(self) -> None:
        self.busy.set()
        for each in self._threads:
            each.start()

    def end(self) -> None:
        """Wait until nothing is in hand any more."""
        self._over.set()
        for each in self._threads:
            if each.ident is not None:
                each.join(LIMIT)
        self.busy.clear()


class Victim:
    """
    An agent that may die, and is started again until it does not.

    It is forked from a process that has imported the package, which takes longer than a drain.
    """

    def __init__(self, folder: Path, config: str, *, counting: bool = False) -> None:
        self._counting = counting
        self._armed = folder / "armed"
        self._folder, self._config = folder, folder / "agent.toml"
        self._config.write_text(config)
        self.client = AgentClient(AgentAddress(f"unix:{folder}/agent.sock"))
        self._process: ForkServerProcess | None = None
        self.deaths = 0

    def start(self, die_at: int | str = 0, *, unarmed: bool = False) -> None:
        """Start it, to die at a side effect by its number or name; *unarmed*: after arm()."""
        death = victim.Death(die_at, self._counting, self._armed if unarmed else None)
        files = (self._folder / "count", self._config, self._folder / "agent.log")
        self._process = _PROCESSES.Process(target=victim.run, args=(death, *files))
        self._process.start()

    def arm(self) -> None:
        """Let side effects count from now on."""
        self._armed.touch()

    def disarm(self) -> None:
        """Let no side effect count any more."""
        self._armed.unlink()

    def did(self) -> list[str]:
        """Return the places to die at that it has come to, each with its number."""
        count = self._folder / "count"
        return count.read_text().splitlines() if count.exists() else []

    @property
    def dead(self) -> bool:
        return self._process is not None and not self._process.is_alive()

    def alive(self) -> bool:
        """Start it again if it has died."""
        if self.dead:
            self.deaths += 1
            self.start()
        return True

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def log(self) -> str:
        return (self._folder / "agent.log").read_text(errors="replace")[-4000:]

    def insist(self, ask: Callable[[AgentClient], AgentAnswer], *wanted: int) -> dict[str, Any]:
        """Ask as a stubborn pipeline does: again after a crash, until the answer is wanted."""
        end = time.monotonic() + LIMIT
        answer: AgentAnswer | None = None
        while time.monotonic() < end:
            self.alive()
            try:
                answer = ask(self.client)
            except Unreachable:
                time.sleep(0.02)
                continue
            if answer.status in wanted:
                return answer.body
            time.sleep(0.02)
        raise AssertionError(f"last answer: {answer}; the agent said:\n{self.log()}")


@contextmanager
def app() -> Iterator[Apps]:
    """Run one app process; ends it also when the test fails."""
    apps = Apps(["web"])
    try:
        apps.start("web")
        yield apps
    finally:
        apps.close()
