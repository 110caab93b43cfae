"""The others of a server: those that could do its work; and what becomes of the last of two."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.integration.nginx_stage import World, make_world
from tests.servers.child import wait_until
from tests.servers.nginx import NEWEST, VERSIONS

OURS = "server 127.0.0.1:{a};"
NOBODYS = [
    # as templates and manuals write them, and as people do
    "server 127.0.0.1:1;",
    "server 0.0.0.0:1;",
    "server 127.0.0.1:{closed}; # force a 502",
    "server 127.0.0.1:{closed} weight=5 max_fails=0;",
    "server 127.0.0.1:0{closed};",
    "server 127.9.9.9:{a};",
    "server 0.0.0.0:{closed};",
    "server [::1]:{closed};",
    "server [::]:{closed};",
    "server [::ffff:127.0.0.1]:{closed};",
    "server localhost:{closed};",
    "server 10.9.8.7:9;",
    "server 0.0.0.1;  # placeholder",
    "server 192.0.2.1:8080;",
    "server 203.0.113.7;",
    "server 240.0.0.1:80;",
    "server 255.255.255.255:8080;",
    "server 224.0.0.1:8080;",
    "server [2001:db8::1]:8080;",
    "server unix:/dev/null;",
    "server unix:{folder}/nginx.conf;",
    "server unix:{folder}/not-there.sock;",
    "server 127.0.0.1:{b} down;",
    "server 127.0.0.1:{b} backup;",
    "server localhost:{a};",
    "server [::ffff:127.0.0.1]:{a};",
]
SOMEBODYS = [
    "server 127.0.0.1:{b};",
    "server 127.0.0.1:{b} weight=2; server 127.0.0.1:0{b}; server [::ffff:127.0.0.1]:{b};",
    "server localhost:{b};",
    "server 0.0.0.0:{b};",
    "server 10.9.8.7:8080;",
    "server 10.9.8.7;",
    "server 192.0.3.1:8080;",
    "server [fd00::7]:8080;",
    "server unix:{folder}/app.sock;",
    "server 127.0.0.1:1; server 127.0.0.1:{b}; server unix:/dev/null;",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield make_world(stack, VERSIONS[-1], tmp_path_factory.mktemp("nginx"))


def others(world: World, servers: str) -> int:
    """Return how many others there are in an upstream of ours and these, which need no reload."""
    with socket.create_server(("127.0.0.1", 0)) as once:
        closed = once.getsockname()[1]
    values = {"a": world.a.port, "b": world.b.port, "closed": closed, "folder": world.nginx.folder}
    text = world.nginx.conf.read_text()
    try:
        upstream = f"upstream app {{ {OURS} {servers}\n }}"
        world.rewrite(
            world.upstream(),
            upstream.replace("{ ", "{{ ", 1).replace("\n }", "\n }}").format(**values),
        )
        return world.nginx.registry(world.a.port).others()
    finally:
        world.nginx.conf.write_text(text)


@pytest.mark.parametrize("servers", NOBODYS)
def test_a_server_that_is_nobodys_is_no_other(servers: str, world: World) -> None:
    """The guard is not fooled by what stands in for a server, and cannot answer."""
    assert others(world, servers) == 0


@pytest.mark.parametrize("servers", SOMEBODYS)
def test_a_server_that_may_be_somebodys_is_one(servers: str, world: World) -> None:
    """What listens, and what cannot be known from here, counts: once, however it is spelled."""
    with socket.socket(socket.AF_UNIX) as listening:
        path = world.nginx.folder / "app.sock"
        path.unlink(missing_ok=True)
        listening.bind(str(path))
        listening.listen()
        assert others(world, servers) == 1


def test_without_a_running_nginx_addresses_of_this_host_count(tmp_path: Path) -> None:
    """Which network it means is not known then."""
    with ExitStack() as stack:
        own = make_world(stack, VERSIONS[-1], tmp_path)
        own.nginx.kill()
        assert others(own, "server 127.0.0.1:{closed}; server unix:/dev/null;") == 2


class Stumbling:
    """A server that drops its first request, and answers all others."""

    def __init__(self, stack: ExitStack) -> None:
        self.server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.port: int = self.server.getsockname()[1]
        thread = threading.Thread(target=self._serve)
        thread.start()
        stack.callback(thread.join)
        stack.callback(self._end)

    def _end(self) -> None:
        with suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
        with suppress(OSError):
            for number in range(1_000_000):
                client, _ = self.server.accept()
                with client:
                    client.recv(4096)
                    client.sendall(answer if number else b"")


@pytest.mark.parametrize("version", [*VERSIONS, NEWEST])
@pytest.mark.parametrize(("parameters", "lost"), [("", 20), ("max_fails=0", 1)])
def test_the_last_of_two(version: str, parameters: str, lost: int, tmp_path: Path) -> None:
    """One failed request puts out the last of two where one is down, unless max_fails=0."""
    http = "upstream app {{ server 127.0.0.1:{a} %s; server 127.0.0.1:%s %s; }}"
    with ExitStack() as stack:
        last = Stumbling(stack)
        http %= (parameters, last.port, parameters)
        world = make_world(stack, version, tmp_path, http=http, workers=1)
        registry = world.nginx.registry(world.a.port)
        warned = [said for said in registry.advice() if "max_fails=0" in said]
        assert len(warned) == (0 if parameters else 1)
        registry.withdraw()
        wait_until(lambda: len(world.nginx.workers()) == 1, "the old worker has gone")
        assert [world.get() for _ in range(20)].count("502") == lost


@pytest.mark.parametrize(
    ("servers", "warns"),
    [
        (f"{OURS} server 127.0.0.1:{{b}};", True),
        (f"{OURS} server 127.0.0.1:{{b}} max_fails=0;", True),
        ("server 127.0.0.1:{a} max_fails=0; server 127.0.0.1:{b} 'max_fails=0';", False),
        (f"{OURS} server 127.0.0.1:{{b}}; server h down;", True),
        (f"{OURS} server 127.0.0.1:{{b}}; server 10.0.0.9;", False),
        (f"{OURS} server 127.0.0.1:{{b}}; server 10.0.0.9 backup;", False),
        (OURS, False),
    ],
)
def test_who_is_warned_of_it(servers: str, warns: bool, world: World) -> None:
    """Whoever has one server left while theirs is down, and has failures counted."""
    text = world.nginx.conf.read_text()
    try:
        values = {"a": world.a.port, "b": world.b.port}
        world.rewrite(world.upstream(), f"upstream app {{ {servers.format(**values)} }}")
        said = world.nginx.registry(world.a.port).advice()
        assert any("max_fails=0" in one for one in said) is warns
    finally:
        world.nginx.conf.write_text(text)
