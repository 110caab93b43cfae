"""The table "what is counted where" of the reference: each cell is played on the real server."""

import base64
import http.client
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.apps import cell_apps, mod_wsgi
from tests.apps.app_server import GUNICORN, SHARED, UVICORN, Server, Start, servers
from tests.servers import python_packages

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "app.md"
BIG = 30_000_000  # bytes
NOT_THERE = "\N{EN DASH}"  # the server has nothing of that kind
LOOKS = 40  # how often a server must tell the truth while the work goes on
HYPERCORN = ("hypercorn", "-b", "127.0.0.1:PORT", "shop:app")
DAPHNE = ("-m", "daphne", "-b", "127.0.0.1", "-p", "PORT", "shop:app")
GRANIAN = ("-m", "granian", "--port", "PORT", "--interface")
UWSGI = (
    *("-W", "ignore", "-c", "import sys, pyuwsgi; sys.argv[0] = 'uwsgi'; pyuwsgi.run()"),
    *("--http-socket", "127.0.0.1:PORT", "--master", "--threads", "8"),
    *("--wsgi-file", "shop.py", "--callable", "app"),
)
OWN_PAGE = {"WORK_PORT": "PAGE", "PORT": "PORT"}


@dataclass(frozen=True)
class Row:
    """A server with an app: a line of the table."""

    app: Callable[[], str]
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    packages: bool = False  # it needs packages that the tests themselves do without
    nightly: bool = True


def _of(text: str) -> Callable[[], str]:
    return lambda: text


STARLETTE, WSGI = _of(cell_apps.STARLETTE), _of(cell_apps.WSGI)
ROWS: Mapping[str, Row] = {
    "uvicorn, h11": Row(STARLETTE, (*UVICORN, "--loop", "asyncio", "--http", "h11"), nightly=False),
    "uvicorn, httptools and uvloop": Row(
        STARLETTE, (*UVICORN, "--loop", "uvloop", "--http", "httptools"), packages=True
    ),
    "hypercorn": Row(STARLETTE, HYPERCORN, nightly=False),
    "daphne": Row(STARLETTE, DAPHNE),
    "granian": Row(STARLETTE, (*GRANIAN, "asgi", "shop:app"), packages=True),
    "uvicorn, Django": Row(_of(cell_apps.DJANGO), UVICORN),
    "hypercorn, Quart": Row(_of(cell_apps.QUART), HYPERCORN),
    "uvicorn, Sanic": Row(_of(cell_apps.SANIC), UVICORN, packages=True),
    "gunicorn `gthread`": Row(WSGI, (*GUNICORN, "shop:app"), nightly=False),
    "gunicorn `gevent`": Row(
        WSGI, ("gunicorn", "-b", "127.0.0.1:PORT", "-k", "gevent", "shop:app"), packages=True
    ),
    "waitress": Row(WSGI, ("waitress", "--listen=127.0.0.1:PORT", "shop:app"), nightly=False),
    "uWSGI": Row(WSGI, UWSGI),
    "uWSGI, 2 processes": Row(
        WSGI, (*UWSGI, "--processes", "2", "--py-call-osafterfork"), SHARED
    ),
    "mod_wsgi": Row(WSGI, ("mod_wsgi", "threads=8")),
    "mod_wsgi, 2 processes": Row(WSGI, ("mod_wsgi", "processes=2", "threads=8"), SHARED),
    "granian, WSGI": Row(WSGI, (*GRANIAN, "wsgi", "shop:app"), packages=True),
    "aiohttp": Row(cell_apps.aiohttp, ("shop",), OWN_PAGE),
    "aiohttp, `handler_cancellation`": Row(
        cell_apps.aiohttp, ("shop",), {**OWN_PAGE, "CANCEL": "1"}
    ),
    "Tornado": Row(cell_apps.tornado, ("shop",), OWN_PAGE),
}  # fmt: skip


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers that the test ends."""
    with servers(tmp_path) as run:
        yield run


def started(start: Start, name: str, folder: Path) -> Server:
    """Return the server of that row, when it answers and is idle."""
    row = ROWS[name]
    env, command = dict(row.env), row.command
    if row.packages:
        found = python_packages.folder("web-servers")
        env["PYTHONPATH"] = f"{Path(__file__).parents[2]}:{found}"
    if command[0] == "mod_wsgi":
        command = mod_wsgi.command(folder, *command[1:])
        env["PORT"] = "PORT"
        if row.env:
            env["DEREGISTER_AGENT_WORK"] = str(folder / "work")
    server = start(row.app(), *command, **env)
    server.until_in_flight()
    server.until(lambda: answered(server, "/plain"))  # the page may be there before the app
    server.until_in_flight()
    return server


class Piece:
    """A piece of work of one server, from its begin to its end."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def has(self, what: str) -> bool:
        """Tell whether it has *began* or *ended*."""
        return (self._server.folder / what).exists()

    def must_be(self, word: str, *, over: Callable[[], bool]) -> None:
        """Fail unless the server tells of the work, which is not over yet, as the cell says."""
        if word == "yes":
            for _ in range(LOOKS):
                assert self._told(over) == "yes"
        else:
            self._server.until(lambda: self._told(over) == word)

    def ends(self, word: str) -> None:
        """Let it end, and fail unless the server is idle then."""
        self._server.release()
        self._server.until(lambda: self.has("ended"))
        if word != "unknown":
            self._server.until_in_flight()

    def _told(self, over: Callable[[], bool]) -> str:
        status, report = self._server.ask()
        if status == 503:
            return "unknown"
        assert status == 200, report
        return "yes" if any(report["in_flight"].values()) or over() else "no"


def answered(server: Server, path: str) -> bool:
    """Ask for that path and read the whole answer; return whether it is a good one."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.read() != b"" and answer.status == 200


def _client_leaves(server: Server, path: str, word: str) -> None:
    piece = Piece(server)
    with server.send(path):
        server.until(lambda: piece.has("began"))
    piece.must_be(word, over=lambda: piece.has("ended"))
    piece.ends(word)


def _goes_on(server: Server, path: str, word: str) -> None:
    piece = Piece(server)
    assert answered(server, path)
    server.until(lambda: piece.has("began"))
    piece.must_be(word, over=lambda: piece.has("ended"))
    piece.ends(word)


def _slow_reader(server: Server, path: str, word: str) -> None:
    piece = Piece(server)
    for reads_on in (True, False):
        with server.send(path) as client:
            assert client.recv(12).endswith(b" 200")
            piece.must_be(word, over=lambda: False)
            received = 12
            while reads_on and received < BIG:
                received += len(client.recv(1_000_000))
        server.until_in_flight()


def _stream(server: Server, path: str, word: str) -> None:
    piece = Piece(server)
    with server.send(path) as client:
        _reads(client, b"first")
        piece.must_be(word, over=lambda: False)
        server.release()
        _reads(client, b"last")
    server.until_in_flight()


def _reads(client: socket.socket, until: bytes) -> None:
    received = b""
    while until not in received:
        more = client.recv(4096)
        assert more, received
        received += more


def _websocket(server: Server, path: str, word: str) -> None:
    piece = Piece(server)
    key = base64.b64encode(os.urandom(16)).decode()
    fields = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    with server.send(path, *fields, f"Sec-WebSocket-Key: {key}") as client:
        _reads(client, b"\r\n\r\n")
        piece.must_be(word, over=lambda: False)
        client.sendall(b"\x81\x82\x00\x00\x00\x00hi")  # RFC 6455, 5.2: a text, masked
        server.until(lambda: piece.has("began"))
    piece.must_be(word, over=lambda: piece.has("ended"))
    piece.ends(word)


PLAYS: Mapping[str, tuple[str, Callable[[Server, str, str], None]]] = {
    "client leaves": ("/slow", _client_leaves),
    "slow reader": ("/big", _slow_reader),
    "event stream": ("/stream", _stream),
    "WebSocket": ("/ws", _websocket),
    "background task": ("/background", _goes_on),
    "thread, client leaves": ("/thread", _client_leaves),
    "thread, timed out": ("/impatient", _goes_on),
    "thread of the framework": ("/framework", _client_leaves),
    "pool": ("/pool", _goes_on),
    "child process": ("/process", _goes_on),
}


def table() -> Iterator[tuple[str, str, str]]:
    """Yield server, column and word of each cell of the page's table."""
    _, _, section = PAGE.read_text().partition("\n## What is counted where\n")
    lines = [
        [cell.strip().strip("*") for cell in line.strip("|").split("|")]
        for line in section.partition("\n## ")[0].splitlines()
        if line.startswith("|")
    ]
    (_, *columns), _, *rows = lines
    for server, *words in rows:
        yield from ((server, column, word) for column, word in zip(columns, words, strict=True))


CELLS = [
    pytest.param(*cell, marks=[pytest.mark.nightly] * ROWS[cell[0]].nightly)
    for cell in table()
    if cell[2] != NOT_THERE
]


def test_the_table_has_these_rows_and_columns() -> None:
    """What the page says of a server is played here, and what is played here it says."""
    assert {server for server, _, _ in table()} == set(ROWS)
    assert {column for _, column, _ in table()} == set(PLAYS)
    assert {word for _, _, word in table()} <= {"yes", "no", "unknown", NOT_THERE}


@pytest.mark.parametrize(("name", "column", "word"), CELLS)
def test_a_cell(start: Start, tmp_path: Path, name: str, column: str, word: str) -> None:
    """*yes*: in flight while the work goes on, and no longer; *no*: idle meanwhile."""
    path, play = PLAYS[column]
    play(started(start, name, tmp_path), path, word)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.nightly] * r.nightly) for n, r in ROWS.items()]
)
def test_a_kept_connection_is_no_work(start: Start, tmp_path: Path, name: str) -> None:
    """The client may ask again on it; until then nothing is in flight."""
    server = started(start, name, tmp_path)
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as client:
        for _ in range(2):
            client.request("GET", "/plain")
            answer = client.getresponse()
            assert (answer.status, answer.read()) == (200, b"1")
            server.until_in_flight()
