"""Which process is being drained, and is it still there."""

from typing import Protocol

from deregister_agent.model import Presence, Process


class ProcessFinder(Protocol):
    """A way to tell the process under drain from its successor. Local and quick: no network."""

    def look(self, was: Process | None) -> Presence:
        """
        Tell whether *was* has exited and who is in its place now.

        ``exited`` is True only when it is certain. A closed port is not an exit:
        an app that got SIGTERM closes its listener and goes on with its work.
        Never raises for what cannot be seen: ``note`` then says what and why.
        """
        ...

    def wait_exit(self, was: Process, timeout: float) -> None:
        """Block until *was* may have exited, for at most *timeout* seconds."""
        ...
