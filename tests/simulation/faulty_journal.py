"""The real journal, on a disk that is full at times."""

from typing import TYPE_CHECKING

from deregister_agent.errors import JournalError
from deregister_agent.journal.announcements import PendingAnnouncement
from deregister_agent.journal.journal import Decision, Journal
from deregister_agent.journal.registrations import Registration
from deregister_agent.model import Snapshot

if TYPE_CHECKING:
    from tests.simulation.world import World


class FaultyJournal(Journal):
    """A journal on a disk that is full at times."""

    world: "World"

    def _room(self) -> None:
        if self.world.disk_full:
            raise JournalError("cannot write the journal: disk is full")

    def write(self, decision: Decision) -> int:
        """Write, if there is room."""
        self._room()
        return super().write(decision)

    def keep_snapshot(self, instance: str, registry: str, snapshot: Snapshot) -> None:
        """Write, if there is room."""
        self._room()
        super().keep_snapshot(instance, registry, snapshot)

    def keep_registration(self, instance: str, registry: str, shown: Registration) -> None:
        """Write, if there is room."""
        self._room()
        super().keep_registration(instance, registry, shown)

    def forget_registrations(self, instance: str) -> None:
        """Write, if there is room."""
        self._room()
        super().forget_registrations(instance)

    def delivered(self, announcement: PendingAnnouncement) -> None:
        """Write, if there is room."""
        self._room()
        super().delivered(announcement)

    def not_delivered(self, announcement: PendingAnnouncement, error: str) -> None:
        """Write, if there is room."""
        self._room()
        super().not_delivered(announcement, error)
