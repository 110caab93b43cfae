"""Scopes of ASGI that are no requests: what lives as long as its server counts by its messages."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import pytest
from asgiref.server import StatelessServer

from deregister_agent.app import Work
from tests.unit.test_app_promises import in_flight, until

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
App = Callable[[Message, Receive, Any], Awaitable[None]]


async def nothing(message: Message) -> None:
    """Send nowhere."""


class Held:
    """What an app does with each message: it waits until it may go on."""

    def __init__(self) -> None:
        self.seen, self.gates = list[str](), dict[str, threading.Event]()

    def do(self, name: str) -> None:
        self.seen.append(name)
        assert self.gates.setdefault(name, threading.Event()).wait(60)

    async def wait(self, name: str) -> None:
        self.seen.append(name)
        gate = self.gates.setdefault(name, threading.Event())
        while not gate.is_set():  # noqa: ASYNC110 - threads open it, too
            await asyncio.sleep(0.005)

    def go(self, name: str) -> None:
        self.gates.setdefault(name, threading.Event()).set()


async def consume(receive: Receive, held: Held) -> None:
    """Do one message after another, as the consumers of Channels do."""
    while True:
        message = await receive()
        await held.wait(message["name"])


class Worker(StatelessServer):
    """A server of messages, made as that of Channels is: of asgiref's, which has the queues."""

    kind = "channel"

    def deliver(self, name: str) -> None:
        scope = {"type": self.kind, "channel": "orders"}
        self.get_or_create_application_instance("orders", scope).put_nowait({"name": name})  # type: ignore[no-untyped-call]

    async def application_send(self, scope: Message, message: Message) -> None:
        """Take what the app sends."""


def served(work: Work, app: App, test: Callable[[Worker], Awaitable[None]], kind: str) -> None:
    """Run an app behind the middleware on the server of messages, for a test."""

    async def main() -> None:
        worker = Worker(work.asgi(app))  # type: ignore[no-untyped-call]
        worker.kind = kind
        await test(worker)
        for name in list(worker.application_instances):
            worker.delete_application_instance(name)  # type: ignore[no-untyped-call]
        await asyncio.sleep(0)

    asyncio.run(main())


async def soon(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(until, condition)


@pytest.mark.parametrize("kind", ["channel", "mqtt"])
class TestByMessage:
    def test_each_message_counts_and_the_wait_for_one_does_not(self, kind: str) -> None:
        """However long the consumer lives; what waits in the server's queue leaves no gap."""
        work, held = Work(), Held()

        async def app(scope: Message, receive: Receive, send: Any) -> None:
            await consume(receive, held)

        async def test(worker: Worker) -> None:
            for name in ("a", "b"):
                worker.deliver(name)
            await soon(lambda: held.seen == ["a"])
            assert in_flight(work) == {"messages": 1}
            idle = asyncio.create_task(asyncio.to_thread(work.wait_idle, 60))
            held.go("a")
            await soon(lambda: held.seen == ["a", "b"])
            assert not idle.done()
            held.go("b")
            assert await idle
            worker.deliver("c")
            await soon(lambda: held.seen == ["a", "b", "c"])
            assert in_flight(work) == {"messages": 1}

        served(work, app, test, kind)
        assert in_flight(work) == {}

    def test_a_consumer_that_begins_slowly_counts(self, kind: str) -> None:
        """From the call on, before it has asked for the message that it was made for."""
        work, held = Work(), Held()

        async def app(scope: Message, receive: Receive, send: Any) -> None:
            await held.wait("begin")
            await consume(receive, held)

        async def test(worker: Worker) -> None:
            worker.deliver("a")
            await soon(lambda: held.seen == ["begin"])
            assert in_flight(work) == {"messages": 1}
            held.go("begin")
            await soon(lambda: held.seen == ["begin", "a"])
            assert in_flight(work) == {"messages": 1}
            held.go("a")
            await soon(lambda: in_flight(work) == {})

        served(work, app, test, kind)

    def test_a_thread_that_a_message_leaves_behind_counts(self, kind: str) -> None:
        """The wait for it was given up, and the consumer asks for more; the thread goes on."""
        work, held = Work(), Held()

        async def app(scope: Message, receive: Receive, send: Any) -> None:
            while True:
                message = await receive()
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(asyncio.to_thread(held.do, message["name"]), 0.05)

        async def test(worker: Worker) -> None:
            worker.deliver("a")
            worker.deliver("b")
            await soon(lambda: held.seen == ["a", "b"])
            await asyncio.sleep(0.1)
            assert in_flight(work) == {"messages": 2}
            held.go("a")
            await soon(lambda: in_flight(work) == {"messages": 1})
            held.go("b")
            await soon(lambda: in_flight(work) == {})

        served(work, app, test, kind)

    def test_a_thread_of_no_message_counts_for_itself(self, kind: str) -> None:
        """What came past the middleware, as a group's messages do, and goes into a thread."""
        work, held = Work(), Held()

        async def app(scope: Message, receive: Receive, send: Any) -> None:
            asyncio.get_running_loop().call_later(0.05, past)
            asked.append(asyncio.ensure_future(receive()))
            await come.wait()
            await asyncio.to_thread(held.do, "past")
            await asked[0]

        come, asked = asyncio.Event(), list[asyncio.Future[Message]]()

        def past() -> None:
            come.set()

        async def test(worker: Worker) -> None:
            worker.deliver("a")
            await soon(lambda: held.seen == ["past"])
            assert in_flight(work)["messages"] >= 1
            held.go("past")
            await soon(lambda: in_flight(work) == {})

        served(work, app, test, kind)

    def test_a_consumer_that_ends_or_fails_has_nothing_in_hand(self, kind: str) -> None:
        """Its last message ends with it."""
        work, held = Work(), Held()

        async def app(scope: Message, receive: Receive, send: Any) -> None:
            await held.wait((await receive())["name"])
            raise OSError("the database has gone")

        async def test(worker: Worker) -> None:
            worker.deliver("a")
            await soon(lambda: held.seen == ["a"])
            assert in_flight(work) == {"messages": 1}
            held.go("a")
            await soon(lambda: in_flight(work) == {})
            (details,) = worker.application_instances.values()
            with pytest.raises(OSError, match="database"):
                await details["future"]

        served(work, app, test, kind)


SCOPES = {
    "lifespan": {},
    "http": {"requests": 1},
    "websocket": {"websockets": 1},
    "webtransport": {"websockets": 1},  # hypercorn's and others'
    "message": {"messages": 1},  # AMGI: one call for each message
    "pigeon": {"requests": 1},  # nobody knows: never taken for nothing
}


@pytest.mark.parametrize("kind", SCOPES)
def test_other_scopes_count_as_a_whole(kind: str) -> None:
    """From the call to the end, whatever they receive; a lifespan is no work."""
    work, held = Work(), Held()

    async def app(scope: Message, receive: Receive, send: Any) -> None:
        await receive()
        waiting = asyncio.ensure_future(asyncio.Event().wait())
        await held.wait("a")
        waiting.cancel()

    async def receive() -> Message:
        return {"type": f"{kind}.begin"}

    async def main() -> None:
        call = asyncio.ensure_future(work.asgi(app)({"type": kind}, receive, nothing))
        await soon(lambda: held.seen == ["a"])
        assert in_flight(work) == SCOPES[kind]
        held.go("a")
        await call
        assert in_flight(work) == {}

    asyncio.run(main())
