"""WSGI and ASGI: from before the first line of the app until its last byte is out."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from deregister_agent.app import Work, neighbours

App = Callable[..., Iterable[bytes]]


def in_flight(work: Work) -> dict[str, int]:
    """Return what is in flight, without the kinds of which there is nothing."""
    counts = work.report()["in_flight"]
    assert isinstance(counts, dict)
    return {kind: count for kind, count in counts.items() if count}


def call(app: App, path: str, **environ: Any) -> tuple[str, Any]:
    """Send one request to a WSGI app; return status and JSON."""
    started: list[str] = []
    path, _, query = path.partition("?")
    environ = {"PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": "GET"} | environ
    body = b"".join(app(environ, lambda status, _headers: started.append(status)))
    return started[0], json.loads(body) if body else None


class Body:
    """A streamed body that says what was in flight while it was made and closed."""

    def __init__(self, work: Work, *, broken: bool = False) -> None:
        self.work, self.broken = work, broken
        self.closed_with: dict[str, int] | None = None

    def __iter__(self) -> Iterator[bytes]:
        yield b"a"
        if self.broken:
            raise ValueError
        yield b"b"

    def close(self) -> None:
        self.closed_with = in_flight(self.work)


class TestWsgi:
    def test_a_streamed_body_counts_until_closed(self) -> None:
        """After its last piece it still counts; after close, which is the app's code too, not."""
        work = Work()
        body = Body(work)
        app = work.wsgi(lambda _environ, _start: body)
        answer = app({"PATH_INFO": "/"}, None)
        assert list(answer) == [b"a", b"b"]
        assert in_flight(work) == {"requests": 1}
        answer.close()  # type: ignore[attr-defined]
        assert body.closed_with == {"requests": 1}
        assert in_flight(work) == {}

    def test_a_client_that_goes_ends_the_request(self) -> None:
        """A server that stops in the middle and closes the body, or only forgets it, ends it."""
        work = Work()
        app = work.wsgi(lambda _environ, _start: Body(work))
        for forget in (False, True):
            answer = app({"PATH_INFO": "/"}, None)
            assert next(iter(answer)) == b"a"
            assert in_flight(work) == {"requests": 1}
            if not forget:
                answer.close()  # type: ignore[attr-defined]
            del answer
            assert in_flight(work) == {}

    def test_a_body_that_is_never_read_counts_until_closed(self) -> None:
        """A server may close, or forget, what it has not asked for a single piece (HEAD)."""
        work = Work()
        body = Body(work)
        answer = work.wsgi(lambda _environ, _start: body)({"PATH_INFO": "/"}, None)
        assert in_flight(work) == {"requests": 1}
        answer.close()  # type: ignore[attr-defined]
        answer.close()  # type: ignore[attr-defined]
        assert body.closed_with == {}  # the second time; by then it was over
        assert in_flight(work) == {}
        answer = work.wsgi(lambda _environ, _start: iter(()))({"PATH_INFO": "/"}, None)
        assert in_flight(work) == {"requests": 1}
        del answer
        assert in_flight(work) == {}

    def test_crashes_leak_nothing(self) -> None:
        """Neither an app that raises nor a body that does, nor one whose close does."""
        work = Work()

        def crash(_environ: object, _start: object) -> Iterable[bytes]:
            assert in_flight(work) == {"requests": 1}
            raise SystemExit

        class BadClose(Body):
            def close(self) -> None:
                raise ValueError

        with pytest.raises(SystemExit):
            work.wsgi(crash)({"PATH_INFO": "/"}, None)
        broken = work.wsgi(lambda _environ, _start: Body(work, broken=True))(
            {"PATH_INFO": "/"}, None
        )
        with pytest.raises(ValueError, match=r"^$"):
            list(broken)
        broken.close()  # type: ignore[attr-defined]
        bad = work.wsgi(lambda _environ, _start: BadClose(work))({"PATH_INFO": "/"}, None)
        with pytest.raises(ValueError, match=r"^$"):
            bad.close()  # type: ignore[attr-defined]
        assert in_flight(work) == {}

    def test_the_page_and_ignored_paths_are_not_work(self) -> None:
        """Neither the agent's own requests nor health checks count, not even as started."""
        work = Work(ignored=["/healthz"])
        app = work.wsgi(lambda _environ, _start: [b"1"])
        call(app, "/-/work")
        assert list(app({"PATH_INFO": "/healthz"}, None)) == [b"1"]
        assert work.report()["started"] == 0
        list(app({"PATH_INFO": "/-/worker"}, None))
        assert work.report()["started"] == 1

    def test_several_processes_that_do_not_share_are_unknown(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker that can speak only for itself says so, and says what to do."""
        # Another test of this process may still listen, and then they would be seen.
        monkeypatch.setattr(neighbours, "can_be_told", lambda: False)
        work = Work()
        app = work.wsgi(lambda _environ, _start: [])
        status, answer = call(app, "/-/work", **{"wsgi.multiprocess": True})
        assert status == "503 Service Unavailable"
        assert "let them share their counts: Work(shared=" in answer["error"]
        status, _ = call(app, "/-/work", **{"wsgi.multiprocess": False})
        assert status == "200 OK"

    def test_a_server_with_one_thread_is_not_held(self) -> None:
        """Requests would wait behind the page: it answers at once, work in hand or not."""
        work = Work()
        app = work.wsgi(lambda _environ, _start: [])
        with work.task():
            status, answer = call(app, "/-/work?wait=60", **{"wsgi.multithread": False})
        assert status == "200 OK"
        assert answer["in_flight"]["tasks"] == 1


class TestHolding:
    def test_one_question_at_a_time_is_held(self) -> None:
        """Several that wait must not take every thread of a server from the requests."""
        work = Work()
        app = work.wsgi(lambda _environ, _start: [])
        ticket, answers = work.begin(), []

        def ask() -> None:
            answers.append(call(app, "/-/work?wait=60", **{"wsgi.multithread": True}))

        for _ in range(2):
            held = threading.Thread(target=ask)
            held.start()
            until(app._holding.locked)
            for _ in range(3):
                ask()  # at once: it would take a minute
            assert [answer["in_flight"]["tasks"] for _, answer in answers] == [1, 1, 1]
            ticket.end()
            held.join(20)
            assert answers[-1][1]["in_flight"]["tasks"] == 0
            ticket = work.begin()
            answers.clear()
        ticket.end()

    def test_hooks_that_hang_do_not_take_a_servers_only_thread(self) -> None:
        """A stop is answered soon, "not yet", though the hooks may take long."""
        work, gate = Work(token="t", hook_timeout=600.0), threading.Event()
        work.on_stop(lambda: gate.wait(30))
        app = work.wsgi(lambda _environ, _start: [])
        asked = {"REQUEST_METHOD": "POST", "HTTP_AUTHORIZATION": "Bearer t"}
        status, answer = call(app, "/-/work/stop", **asked)
        assert status == "504 Gateway Timeout"
        assert "ask again" in answer["error"]
        gate.set()
        until(lambda: work.stopped)
        assert call(app, "/-/work/stop", **asked)[0] == "200 OK"


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, for a bounded time."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.005)


class Sent:
    """What a server does with an ASGI app's messages."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def __call__(self, message: Any) -> None:
        self.messages.append(message)

    def status(self) -> int:
        return int(self.messages[0]["status"])

    def json(self) -> Any:
        return json.loads(self.messages[1]["body"])


async def nothing() -> dict[str, Any]:
    """Stand for a client that sends nothing more."""
    return {"type": "http.disconnect"}


def scope(path: str, kind: str = "http", **more: Any) -> dict[str, Any]:
    """Return an ASGI scope for *path*."""
    path, _, query = path.partition("?")
    basics: dict[str, Any] = {"type": kind, "path": path, "method": "GET", "headers": []}
    return basics | {"query_string": query.encode()} | more


class TestAsgi:
    def test_kinds_are_told_apart(self) -> None:
        """Requests and WebSockets count until the app returns; the lifespan does not."""
        work = Work()
        seen = []

        async def app(scope: Any, _receive: Any, _send: Any) -> None:
            seen.append((scope["type"], in_flight(work)))

        for kind in ("http", "websocket", "lifespan"):
            asyncio.run(work.asgi(app)({"type": kind, "path": "/"}, nothing, Sent()))
        assert seen == [
            ("http", {"requests": 1}),
            ("websocket", {"websockets": 1}),
            ("lifespan", {}),
        ]
        assert in_flight(work) == {}

    def test_cancelled_and_crashed_requests_leak_nothing(self) -> None:
        """A client that goes, as a cancelled task, and an exception both end the request."""
        work = Work()

        async def hang(_scope: Any, _receive: Any, _send: Any) -> None:
            await asyncio.sleep(60)

        async def crash(_scope: Any, _receive: Any, _send: Any) -> None:
            raise ValueError

        async def main() -> None:
            hanging = asyncio.ensure_future(work.asgi(hang)(scope("/"), nothing, Sent()))
            await asyncio.sleep(0)
            assert in_flight(work) == {"requests": 1}
            hanging.cancel()
            with pytest.raises(asyncio.CancelledError):
                await hanging
            with pytest.raises(ValueError, match=r"^$"):
                await work.asgi(crash)(scope("/"), nothing, Sent())

        asyncio.run(main())
        assert in_flight(work) == {}

    @pytest.mark.parametrize("fails", [False, True])
    def test_a_request_counts_until_the_server_has_sent_it(self, *, fails: bool) -> None:
        """An answer that waits for a slow client counts, also when a background task fails."""
        work = Work()

        class Transport:
            left = 3

            def get_write_buffer_size(self) -> int:
                assert in_flight(work) == {"requests": 1}
                self.left -= 1
                return self.left

        class Cycle:
            transport = Transport()

            async def send(self, message: Any) -> None:
                pass

        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            await send({"type": "http.response.body"})
            if fails:
                raise ValueError

        cycle = Cycle()
        with pytest.raises(ValueError, match=r"^$") if fails else nullcontext():
            asyncio.run(work.asgi(app)(scope("/"), nothing, cycle.send))
        assert cycle.transport.left == 0
        assert in_flight(work) == {}

    @pytest.mark.parametrize("root", ["", "/", "/api"])
    def test_the_page_is_found_below_any_root(self, root: str) -> None:
        """Wherever the server says that the app is mounted."""
        sent = Sent()
        where = scope(f"{root.rstrip('/')}/-/work", root_path=root)
        asyncio.run(Work().asgi(lambda *_: asyncio.sleep(0))(where, nothing, sent))
        assert sent.status() == 200

    def test_the_page_answers_the_moment_work_ends(self) -> None:
        """It holds the request without holding the loop, and under a mount too."""
        work = Work()
        sent = Sent()

        async def main() -> None:
            ticket = work.begin("messages")
            page = work.asgi(lambda *_: asyncio.sleep(0))
            where = scope("/api/-/work?wait=60", root_path="/api")
            held = asyncio.ensure_future(page(where, nothing, sent))
            await asyncio.sleep(0.05)
            assert not held.done()
            ticket.end()
            await asyncio.wait_for(held, 10)

        asyncio.run(main())
        assert sent.status() == 200
        assert sent.json()["in_flight"]["messages"] == 0
        assert sent.json()["started"] == 1
