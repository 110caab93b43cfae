"""
What the agent relies on: contracts for backends, the readiness check and the process finder.

A backend is one file or folder with three things in it: ``Options`` (a ``Table``:
the keys it takes in the configuration, and their documentation), a Registry, an
IdleProbe or a Notifier, and ``build(options, instance)``, which makes one for an
instance. ``build`` may refuse with ``ConfigError`` but touches no network. A file
may also have ``warnings(options, instance)``, which looks around on the host and
returns sentences about what will hurt; check-config prints them.

Every call may be made from any thread and blocks for at most the backend's own
timeout, whatever the other side does.
"""

import math
from collections.abc import Sequence
from typing import Protocol

from deregister_agent.model import (
    Announcement,
    Event,
    Listing,
    Look,
    Presence,
    Process,
    Reading,
    Snapshot,
    Straggler,
)


class Registry(Protocol):
    """
    Something that sends work to one instance: Consul, etcd, an Nginx upstream.

    Every method may be called again after any failure, and raises RegistryError
    rather than guess. A registry does not retry, log, or return a value that stands
    for failure: the loop does the retrying. It sleeps in watch() alone, and believes
    nothing that it has kept from an earlier call: what a restart loses may only cost
    time. A registry that has to answer others (a health check) may run a listener
    from its first call on, and count its answers.

    Inherit from this class explicitly; the methods at the end have an
    answer for registries that cannot do better.
    """

    name: str
    keeps: bool = False
    """Whether what restore() has written lasts only for as long as keep() is called."""
    listens: bool = False
    """Whether it answers others by a listener of its own, from its first call on."""

    def lists(self) -> bool:
        """
        Ask the registry itself, now, whether it would send work to the instance.

        Never from a cache, and never from a copy that may be older than the last
        withdraw() or restore() that returned: this answer is the proof.
        """
        ...

    def snapshot(self) -> Snapshot | None:
        """
        Return, as plain JSON, all that restore() will need; None if there is nothing of it here.

        Changes nothing. It is journalled before the first withdraw().
        """
        ...

    def withdraw(self) -> None:
        """
        Stop new work. Returning means that the registry acknowledged it.

        Twice is the same as once; an instance that is not there is no error.
        """
        ...

    def restore(self, snapshot: Snapshot | None) -> None:
        """
        Undo withdraw(), from a snapshot that may be days old. Twice is the same as once.

        Never overrides what somebody else has done since. None: there was nothing
        to take a snapshot of; do what the options allow, or leave it to the app.
        """
        ...

    def stragglers(self) -> Sequence[Straggler]:
        """Name what may still send work along old routes; empty when nothing can."""
        return ()

    def look(self) -> Look:
        """
        Say whether it is listed, there and out, or absent; and what old routes may still send.

        Who can recognise an instance that gets no work (critical, ``down``, in maintenance,
        weight 0) overrides this and says so: that it was seen proves that it is looked for in
        the right place, and an absence is believed only of what was seen. What is there and
        looks like the instance without being recognised is no absence: UnrecognisedError.
        """
        return Look(Listing.LISTED if self.lists() else Listing.ABSENT, self.stragglers())

    def look_alikes(self) -> Sequence[str]:
        """
        Name what looks like the instance, where look() says that it is absent.

        Each sentence holds the very ID, key or target that is there, and the line of the
        configuration that would mean it. May raise RegistryError.
        """
        return ()

    def other_registrations(self) -> Sequence[str]:
        """
        Name what sends work to the instance besides what look() tells of, listed or not.

        Asked once for each drain, before the first withdraw, as what is not withdrawn goes on
        sending work. What stands in ``not_ours`` of the options is left out. Each sentence
        holds the very ID, key or target, and the line of the configuration to paste. What the
        server does not let anybody see is left out as well; no answer is a RegistryError.
        """
        return ()

    def lost_by_restoring(self, snapshot: Snapshot) -> str:
        """Name what restore() cannot bring back of *snapshot*; empty where that is nothing."""
        del snapshot
        return ""

    def was_out_by(self, snapshot: Snapshot) -> str:
        """
        Say by what the instance was out before it was withdrawn; empty where it was listed.

        For registries whose look() cannot tell by what it is out: being out is then what
        *snapshot* is restored to.
        """
        del snapshot
        return ""

    def notes(self, snapshot: Snapshot | None) -> Sequence[str]:
        """Say what a person should know of this registry and of its snapshot. No I/O."""
        del snapshot
        return ()

    def keep(self, snapshot: Snapshot | None) -> float:
        """
        Prolong what restore() has written; restore it where it has run out in the meantime.

        Called where ``keeps`` says so, from restore() on and while the instance is
        serving, but only as long as the app is ready. Return in how many seconds to
        be called again.
        """
        del snapshot
        return math.inf

    def others(self) -> int | None:
        """Count the other instances that would still get work; None if that cannot be told."""
        return None

    def watch(self, cursor: str | None, timeout: float) -> str | None:
        """
        Block, for at most *timeout* seconds, until the answer of lists() may have changed.

        Return a cursor for the next call; with a cursor of None, return at once.
        So watch(None), lists(), watch(cursor), lists(), ... misses nothing.
        Return None, at once, if this registry cannot watch: then lists() is polled.
        """
        del cursor, timeout
        return None


class IdleProbe(Protocol):
    """A way to learn what the app still has in hand."""

    name: str

    def read(self, wait: float) -> Reading:
        """
        Tell what is in flight now. Raise ProbeError when it does not know.

        Absent, unreachable, malformed or negative is not known; it is never zero.
        Where the app can tell of the moment it becomes idle, the call may be held
        for up to *wait* seconds while work is in flight; others ignore it.
        """
        ...


class Notifier(Protocol):
    """A way to tell the release platform."""

    name: str
    announces: frozenset[Announcement]  # what it wants to be told

    def announce(self, event: Event) -> None:
        """
        Tell the platform. Returning means that it took *event*; raise NotifyError otherwise.

        May be called again with the same event, whose id then is the same.
        """
        ...

    def examine(self, running: Process | None) -> str:
        """
        Say what could be told, and that it could; empty where nothing can be looked at.

        Tells nobody anything and changes nothing: reachability, rights and target only.
        *running* is who the app is now, where that is seen. Raises NotifyError for what
        would not be taken.
        """
        del running
        return ""


class ReadyCheck(Protocol):
    """A way to learn whether the app is ready to take traffic."""

    name: str
    passes: int  # how many times in a row it must pass
    every: float  # seconds between two checks

    def ask(self) -> None:
        """Check once. Returning means that the check passed; raise ProbeError otherwise."""
        ...


class ProcessFinder(Protocol):
    """A way to tell the process under drain from its successor. Local and quick: no network."""

    def look(self, was: Process | None) -> Presence:
        """
        Tell whether *was* has exited and who is in its place now.

        ``exited`` is True only when it is certain. A closed port is not an exit:
        an app that got SIGTERM closes its listener and goes on with its work.
        Where *was* is None, ``nobody`` is True only when it is certain that nothing is
        there, and no connection of the instance's port is left over.
        Never raises for what cannot be seen: ``note`` then says what and why.
        """
        ...

    def wait_exit(self, was: Process, timeout: float) -> None:
        """Block until *was* may have exited, for at most *timeout* seconds."""
        ...

    def heard(self, mark: str) -> None:
        """Take in what the app last said of itself to a probe: ``Reading.mark``."""
        ...
