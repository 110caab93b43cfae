"""A child process that counts as work of its parent until it has exited."""

import threading
from collections.abc import Callable
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
    of its own (``multiprocessing.Process``).
    """
    try:
        child = _started(start, args, options)
        found = pids.find(child.pid)
        if found is None:
            ticket.end()
        else:
            threading.Thread(
                target=_follow, args=(found, ticket.end), name="work-child", daemon=True
            ).start()
    except BaseException:
        ticket.end()
        raise
    return child


def _started(start: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    if callable(start):
        return start(*args, **options)
    start.start()
    return start


def _follow(process: pids.Pid, end: Callable[[], None]) -> None:
    """Wait for an exit without taking its status, which is for the app to take."""
    try:
        while pids.is_alive(process):
            pids.wait([process], LOOK)
    finally:
        end()
