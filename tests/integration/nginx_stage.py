"""A stage for Nginx: two apps behind a real one, and what others do to it."""

import os
import subprocess
import threading
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from deregister_agent.demo.stage import free_ports
from tests.servers.child import wait_until
from tests.servers.nginx import Nginx


class App:
    """An app that answers its own port, and holds requests for /slow until it is told."""

    def __init__(self) -> None:
        self.hits = 0
        self.release = threading.Event()
        app = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                app.hits += 1
                if self.path.startswith("/slow"):
                    app.release.wait(30)
                body = str(app.port).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.server.daemon_threads = True
        self.port: int = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@dataclass
class World:
    """One Nginx in front of two apps."""

    nginx: Nginx
    port: int
    a: App
    b: App
    threads: list[threading.Thread] = field(default_factory=list)

    def get(self, path: str = "/") -> str:
        """Send one request, on a connection of its own, and return which app has answered."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as got:
                return str(got.read().decode())
        except urllib.error.HTTPError as e:
            e.close()
            return str(e.code)

    def reaches_a(self) -> bool:
        """Tell whether new requests still come to app a."""
        return str(self.a.port) in {self.get() for _ in range(12)}

    def hold_a_request(self) -> None:
        """Have one request wait in an app."""
        before = self.a.hits + self.b.hits
        thread = threading.Thread(target=self.get, args=("/slow",))
        thread.start()
        self.threads.append(thread)
        wait_until(lambda: self.a.hits + self.b.hits > before, "the slow request is there")

    def release(self) -> None:
        """Let every held request be answered."""
        self.a.release.set()
        self.b.release.set()

    def upstream(self) -> str:
        """Return the upstream block as it was first written."""
        return f"upstream app {{ server 127.0.0.1:{self.a.port}; server 127.0.0.1:{self.b.port}; }}"

    def rewrite(self, old: str, new: str) -> None:
        """Change the main file as another tool would, without a reload."""
        text = self.nginx.conf.read_text()
        assert old in text
        real = self.nginx.conf.resolve()
        written = real.with_name("written")  # half a file would be an error, which is right
        written.write_text(text.replace(old, new))
        written.replace(real)

    def reload(self) -> None:
        """Reload as another tool would, and wait until it has happened."""
        before = set(self.nginx.workers())
        subprocess.run(self.nginx.command("-s", "reload"), check=True)
        wait_until(
            lambda: (
                not before & (set(self.nginx.workers()) - set(self.nginx.retiring()))
                and self.nginx.workers()
            ),
            "the foreign reload is done",
        )


SERVER = "server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://app; }} {more} }}"


def make_world(
    stack: ExitStack,
    version: str,
    folder: Path,
    *,
    more: str = "",
    http: str = "",
    workers: int = 2,
    main: str = "",
) -> World:
    """Run Nginx in front of two apps; ``http`` is formatted with their ports and the folder."""
    a, b = App(), App()
    stack.callback(a.close)
    stack.callback(b.close)
    port = free_ports(1)[0]
    upstream = http or "upstream app {{ server 127.0.0.1:{a}; server 127.0.0.1:{b}; }}"
    text = upstream.format(a=a.port, b=b.port, folder=folder) + "\n"
    server = SERVER.format(port=port, more=more)
    nginx = Nginx(version, folder, text + server, workers=workers, main=main)
    world = World(nginx, port, a, b)
    stack.enter_context(nginx)

    def end() -> None:
        a.release.set()
        b.release.set()
        for thread in world.threads:
            thread.join()

    stack.callback(end)
    return world


class Gate:
    """A fifo that holds everybody who opens it for reading while it is shut."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path, self.ended = path, threading.Event()
        self.free = 1000  # how many may pass
        self.doorman = threading.Thread(target=self._let_in)
        self.doorman.start()

    def _let_in(self) -> None:
        while not self.ended.wait(0.01):
            if self.free:
                with suppress(OSError):  # nobody waits
                    os.close(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK))
                    self.free -= 1

    def close(self) -> None:
        self.ended.set()
        self.doorman.join()


def accepted(nginx: Nginx, main: Path, folder: Path, settings: str = "") -> bool:
    """Tell whether nginx -t finds the syntax right, whatever folders are missing here."""
    main.parent.joinpath("not/read/here").mkdir(parents=True, exist_ok=True)
    settings += f" pid {folder}/t.pid; error_log stderr;"
    command = [str(nginx.program), "-t", "-c", str(main), "-p", str(folder), "-g", settings]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return "syntax is ok" in done.stderr
