"""Threads that are begun where the host may have none left."""

import threading
from collections.abc import Callable

from deregister_agent.errors import AgentError


class NoThread(AgentError):  # noqa: N818 - an answer of the host, not a fault
    """The host starts no thread for this process now; it may a moment later."""


def start(target: Callable[..., object], *args: object, name: str | None = None) -> None:
    """Run *target* on a daemon thread of its own. Raises NoThread."""
    try:
        threading.Thread(target=target, args=args, name=name, daemon=True).start()
    except RuntimeError as e:
        raise NoThread(
            f"the host starts no thread ({e}): see the limits of the agent, which are TasksMax "
            "of its unit, pids.max of its control group and the processes of its user"
        ) from e
