"""Real Nginx with its modules for stream and Lua: TCP upstreams, and files with Lua in them."""

import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deregister_agent.demo.stage import free_ports
from deregister_agent.errors import RegistryError, UnrecognisedError
from deregister_agent.model import Listing
from deregister_agent.registries.nginx.conf import ConfPaths
from deregister_agent.registries.nginx.parse import read
from deregister_agent.registries.nginx.server_address import ServerAddress
from tests.integration.nginx_stage import accepted, make_world
from tests.servers.child import wait_until
from tests.servers.nginx import WITH_MODULES, Nginx, modules, settled
from tests.servers.talking import Server, talking

CORPUS = Path(__file__).parents[1] / "nginx_corpus"
STREAM = """
{load}
stream {{
    upstream app {{ server 127.0.0.1:{a}; server 127.0.0.1:{b} weight=1; }}
    server {{ listen 127.0.0.1:{port}; proxy_pass app; }}
}}
"""
LUA = """
    init_by_lua_block {{ local nested = {{ "}} server 127.0.0.1:{a}; " }} -- that'll do: }}
    }}
    upstream app {{ server 127.0.0.1:{a}; server 127.0.0.1:{b}; }}
"""
SAYS = """location /lua { content_by_lua_block { ngx.print("{ it's }") } }"""
CHOSEN_BY_LUA = """
    upstream app {{
        server 127.0.0.1:{a};
        server 127.0.0.1:{b};
        balancer_by_lua_block {{ require("ngx.balancer").set_current_peer("127.0.0.1", {a}) }}
    }}
"""


def telling(connection: socket.socket, over: threading.Event) -> None:
    """Say which port this is, and then say everything back."""
    connection.sendall(b"%d\n" % connection.getsockname()[1])
    while said := connection.recv(100):
        connection.sendall(said)


class Streams:
    """Nginx in front of two TCP servers."""

    def __init__(self, nginx: Nginx, port: int, a: Server, b: Server) -> None:
        self.nginx, self.port, self.a, self.b = nginx, port, a, b

    def connect(self) -> tuple[socket.socket, int]:
        """Open a connection through Nginx, and tell which server it has come to."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        return client, int(client.recv(100))

    def reached(self) -> set[int]:
        """Return the servers that new connections come to."""
        found = set()
        for _ in range(12):
            client, port = self.connect()
            client.close()
            found.add(port)
        return found

    def held_by(self, server: int) -> socket.socket:
        """Return a connection that has come to that server."""
        while True:
            client, port = self.connect()
            if port == server:
                return client
            client.close()


@pytest.fixture(params=WITH_MODULES)
def streams(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Streams]:
    """Run each version with a stream upstream."""
    version, port = str(request.param), free_ports(1)[0]
    with talking(telling) as a, talking(telling) as b:
        text = STREAM.format(load=modules(version), a=a.port, b=b.port, port=port)
        with Nginx(version, tmp_path, "", main=text) as nginx:
            yield Streams(nginx, port, a, b)


def test_a_stream_upstream(streams: Streams) -> None:
    """Out: no new TCP connection comes; an old one goes on and is waited for; back: the file."""
    a, b, before = streams.a.port, streams.b.port, streams.nginx.conf.read_bytes()
    registry = streams.nginx.registry(a, context="stream")
    assert (registry.lists(), registry.others(), streams.reached()) == (True, 1, {a, b})
    held = streams.held_by(a)
    snapshot = registry.snapshot()
    registry.withdraw()
    assert (registry.lists(), streams.reached()) == (False, {b})
    held.sendall(b"still here")
    assert held.recv(100) == b"still here"
    assert any(f"1 connection(s) to 127.0.0.1:{a}" in one.what for one in registry.stragglers())
    held.close()
    settled(streams.nginx)
    assert not registry.stragglers()
    registry.restore(snapshot)
    assert (registry.lists(), streams.reached()) == (True, {a, b})
    assert streams.nginx.conf.read_bytes() == before


@pytest.mark.parametrize("version", WITH_MODULES)
@pytest.mark.parametrize("name", ["with_lua", "with_stream"])
def test_nginx_accepts_the_corpus_of_modules(version: str, name: str, tmp_path: Path) -> None:
    """What the corpus has of stream and Lua passes nginx -t with these modules, down or up."""
    context = "stream" if name == "with_stream" else "http"
    shutil.copytree(CORPUS / name, tmp_path / "corpus")
    main = tmp_path / "corpus" / "main.conf"
    with Nginx(version, tmp_path, "") as nginx:
        assert not accepted(nginx, main, tmp_path)
        assert accepted(nginx, main, tmp_path, modules(version))
        seen = read(ConfPaths(main))
        found = seen.find(context, "app", ServerAddress("10.0.0.7:8080"))
        for path, content in seen.marked(found, down=True).items():
            path.write_bytes(content)
        assert b"10.0.0.7:8080 down;" in main.read_bytes()
        assert accepted(nginx, main, tmp_path, modules(version))


@pytest.mark.parametrize("version", WITH_MODULES)
def test_a_file_with_lua(version: str, tmp_path: Path) -> None:
    """Beside Lua with braces and quotes of its own, one word is changed, loaded and proved."""
    with ExitStack() as stack:
        load = modules(version)
        world = make_world(stack, version, tmp_path, http=LUA, main=load, more=SAYS)
        registry, before = world.nginx.registry(world.a.port), world.nginx.conf.read_bytes()
        assert (registry.lists(), world.reaches_a()) == (True, True)
        snapshot = registry.snapshot()
        registry.withdraw()
        assert (registry.lists(), world.reaches_a(), world.get("/lua")) == (
            False,
            False,
            "{ it's }",
        )
        assert world.nginx.conf.read_bytes() == before.replace(
            b"upstream app { server 127.0.0.1:%d" % world.a.port,
            b"upstream app { server 127.0.0.1:%d down" % world.a.port,
        )
        registry.restore(snapshot)
        assert (registry.lists(), world.nginx.conf.read_bytes()) == (True, before)


@pytest.mark.parametrize("version", WITH_MODULES)
def test_an_upstream_whose_servers_lua_chooses(version: str, tmp_path: Path) -> None:
    """Lua that chooses the server does not look at "down": that is refused, until vouched for."""
    with ExitStack() as stack:
        world = make_world(stack, version, tmp_path, http=CHOSEN_BY_LUA, main=modules(version))
        registry, before = world.nginx.registry(world.a.port), world.nginx.conf.read_bytes()
        for call in (registry.withdraw, registry.lists):
            with pytest.raises(RegistryError, match="balancer_by_lua_block"):
                call()
        assert world.nginx.conf.read_bytes() == before
        world.rewrite(f":{world.a.port};", f":{world.a.port} down;")
        world.reload()
        assert world.reaches_a()
        with pytest.raises(UnrecognisedError, match=r'obeys = \["balancer_by_lua_block"\]'):
            registry.look()
        vouched = world.nginx.registry(world.a.port, obeys=["balancer_by_lua_block"])
        assert vouched.look().listing is Listing.OUT


@pytest.mark.parametrize("version", WITH_MODULES)
def test_what_workers_still_run_is_not_forgotten(version: str, tmp_path: Path) -> None:
    """Taken out of the file without a reload, what may not obey "down" still counts."""
    with ExitStack() as stack:
        http = CHOSEN_BY_LUA.replace("{a};", "{a} down;")
        http += "upstream other {{ server 127.0.0.1:{b}; server 127.0.0.1:{a}; }}"
        world = make_world(stack, version, tmp_path, http=http, main=modules(version))
        world.nginx.registry(world.b.port, "other").withdraw()
        chooser = world.nginx.conf.read_text().partition("balancer_by_lua_block")[2]
        world.rewrite(f"balancer_by_lua_block{chooser.partition('}')[0]}}}", "")
        assert world.reaches_a()
        registry = world.nginx.registry(world.a.port)
        assert registry.look().listing is Listing.LISTED
        registry.withdraw()
        assert (registry.look().listing, world.reaches_a()) == (Listing.OUT, False)


TIMER = """
    init_worker_by_lua_block {{
        ngx.timer.at(0, function() while true do ngx.sleep(0.1) end end)
    }}
    upstream app {{ server 127.0.0.1:{a}; server 127.0.0.1:{b}; }}
"""


@pytest.mark.parametrize("version", WITH_MODULES)
def test_a_timer_outlives_the_limit_of_old_workers(version: str, tmp_path: Path) -> None:
    """Its worker has no client left, and stays: that is said, with what ends it."""
    with ExitStack() as stack:
        main = f"{modules(version)} worker_shutdown_timeout 200ms;"
        world = make_world(stack, version, tmp_path, http=TIMER, main=main, workers=1)
        client = stack.enter_context(socket.create_connection(("127.0.0.1", world.port)))
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: world.a.hits + world.b.hits, "an app has it in hand")
        (old,) = world.nginx.workers()
        registry = world.nginx.registry(world.a.port)
        registry.withdraw()
        wait_until(
            lambda: any(f"`kill {old}`" in one.what for one in registry.stragglers()),
            "its clients have been sent away, and it is still there",
        )
        (straggler,) = registry.stragglers()
        assert "without a client by TCP: if that stays so, a timer of Lua" in straggler.what
        os.kill(old, signal.SIGTERM)
        wait_until(lambda: not registry.stragglers(), "it has gone")
        assert not registry.lists()
