"""Kept connections are let go while the app is stopped: real servers, real clients, none lost."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from deregister_agent.demo.stage import free_ports
from tests.apps.app_server import ROOT, Server, Start, servers
from tests.apps.kept_load import ASGI, CLIENTS, READY, WRAPPED, WSGI, Load, handled, twice, uses
from tests.servers import find, python_packages
from tests.servers.child import Child, wait_until
from tests.servers.nginx import Nginx

GUNICORN = ("gunicorn", "-b", "127.0.0.1:PORT", "--keep-alive", "60", "-w", "2")
UVICORN = ("uvicorn", "--port", "PORT", "--timeout-worker-healthcheck", "60", "shop:app")
GRANIAN = ("granian", "--host", "127.0.0.1", "--port", "PORT", "--workers", "2", "--http", "1")
UWSGI = (
    *("run_uwsgi", "--master", "--need-app", "--processes", "2", "--wsgi-file", "shop.py"),
    *("--callable", "app", "--py-call-osafterfork", "--enable-threads"),
)
SERVERS = {
    "gunicorn gthread": (WSGI, (*GUNICORN, "-k", "gthread", "--threads", "8", "shop:app")),
    "gunicorn gevent": (WSGI, (*GUNICORN, "-k", "gevent", "shop:app")),
    "gunicorn asgi": (ASGI, (*GUNICORN, "-k", "asgi", "shop:app")),
    "waitress": (WSGI, ("waitress", "--listen=127.0.0.1:PORT", "--threads=8", "shop:app")),
    "cheroot": (WSGI, ("cheroot", "--bind", "127.0.0.1:PORT", "shop:app")),
    "uwsgi": (WSGI, (*UWSGI, "--http", "127.0.0.1:PORT", "--http-keepalive")),
    "granian wsgi": (WSGI, (*GRANIAN, "--interface", "wsgi", "shop:app")),
    "granian asgi": (ASGI, (*GRANIAN, "--interface", "asgi", "shop:app")),
    "uvicorn h11": (ASGI, (*UVICORN, "--http", "h11", "--workers", "2")),
    "uvicorn httptools": (ASGI, (*UVICORN, "--http", "httptools", "--timeout-keep-alive", "60")),
    "hypercorn": (ASGI, ("hypercorn", "-b", "127.0.0.1:PORT", "-w", "2", "shop:app")),
    "daphne": (ASGI, ("daphne", "-p", "PORT", "shop:app")),
}
PACKED = {"gunicorn gevent", "granian wsgi", "granian asgi", "uvicorn httptools"}
"""Servers that are imported from a folder of their own."""
NO_PORT = {"granian wsgi"}
"""Servers that do not tell the app which connection a request came over."""
RUN_UWSGI = "import sys, pyuwsgi; sys.argv[0] = 'uwsgi'; pyuwsgi.run()"
TOKEN = {"Authorization": "Bearer secret"}
THREADS = 2  # that each client sends with
SHORT, LONG = 40, 400  # orders of each client in each of the three parts
LIMIT = 280.0  # seconds for one part, on a busy machine


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers that the test ends."""
    with servers(tmp_path) as run:
        yield run


def begun(start: Start, tmp_path: Path, name: str) -> Server:
    """Start that server, and wait until it answers."""
    (tmp_path / "run_uwsgi.py").write_text(RUN_UWSGI)
    server = start(SERVERS[name][0], *SERVERS[name][1], **environment(name))
    server.until(lambda: server.ask(**TOKEN)[0] == 200)
    return server


def environment(name: str) -> dict[str, str]:
    """Return by what that server is found."""
    if name not in PACKED:
        return {}
    return {"PYTHONPATH": f"{ROOT}:{python_packages.folder('web-servers')}"}


def reached(base: str) -> bool:
    """Tell whether a proxy answers."""
    with closing(HTTPConnection(base.removeprefix("http://"), timeout=10)) as client:
        client.request("GET", f"/{READY}")
        return client.getresponse().status == 200


def answered_more(loads: list[Load], counts: list[int]) -> bool:
    """Tell whether each client has so many answers, or one has failed."""
    enough = all(load.count >= count for load, count in zip(loads, counts, strict=True))
    return enough or any(load.errors for load in loads)


def across_a_stop_and_a_start(server: Server, base: str, parts: int, *, told: bool) -> None:
    """
    Post orders while the app serves, is stopped, and serves again; fail if one was lost.

    *told*: the app knows over which connection an order came. Then each had one while stopped,
    and many before and after.
    """
    loads = [Load(client, base, threads=THREADS) for client in CLIENTS]
    records = []
    try:
        for word in ("", "/-/work/stop", "/-/work/start"):
            if word:
                assert server.ask(word, "POST", **TOKEN)[0] == 200
            first = len(handled(server.folder))
            enough = partial(answered_more, loads, [load.count + parts for load in loads])
            wait_until(enough, "each client has its answers", limit=LIMIT, pause=0.05)
            records.append(handled(server.folder)[first:])
    finally:
        sent = sum(load.end() for load in loads)
    assert [error for load in loads for error in load.errors] == []
    record = handled(server.folder)
    assert (len(record), twice(record)) == (sent, {})
    for load in loads:
        assert all(answer == b"done " + order.encode() for order, answer in load.answered.items())
    assert sum(load.count for load in loads) == sent
    if told:
        serving, stopped, again = map(uses, records)
        # What was in hand when the stop was asked for may have begun its answer before: such a
        # connection has one more.
        most = [count for count in stopped.values() if count > 1]
        assert set(most) <= {2}, stopped.most_common(3)
        assert len(most) <= THREADS * len(CLIENTS), stopped.most_common(3)
        for before in (serving, again):
            assert len(before) < before.total() / 3


@pytest.mark.parametrize("name", SERVERS)
def test_nothing_is_lost_or_done_twice(start: Start, tmp_path: Path, name: str) -> None:
    """Four clients post across a stop and a start; while stopped each connection has one order."""
    server = begun(start, tmp_path, name)
    base = f"http://127.0.0.1:{server.port}"
    across_a_stop_and_a_start(server, base, SHORT, told=name not in NO_PORT)


NGINX = """
upstream shop {{ server 127.0.0.1:{app}; keepalive 16; }}
server {{
    listen 127.0.0.1:{port};
    location / {{
        proxy_pass http://shop;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_next_upstream off;
    }}
}}
"""
HAPROXY = """
defaults
    mode http
    timeout connect 30s
    timeout client 60s
    timeout server 60s
    retries 0
listen shop
    bind 127.0.0.1:{port}
    http-reuse always
    server app 127.0.0.1:{app}
"""


def in_front(stack: ExitStack, proxy: str, folder: Path, app: int) -> str:
    """Run a proxy that keeps connections to the app, and repeats nothing; return its URL."""
    (port,) = free_ports(1)
    folder.mkdir()
    if proxy == "haproxy":
        (folder / "conf").write_text(HAPROXY.format(port=port, app=app))
        stack.enter_context(Child([*find("haproxy"), "-f", str(folder / "conf")], folder / "log"))
    else:
        stack.enter_context(Nginx(proxy, folder, NGINX.format(port=port, app=app)))
    return f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("name", ["uvicorn httptools", "gunicorn gthread", "waitress"])
@pytest.mark.parametrize("proxy", ["nginx-1.26", "haproxy"])
def test_nothing_is_lost_behind_a_proxy_that_keeps_connections(
    start: Start, tmp_path: Path, proxy: str, name: str
) -> None:
    """The proxy hears the word instead of the clients, and opens another connection."""
    server = begun(start, tmp_path, name)
    with ExitStack() as stack:
        base = in_front(stack, proxy, tmp_path / "proxy", server.port)
        server.until(lambda: reached(base))
        across_a_stop_and_a_start(server, base, SHORT, told=True)


BRIDGED = (
    ASGI
    + """
from a2wsgi import ASGIMiddleware
app = ASGIMiddleware(app)
"""
)
WSGIREF = (
    WSGI
    + """
if __name__ == "__main__":
    import sys
    from wsgiref.simple_server import make_server
    make_server("127.0.0.1", int(sys.argv[1]), app).serve_forever()
"""
)
WERKZEUG = (
    WSGI
    + """
if __name__ == "__main__":
    import sys
    from werkzeug.serving import run_simple
    run_simple("127.0.0.1", int(sys.argv[1]), app, threaded=True)
"""
)
LEFT_ALONE = {
    "a2wsgi on waitress": (BRIDGED, SERVERS["waitress"][1], ""),
    "wsgiref": (WSGIREF, ("shop", "PORT"), "no way is known"),
    "Werkzeug": (WERKZEUG, ("shop", "PORT"), ""),
    "gunicorn, wrapped": (WRAPPED, SERVERS["gunicorn gthread"][1], "another middleware stands"),
    "cheroot, wrapped": (WRAPPED, SERVERS["cheroot"][1], "another middleware stands"),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_a_server_without_a_way_answers_as_before(start: Start, name: str) -> None:
    """The header that would be an error there is not sent, and the log says so once a process."""
    app, command, said = LEFT_ALONE[name]
    server = start(app, *command)
    server.until(lambda: server.ask(**TOKEN)[0] == 200)
    assert server.ask("/-/work/stop", "POST", **TOKEN)[0] == 200
    for order in range(8):
        with closing(HTTPConnection("127.0.0.1", server.port, timeout=30)) as client:
            client.request("POST", f"/{order}", body=b"x")
            answer = client.getresponse()
            assert (answer.status, answer.read()) == (200, b"done %d" % order)
    log = (server.folder / "log").read_text()
    assert log.count("keep their connections") == log.count(said or "keep their connections")
    workers = len(server.ask(**TOKEN)[1]["process"]["pids"])
    assert (0 < log.count(said) <= workers) if said else "keep their connections" not in log


def test_a_websocket_begins_while_stopped(start: Start, tmp_path: Path) -> None:
    """Its connection is no longer HTTP's: the word is not for it."""
    server = begun(start, tmp_path, "uvicorn h11")
    assert server.ask("/-/work/stop", "POST", **TOKEN)[0] == 200
    with connect(f"ws://127.0.0.1:{server.port}/", proxy=None) as client:
        assert "close" not in client.response.headers["Connection"].lower()  # type: ignore[union-attr]
        for word in ("one", "two"):
            client.send(word)
            assert client.recv(timeout=30) == word


def test_http_2_is_left_alone(start: Start, tmp_path: Path) -> None:
    """Nothing there ends a connection without loss: its requests go on over the one it has."""
    server = begun(start, tmp_path, "hypercorn")
    assert server.ask("/-/work/stop", "POST", **TOKEN)[0] == 200
    base = f"http://127.0.0.1:{server.port}"
    with httpx.Client(http1=False, http2=True, trust_env=False, timeout=30) as client:
        answers = [client.post(f"{base}/{order}", content=b"x") for order in range(20)]
    assert {(each.status_code, each.http_version) for each in answers} == {(200, "HTTP/2")}
    assert not any("connection" in each.headers for each in answers)
    assert len(uses(handled(server.folder))) == 1


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SERVERS)
def test_nothing_is_lost_of_thousands(start: Start, tmp_path: Path, name: str) -> None:
    """The same for as long as a deploy takes; of so many connections, ports may be alike."""
    server = begun(start, tmp_path, name)
    across_a_stop_and_a_start(server, f"http://127.0.0.1:{server.port}", LONG, told=False)
