"""A child process that counts as work of its parent until it has exited."""

import threading
from queue import SimpleQueue
from typing import Any

from deregister_agent.app.board import Ticket
from deregister_agent.host import pids

LOOK = 60.0  # seconds after which a wait for an exit begins again


def start_counted(
    ticket: Ticket, start: Any, args: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    """
    Start a child and return it; *ticket* ends when it has exited, whoever waits for it.

    *start* is what makes a started child (``subprocess.Popen``), or one with a ``start``
    of its own (``multiprocessing.Process``). Where no thread can be had to follow the child,
    it is not started: nobody would count it.
    """
    started: SimpleQueue[pids.Pid | None] = SimpleQueue()
    try:
        threading.Thread(
            target=_follow, args=(started, ticket), name="work-child", daemon=True
        ).start()
    except BaseException:
        ticket.end()
        raise
    child = None
    try:
        child = _started(start, args, options)
    finally:
        started.put(None if child is None else pids.find(child.pid))
    return child


def _started(start: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    if callable(start):
        return start(*args, **options)
    start.start()
    return start


def _follow(started: "SimpleQueue[pids.Pid | None]", ticket: Ticket) -> None:
    """Wait for an exit without taking its status, which is for the app to take."""
    try:
        process = started.get()
        while process is not None and pids.is_alive(process):
            pids.wait([process], LOOK)
    finally:
        ticket.end()
