"""Connections are let go while the app is stopped: who says so, when, and how it is taken back."""

import asyncio
import logging
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.app import Work
from deregister_agent.app.board import HELD, WISH
from tests.unit.test_app_page import ask

CLOSE = (b"connection", b"close")
STOP, LATER, LET_GO, START = "/stop", "/stop?let_go=later", "/let-go", "/start"


def post(port: int, *words: str) -> list[Any]:
    """Say these words to the page, one after another; return what it then says of connections."""
    return [ask(port, "POST", f"/-/work{word}")[1].get("letting_go") for word in words]


@pytest.mark.parametrize(
    ("words", "let_go"),
    [
        ((STOP,), [True]),
        ((STOP, START), [True, False]),
        ((LATER,), [False]),
        ((LATER, LET_GO), [False, True]),
        ((LATER, LATER, LET_GO, LATER, LATER, START), [False, False, True, True, True, False]),
        ((LATER, STOP), [False, True]),
        ((STOP, LATER), [True, True]),
        ((LATER, START, STOP), [False, False, True]),
        ((LATER, START, LATER, LET_GO, START), [False, False, False, True, False]),
        ((STOP, START, LATER), [True, False, False]),
    ],
    ids=lambda each: " ".join(map(str, each)),
)
def test_a_stop_lets_go_unless_it_says_later(words: tuple[str, ...], let_go: list[bool]) -> None:
    """A repeated stop takes back nothing, "let go" is for the stop at hand, start ends it."""
    assert post(Work().serve(0), *words) == let_go


def test_nothing_is_let_go_while_the_app_is_not_stopped() -> None:
    """Clients would have nowhere else to go, and nothing would ever take it back."""
    work = Work()
    port = work.serve(0)
    for words in ((), (STOP, START), (LATER, LET_GO, START)):
        post(port, *words)
        status, answer = ask(port, "POST", "/-/work/let-go")
        assert (status, work.letting_go) == (409, False)
        assert "not stopped" in answer["error"]


def test_a_word_that_is_not_known_stops_nothing() -> None:
    """Whoever misspells "later" is told so before anything is done."""
    work = Work()
    port = work.serve(0)
    for query in ("?let_go=latter", "?let_go=", "?let_go=later&let_go=now"):
        status, answer = ask(port, "POST", f"/-/work/stop{query}")
        assert (status, work.stopped, work.letting_go) == (400, False, False)
        assert "let_go may be: later" in answer["error"]


@pytest.mark.parametrize(
    ("method", "status"), [("GET", 405), ("HEAD", 405), ("PUT", 405), ("DELETE", 405)]
)
def test_only_a_post_lets_go(method: str, status: int) -> None:
    """Whoever only looks changes nothing."""
    answers: list[str] = []
    environ = {"PATH_INFO": "/-/work/let-go", "REQUEST_METHOD": method}
    Work().wsgi(lambda *_: [])(environ, lambda status, _: answers.append(status))
    assert answers[0].startswith(str(status))


def test_it_is_said_at_once_and_not_when_the_hooks_have_returned() -> None:
    """A consumer that is slow to pause does not keep connections."""
    work = Work(hook_timeout=0.05)
    gate = threading.Event()
    work.on_stop(lambda: gate.wait(60))
    port = work.serve(0)
    for word in (LATER, LET_GO):
        assert not work.letting_go
        ask(port, "POST", f"/-/work{word}")
    assert (work.stopped, work.letting_go) == (False, True)
    gate.set()


def test_a_failed_stop_that_is_repeated_keeps_what_was_said() -> None:
    """Its number is another one then, and the word on connections moves with it."""
    for words, let_go in (((LATER, LATER), False), ((LATER, LET_GO, LATER), True)):
        work = Work()
        fails = [True, False]

        def pause(fails: list[bool] = fails) -> None:
            if fails.pop(0):
                raise ValueError("no broker")

        work.on_stop(pause)
        port = work.serve(0)
        post(port, *words)
        assert (work.stopped, work.letting_go) == (True, let_go)


def test_processes_of_an_older_library_say_it_for_all(tmp_path: Path) -> None:
    """They know only the wish: a stop that they were asked for lets go, also after one held."""
    work = Work(tmp_path / "work")
    cells = work._board.cells
    work.ask(stop=True, hold=True)
    assert not work.letting_go
    cells[WISH] += 1  # an older process was asked for the start
    assert not work.letting_go
    cells[WISH] += 1  # and for a stop
    assert work.letting_go
    assert cells[HELD] < cells[WISH]


def test_another_process_hears_it_at_the_next_answer(tmp_path: Path) -> None:
    """It stands on the board that all share, and goes with the run of the app."""
    work, other = Work(tmp_path / "work"), Work(tmp_path / "work")
    work.ask(stop=True, hold=True)
    assert not other.letting_go
    other.let_go()
    assert work.letting_go


def answered(work: Work, scope: dict[str, Any], headers: Iterable[Any] = ()) -> list[Any]:
    """Return the headers of an ASGI answer as they reach the server."""
    sent: list[Any] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        status = int(scope.get("status", 200))
        start = {"type": scope.get("says", "http.response.start"), "status": status}
        await send({**start, "headers": list(headers)} if headers else start)
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        sent.append(message)

    whole = {"type": "http", "http_version": "1.1", "path": "/", "headers": []} | scope
    asyncio.run(work.asgi(app)(whole, None, send))  # type: ignore[arg-type]
    return list(sent[0].get("headers", ()))


@pytest.mark.parametrize(
    ("scope", "told"),
    [
        ({}, True),
        ({"http_version": "1.0"}, True),
        ({"path": "/healthz"}, True),
        ({"status": 404}, True),
        ({"status": 101}, False),
        ({"http_version": "2"}, False),
        ({"http_version": "3"}, False),
        ({"http_version": ""}, False),
        ({"wsgi_environ": {}}, False),
        ({"type": "websocket", "says": "websocket.http.response.start"}, False),
        ({"type": "webtransport", "http_version": "3"}, False),
    ],
    ids=str,
)
def test_who_is_told_by_the_header(scope: dict[str, Any], told: bool) -> None:
    """Answers of HTTP/1 are, also of paths that are no work; nothing else is."""
    work = Work(ignored=["/healthz"])
    assert answered(work, scope) == []
    work.ask(stop=True)
    assert answered(work, scope) == ([CLOSE] if told else [])
    work.ask(stop=False)
    assert answered(work, scope) == []


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ([(b"x", b"1")], [(b"x", b"1"), CLOSE]),
        ([(b"connection", b"close")], [CLOSE]),
        ([(b"Connection", b"Keep-Alive"), (b"Keep-Alive", b"timeout=5")], [CLOSE]),
        ([(b"connection", b"keep-alive, Upgrade")], [(b"connection", b"Upgrade"), CLOSE]),
        ([(b"CONNECTION", b"x, CLOSE"), (b"y", b"")], [(b"CONNECTION", b"x"), (b"y", b""), CLOSE]),
    ],
)
def test_the_header_stands_alone_and_contradicts_nothing(
    given: list[tuple[bytes, bytes]], sent: list[tuple[bytes, bytes]]
) -> None:
    """What the app says of its connection is no hindrance, and is otherwise kept."""
    work = Work()
    work.ask(stop=True)
    assert answered(work, {}, given) == sent
    work.ask(stop=False)
    assert answered(work, {}, given) == given


def told(work: Work, environ: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the headers of a WSGI answer as they reach the server."""
    got: list[list[tuple[str, str]]] = []

    def app(_environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("X", "1")])
        return [b""]

    plain = {"PATH_INFO": "/", "SERVER_PROTOCOL": "HTTP/1.1"}
    work.wsgi(app)(plain | environ, lambda _status, headers: got.append(headers))
    return got[0]


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"SERVER_SOFTWARE": "WSGIServer/0.2"}, "WSGIServer/0.2"),
        ({"SERVER_SOFTWARE": "mod_wsgi"}, "mod_wsgi"),
        ({}, "a server without a name"),
        ({"gunicorn.socket": 1, "SERVER_SOFTWARE": "gunicorn/27"}, "stands between work.wsgi"),
        ({"SERVER_SOFTWARE": "Cheroot/11"}, "stands between work.wsgi"),
        ({"waitress.client_disconnected": bool}, "stands between work.wsgi"),
        ({"SERVER_SOFTWARE": "Werkzeug/3"}, ""),
        ({"SERVER_PROTOCOL": "HTTP/2"}, ""),
        ({"HTTP_UPGRADE": "WebSocket"}, ""),
    ],
    ids=str,
)
def test_a_server_that_is_not_known_gets_no_header_and_one_line(
    environ: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The header would be a 500 on some: the app's log says once what remains to be done."""
    work = Work()
    app = work.wsgi(lambda _environ, start: start("200 OK", [("X", "1")]) or [])
    sent: list[Any] = []
    for stop in (False, True, True):
        work.ask(stop=stop)
        with caplog.at_level(logging.WARNING):
            app(
                {"PATH_INFO": "/", "SERVER_PROTOCOL": "HTTP/1.1"} | environ,
                lambda _status, headers: sent.append(headers),
            )
    assert sent == [[("X", "1")]] * 3
    assert [said in line for line in caplog.messages] == ([True] if said else [])


@pytest.mark.parametrize(
    "environ", [{"uwsgi.version": b"2"}, {"SERVER_SOFTWARE": "Granian"}], ids=str
)
def test_a_server_that_takes_the_header_gets_it(environ: dict[str, Any]) -> None:
    """It is asked for each answer, so a start takes it back."""
    work = Work()
    sent = []
    for stop in (False, True, False):
        work.ask(stop=stop)
        sent.append(told(work, environ))
    assert sent == [[("X", "1")], [("X", "1"), ("connection", "close")], [("X", "1")]]


def test_an_answer_that_begins_after_the_stop_says_so() -> None:
    """The word is looked for when the answer starts, not when the request came."""
    work = Work()
    sent: list[Any] = []

    def app(_environ: Any, start_response: Any) -> list[bytes]:
        work.ask(stop=True)
        start_response("200 OK", [])
        return []

    environ = {"PATH_INFO": "/", "SERVER_PROTOCOL": "HTTP/1.1", "SERVER_SOFTWARE": "Granian"}
    work.wsgi(app)(environ, lambda _status, headers: sent.append(headers))
    assert sent == [[("connection", "close")]]
