"""The rules of the page, and the hooks behind it."""

import asyncio
import http.client
import json
import socket
import threading
from typing import Any

import pytest

from deregister_agent.app import Work


def ask(port: int, method: str, path: str, **headers: str) -> tuple[int, dict[str, Any]]:
    """Ask the page on a port of its own; return status and JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if body else {}
    finally:
        connection.close()


class TestRules:
    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/-/work", 200),
            ("HEAD", "/-/work", 200),
            ("GET", "/-/work?wait=0.5", 200),
            ("GET", "/-/work?wait=-1", 400),
            ("GET", "/-/work?wait=nan", 400),
            ("GET", "/-/work?wait=", 400),
            ("POST", "/-/work", 405),
            ("GET", "/-/work/stop", 405),
            ("GET", "/-/work/else", 404),
            ("GET", "/", 404),
            ("POST", "/-/work/stop", 200),
            ("POST", "/-/work/start", 200),
        ],
    )
    def test_each_request_has_its_status(self, method: str, path: str, status: int) -> None:
        """Only what was asked rightly is answered with 200."""
        assert ask(Work().serve(0), method, path)[0] == status

    def test_web_pages_may_not_ask(self) -> None:
        """Neither another origin nor a name that was made to point here gets an answer."""
        port = Work().serve(0)
        assert ask(port, "POST", "/-/work/stop", Origin="https://a.example")[0] == 403
        assert ask(port, "GET", "/-/work", Host="a.example")[0] == 403
        assert ask(port, "GET", "/-/work", Host="localhost:1")[0] == 200

    def test_a_token_is_asked_for(self) -> None:
        """With a token nothing is said without it."""
        port = Work(token="secret").serve(0)
        assert ask(port, "GET", "/-/work")[0] == 401
        assert ask(port, "GET", "/-/work", Authorization="Bearer secreT")[0] == 401
        assert ask(port, "POST", "/-/work/stop", Authorization="Bearer secret")[0] == 200
        assert ask(port, "GET", "/-/work", Authorization="Bearer secret")[1]["stopped"] is True

    def test_the_apps_own_port_does_not_stop_it_without_a_token(self) -> None:
        """Whoever reaches a public port must not be able to stop the app."""
        work = Work()
        started: list[str] = []
        environ = {"PATH_INFO": "/-/work/stop", "REQUEST_METHOD": "POST"}
        answer = work.wsgi(lambda *_: [])(environ, lambda status, _: started.append(status))
        assert started == ["403 Forbidden"]
        assert b"Work(token=...)" in b"".join(answer)
        assert not work.stopped

    def test_an_open_address_needs_a_token(self) -> None:
        """Serving beyond loopback without one is refused."""
        with pytest.raises(ValueError, match="make it Work"):
            Work().serve(0, "0.0.0.0")

    @pytest.mark.parametrize("path", ["", "/", "work"])
    def test_a_path_that_would_swallow_the_app_is_refused(self, path: str) -> None:
        """All below the path is the page's: it cannot be the root."""
        with pytest.raises(ValueError, match="must be like /-/work"):
            Work(path=path)

    def test_a_taken_port_is_an_error(self) -> None:
        """A second process that counts for itself must not go unnoticed."""
        with (
            socket.create_server(("127.0.0.1", 0)) as taken,
            pytest.raises(OSError, match="share their counts"),
        ):
            Work().serve(taken.getsockname()[1])


class TestHooks:
    def test_stop_and_start_answer_when_the_hooks_have_returned(self) -> None:
        """Each calls its hooks once, in order, however often it is asked."""
        work = Work()
        calls: list[str] = []
        gate = threading.Event()

        @work.on_stop
        def pause() -> None:
            gate.wait(10)
            calls.append("pause")

        work.on_stop(lambda: calls.append("pause more"))
        work.on_start(lambda: calls.append("resume"))
        port = work.serve(0)
        answers: list[Any] = []
        asking = threading.Thread(target=lambda: answers.append(ask(port, "POST", "/-/work/stop")))
        asking.start()
        assert ask(port, "GET", "/-/work")[1]["stopped"] is False
        assert answers == []
        gate.set()
        asking.join(10)
        assert answers[0][1]["stopped"] is True
        assert ask(port, "POST", "/-/work/stop")[1]["stopped"] is True
        assert calls == ["pause", "pause more"]
        for _ in range(2):
            assert ask(port, "POST", "/-/work/start")[1]["stopped"] is False
        assert calls == ["pause", "pause more", "resume"]

    def test_start_without_a_stop_calls_nothing(self) -> None:
        """What runs is not started again."""
        work = Work()
        calls: list[str] = []
        work.on_start(lambda: calls.append("resume"))
        assert ask(work.serve(0), "POST", "/-/work/start")[0] == 200
        assert calls == []

    def test_a_hook_that_fails_is_told_and_tried_again(self) -> None:
        """A failure is no "stopped", and the next POST calls the hooks again."""
        work = Work()
        calls: list[int] = []

        @work.on_stop
        def pause() -> None:
            calls.append(1)
            if len(calls) == 1:
                raise ValueError("no broker")

        port = work.serve(0)
        status, answer = ask(port, "POST", "/-/work/stop")
        assert status == 500
        assert "a hook failed in process" in answer["error"]
        assert ask(port, "GET", "/-/work")[1]["stopped"] is False
        assert ask(port, "POST", "/-/work/stop")[1]["stopped"] is True
        assert calls == [1, 1]

    @pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
    def test_a_hook_may_raise_anything(self, error: type[BaseException]) -> None:
        """Whatever it raises is told, and the next wish is followed all the same."""
        work, calls = Work(), []

        @work.on_stop
        def pause() -> None:
            calls.append("pause")
            raise error

        work.on_start(lambda: calls.append("resume"))
        port = work.serve(0)
        assert ask(port, "POST", "/-/work/stop")[0] == 500
        assert ask(port, "POST", "/-/work/start")[1]["stopped"] is False
        assert calls == ["pause", "resume"]

    def test_a_hook_that_does_not_return_is_a_timeout(self) -> None:
        """It is 504, never "stopped"; once it has returned, the next POST says so."""
        work, gate = Work(hook_timeout=0.1), threading.Event()
        work.on_stop(lambda: gate.wait(30))
        port = work.serve(0)
        assert ask(port, "POST", "/-/work/stop")[0] == 504
        assert not work.stopped
        gate.set()
        status = 504
        while status == 504:
            status, answer = ask(port, "POST", "/-/work/stop")
        assert answer["stopped"] is True

    def test_a_coroutine_hook_that_takes_too_long_is_cancelled(self) -> None:
        """It is told as failed, so it must not go on and pause what is started again later."""
        work = Work(hook_timeout=0.2)
        over = threading.Event()

        async def pause() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                over.set()

        async def main() -> None:
            work.on_stop(pause)
            port, status = work.serve(0), 504
            while status == 504:
                status, _ = await asyncio.to_thread(ask, port, "POST", "/-/work/stop")
            assert status == 500
            assert await asyncio.to_thread(over.wait, 10)

        asyncio.run(main())

    def test_a_coroutine_hook_runs_in_its_loop(self) -> None:
        """A consumer that belongs to an event loop is paused there."""
        work = Work()
        ran: list[object] = []

        async def pause() -> None:
            ran.append(asyncio.get_running_loop())

        async def main() -> None:
            work.on_stop(pause)
            port = work.serve(0)
            answer = await asyncio.to_thread(ask, port, "POST", "/-/work/stop")
            assert answer[1]["stopped"] is True
            assert ran == [asyncio.get_running_loop()]

        asyncio.run(main())
