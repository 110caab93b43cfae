"""Hooks that cannot work are refused when they are registered, or fail when they are asked."""

import asyncio
import functools
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deregister_agent.app import Work
from tests.unit.test_app_promises import until


class Client:
    """The methods of clients that people give as hooks, as their makers wrote them."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def pause(self, *partitions: object) -> None:
        """Stand for aiokafka's and kafka-python's: without partitions it does nothing."""
        self.done.extend("pause" for _ in partitions)

    def basic_cancel(self, consumer_tag: str, callback: object = None) -> None:
        """Stand for pika's."""

    def unsubscribe(self, *args: object) -> None:
        """Stand for that of redis-py's PubSub: without channels it means all."""
        self.done.append("unsubscribe")

    def stop(self, exc_type: object = None, *exc_info: object, **options: object) -> None:
        """Stand for what is both a method and the end of a ``with`` block."""
        self.done.append("stop")

    def stopped(self) -> "Client":
        """Stand for what returns itself, and is an iterator of messages."""
        return self

    def __next__(self) -> str:
        return "message"

    def __iter__(self) -> Iterator[str]:
        return self


async def not_yet() -> None:
    """Stand for what was called where the function was meant."""


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "varied": (lambda: Client().pause, r"Client.pause acts on partitions, and a hook is called"),
    "partial": (lambda: functools.partial(Client().pause), "acts on partitions"),
    "needed": (lambda: Client().basic_cancel, "acts on consumer_tag"),
    "unbound": (lambda: Client.stop, "acts on self"),
    "keyword": (lambda: lambda *, topic: topic, "acts on topic"),
    "partial with too little": (lambda: functools.partial(lambda a, b: a, 1), "acts on b"),
    "awaited already": (not_yet, "has been called already: give the function itself"),
    "nothing": (lambda: None, "a hook is a function, and this is NoneType"),
    "what it returned": (lambda: Client().done, "a hook is a function, and this is list"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_called_without_arguments_is_refused(name: str) -> None:
    """At its registration, by name, with what to do; for a start as well as for a stop."""
    make, sentence = REFUSED[name]
    work = Work()
    for register in (work.on_stop, work.on_start):
        with pytest.raises(TypeError, match=sentence):
            register(make())
    work.ask(stop=True)
    until(work.settled)  # nothing was registered


TAKEN: dict[str, Callable[[Client], Callable[[], Any]]] = {
    "arguments that mean all": lambda client: client.unsubscribe,
    "optional ones": lambda client: client.stop,
    "a signal's, too": lambda client: lambda *_: client.stop(),
    "a counted one": lambda client: Work().task()(client.stop),
    "given": lambda client: functools.partial(client.pause, "orders-0"),
    "an event": lambda client: threading.Event().set,
    "a list's": lambda client: client.done.clear,
    "what returns the client": lambda client: client.stopped,
    "what returns an answer": lambda client: lambda: {"stopped": [True], "left": 0},
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_can_be_called_is_taken(name: str) -> None:
    """Nothing is refused for its looks, and an answer that promises nothing is no failure."""
    work = Work()
    work.on_stop(TAKEN[name](Client()))
    work.ask(stop=True)
    until(work.settled)
    assert work.trouble() is None
    assert work.stopped


MEANINGLESS: dict[str, tuple[Callable[[], Any], str]] = {
    "a function": (lambda: Client().stop, "returned the function Client.stop, which nobody has"),
    "a partial": (lambda: functools.partial(Client().stop), "which nobody has called"),
    "one of several": (lambda: [None, Client().stop], "which nobody has called"),
    "in a mapping": (lambda: {"orders": Client().stop}, "which nobody has called"),
    "in a queue": (lambda: deque([Client().stop]), "which nobody has called"),
    "map": (lambda: map(Client.stop, [Client()]), "returned a map, of which nothing has run"),
    "filter": (lambda: filter(Client.stop, [Client()]), "returned a filter"),
    "starmap": (lambda: itertools.starmap(print, []), "returned a starmap"),
    "a wait that was given up": (lambda: threading.Event().wait(0.01), "returned False"),
    "a condition": (lambda: Client().done != [], "returned False"),
}


@pytest.mark.parametrize("name", MEANINGLESS)
def test_an_answer_that_shows_nothing_was_done_is_no_stop(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The ask fails, and the log says what the hook returned and what to do."""
    hook, sentence = MEANINGLESS[name]
    work = Work()
    work.on_stop(hook)
    with caplog.at_level(logging.ERROR):
        work.ask(stop=True)
        until(work.settled)
    assert not work.stopped
    assert sentence in caplog.text


def test_several_promises_in_a_mapping_are_all_awaited() -> None:
    """As in a list: each is waited for in the loop where the hook was registered."""
    work, done = Work(), list[str]()

    async def stop(topic: str) -> None:
        await asyncio.sleep(0)
        done.append(topic)

    async def main() -> None:
        work.on_stop(lambda: {"a": stop("a"), "b": {"c": stop("c")}.values()})
        work.ask(stop=True)
        await asyncio.to_thread(until, work.settled)
        assert work.stopped

    asyncio.run(main())
    assert done == ["a", "c"]


def test_a_hook_that_belongs_to_the_loop_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    """A client that asks for its loop does not find it in the hooks' thread: the log says why."""
    work = Work()

    async def main() -> None:
        work.on_stop(lambda: asyncio.ensure_future(asyncio.get_running_loop().create_future()))
        with caplog.at_level(logging.ERROR):
            work.ask(stop=True)
            await asyncio.to_thread(until, work.settled)

    asyncio.run(main())
    assert not work.stopped
    assert "was called in the thread of the hooks; if its consumer belongs" in caplog.text
