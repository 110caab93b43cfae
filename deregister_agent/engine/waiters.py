"""Those who wait for news of one instance."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

from deregister_agent.model import Drain


class Waiters(ABC):
    """
    Lets threads wait until what is known of an instance is as they want it.

    ``changed`` is notified with each decision; its lock is held over all that is known.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.closed = False
        self._askers = 0  # who waits for a registry's word: a mere look wakes nobody else

    @property
    @abstractmethod
    def drain(self) -> Drain:
        """The drain as it was last written down."""

    def wait(self, final: Callable[[Drain], bool], timeout: float) -> Drain:
        """Block until *final* says so of the drain, *timeout* is over or the agent stops."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed or final(self.drain), timeout)
            return self.drain

    def wait_for_words(self, heard: Callable[[], bool], timeout: float) -> None:
        """Block as wait() does until *heard*, which each answer may bring about. Needs the lock."""
        self._askers += 1
        try:
            self.changed.wait_for(lambda: self.closed or heard(), timeout)
        finally:
            self._askers -= 1

    def tell_askers(self) -> None:
        """Wake who waits for words. Needs the lock."""
        if self._askers:
            self.changed.notify_all()

    def close(self) -> None:
        """Let everybody who waits go."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
