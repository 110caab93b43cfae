"""
The two ways in which an instance is written in etcd: a key of its own, or a member of a document.

What is here may raise what Talk raises.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Protocol

from deregister_agent.errors import AgentError
from deregister_agent.model import Snapshot
from deregister_agent.registries.etcd.json_document import Members, Removed, plain
from deregister_agent.registries.etcd.layouts import Address, Finder
from deregister_agent.registries.etcd.operations import (
    Entry,
    Keys,
    LeaseGone,
    Talk,
    decoded,
    encoded,
)

LEFT_TO_APP = "the app has to register itself"
FOREIGN = "its snapshot was taken with another mode than is configured now: "


class Place(Protocol):
    """How an instance is written in etcd."""

    keys: Keys  # which to read and to watch

    def listed(self, talk: Talk) -> bool:
        """Whether it is there now."""
        ...

    def others(self, talk: Talk) -> int | None:
        """Count the other instances; None if it cannot tell."""
        ...

    def snapshot(self, talk: Talk) -> Snapshot | None:
        """Return what restore() will need; None if it is not there."""
        ...

    def withdraw(self, talk: Talk) -> None:
        """Take it out."""
        ...

    def restore(self, talk: Talk, snapshot: Snapshot | None) -> None:
        """Put it back as it was, unless it is there."""
        ...

    def keep(self, talk: Talk, snapshot: Snapshot | None) -> None:
        """Prolong what restore() has written, if it hangs on the agent."""
        ...

    def concerns(self, entry: Entry) -> bool:
        """Whether what an entry says, or said, is about the instance. Never raises."""
        ...

    def note(self, snapshot: Snapshot) -> str:
        """Say what a person should know of a snapshot; empty if nothing."""
        ...


class OwnKey:
    """
    An instance that has a key of its own: one that is named, or found by its address.

    With *lease_ttl*, in seconds, it is put back on a lease of the agent's. The number of
    that lease follows from the key, so that an agent that has restarted knows it again.
    """

    def __init__(self, key: str, finder: Finder | None, lease_ttl: float | None = None) -> None:
        self._key, self._finder, self._lease_ttl = key, finder, lease_ttl
        if key or finder is None:
            self.keys = Keys(key.encode())
        else:
            self.keys = finder.keys

    def listed(self, talk: Talk) -> bool:
        """Whether the key is there."""
        return bool(self._find(talk))

    def others(self, talk: Talk) -> int | None:
        """Count the other instances below the prefix; None without one."""
        if self._finder is None:
            return None
        entries = talk.read(self._finder.keys)
        return self._finder.others([e for e in entries if e.key != self._key.encode()])

    def snapshot(self, talk: Talk) -> Snapshot | None:
        """Keep key, value and lease."""
        entries = [
            {"key": encoded(e.key), "value": encoded(e.value), "lease": str(e.lease)}
            for e in self._find(talk)
        ]
        return {"keys": entries} if entries else None

    def withdraw(self, talk: Talk) -> None:
        """Delete the key as it was read; read again if it has changed since."""
        while (found := self._find(talk)) and not talk.delete(found):
            _refuse_if_over(talk)

    def restore(self, talk: Talk, snapshot: Snapshot | None) -> None:
        """Create the key, if it is not there, on the lease that it had or on the agent's own."""
        if self._find(talk):
            return
        if snapshot is None:
            raise AgentError(f"it was not there when the drain began: {LEFT_TO_APP}")
        entries = _kept(snapshot)
        if self._lease_ttl is not None:
            lease = _own_lease(entries)
            talk.grant(lease, self._lease_ttl)
            talk.prolong(lease)  # it may be an old one, and about to end
            entries = [replace(entry, lease=lease) for entry in entries]
        try:
            if talk.create(entries) or self._find(talk):
                return
        except LeaseGone as e:
            raise AgentError(
                "its lease has ended, and without one it would stay there when the app has gone: "
                + LEFT_TO_APP
            ) from e
        names = ", ".join(map(str, entries))
        raise AgentError(f"somebody else has put something at {names}: {LEFT_TO_APP}")

    def keep(self, talk: Talk, snapshot: Snapshot | None) -> None:
        """Prolong the agent's own lease; where it has ended, put the key back on a new one."""
        if snapshot is not None and not talk.prolong(_own_lease(_kept(snapshot))):
            self.restore(talk, snapshot)

    def concerns(self, entry: Entry) -> bool:
        """Whether an entry is, or may be, the instance's."""
        return bool(self._key) or self._finder is None or self._finder.concerns(entry)

    def note(self, snapshot: Snapshot) -> str:
        """Say what becomes of the key when its lease, or the app, has gone."""
        if "keys" not in snapshot:
            return f"{FOREIGN}{LEFT_TO_APP}"
        entry = _kept(snapshot)[0]
        if self._lease_ttl is not None:
            return f"{entry} is put back on the agent's own lease, for as long as the app is ready"
        if entry.lease:
            return f"{entry} is put back only while that lease lives; after that {LEFT_TO_APP}"
        return f"{entry} has no lease: once put back, it stays when the app has gone"

    def _find(self, talk: Talk) -> list[Entry]:
        entries = talk.read(self.keys)
        return entries if self._key or self._finder is None else self._finder.find(entries)


class Member:
    """An instance that is one of several in a document."""

    def __init__(self, key: str, pointer: str, address: Address) -> None:
        self.keys = Keys(key.encode())
        self._pointer, self._address = pointer, address

    def listed(self, talk: Talk) -> bool:
        """Whether the document has the member."""
        _, members = self._read(talk)
        return members is not None and members.find(self._address) is not None

    def others(self, talk: Talk) -> int | None:
        """Count the members with another address."""
        _, members = self._read(talk)
        return 0 if members is None else members.others(self._address)

    def snapshot(self, talk: Talk) -> Snapshot | None:
        """Keep the member as it is written, and where it stands."""
        _, members = self._read(talk)
        index = None if members is None else members.find(self._address)
        return None if members is None or index is None else plain(members.taken(index))

    def withdraw(self, talk: Talk) -> None:
        """Write the document without the member."""
        self._until_written(talk, self._without)

    def restore(self, talk: Talk, snapshot: Snapshot | None) -> None:
        """Write the document with the member back in its place."""
        if self.listed(talk):
            return
        if snapshot is None:
            raise AgentError("it was not there when the drain began: put it there by hand")
        if "text" not in snapshot:
            raise AgentError(f"{FOREIGN}put it there by hand, or set mode back")
        kept: Any = snapshot
        removed = Removed(**kept)
        self._until_written(
            talk, lambda m: None if m.find(self._address) is not None else m.including(removed)
        )
        if not self.listed(talk):
            raise AgentError("the document is gone: put it there again")

    def keep(self, talk: Talk, snapshot: Snapshot | None) -> None:
        """Nothing: the document hangs on no lease of the agent's."""

    def concerns(self, entry: Entry) -> bool:
        """Whether a document has the member, or cannot be read."""
        try:
            members = Members.read(entry.value, self._pointer)
            return members.find(self._address) is not None
        except AgentError:
            return True  # listed() says which

    def note(self, snapshot: Snapshot) -> str:
        """Nothing."""
        del snapshot
        return ""

    def _without(self, members: Members) -> bytes | None:
        index = members.find(self._address)
        return None if index is None else members.without(index)

    def _until_written(self, talk: Talk, change: Callable[[Members], bytes | None]) -> None:
        """Change the document; read it anew when somebody else was faster."""
        while True:
            entry, members = self._read(talk)
            content = None if members is None else change(members)
            if entry is None or content is None or talk.replace(entry, content):
                return
            _refuse_if_over(talk)

    def _read(self, talk: Talk) -> tuple[Entry | None, Members | None]:
        found = talk.read(self.keys)
        return (found[0], Members.read(found[0].value, self._pointer)) if found else (None, None)


def _kept(snapshot: Snapshot) -> list[Entry]:
    """Return the keys that OwnKey.snapshot() has kept."""
    if "keys" not in snapshot:
        raise AgentError(f"{FOREIGN}{LEFT_TO_APP}")
    keys: Any = snapshot["keys"]
    return [Entry(decoded(k["key"]), decoded(k["value"]), int(k["lease"])) for k in keys]


def _own_lease(entries: Sequence[Entry]) -> int:
    """Return the number of the agent's lease for these keys: 1 to 2**63 - 1, as etcd wants it."""
    name = b"deregister-agent\0" + b"\0".join(entry.key for entry in entries)
    return int.from_bytes(blake2b(name, digest_size=8).digest()) >> 1 or 1


def _refuse_if_over(talk: Talk) -> None:
    """Stop when the time is over: somebody else has always been faster."""
    if talk.over:
        raise AgentError("others keep changing it")
