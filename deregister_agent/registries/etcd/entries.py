"""
The two ways in which an instance is written in etcd: a key of its own, or a member of a document.

Each method may raise what EtcdOperation raises.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from hashlib import blake2b
from typing import Any, Protocol

from deregister_agent.errors import AgentError
from deregister_agent.model import Snapshot
from deregister_agent.registries.etcd.json_document import DocumentMembers, RemovedMember
from deregister_agent.registries.etcd.key_finder import KeyFinder
from deregister_agent.registries.etcd.keys import KeyRange, KeyValue, decoded, encoded
from deregister_agent.registries.etcd.layouts import LookAlike, WrittenAddress
from deregister_agent.registries.etcd.not_ours import NotOurs
from deregister_agent.registries.etcd.operations import (
    EtcdOperation,
    LeaseGone,
)
from deregister_agent.registries.etcd.other_registrations import OtherKeys

LEFT_TO_APP = "the app has to register itself"
FOREIGN = "its snapshot was taken with another mode than is configured now: "


class EtcdEntry(Protocol):
    """How an instance is written in etcd."""

    keys: KeyRange  # what to read and to watch

    def listed(self, operation: EtcdOperation) -> bool:
        """Whether the instance is there now."""
        ...

    def others(self, operation: EtcdOperation) -> int | None:
        """Count the other instances; None if they cannot be told apart."""
        ...

    def other_registrations(self, operation: EtcdOperation) -> list[str]:
        """Name what mentions the instance and would stay when it is withdrawn."""
        ...

    def snapshot(self, operation: EtcdOperation) -> Snapshot | None:
        """Return what restore() will need; None if the instance is not there."""
        ...

    def withdraw(self, operation: EtcdOperation) -> None:
        """Take the instance out."""
        ...

    def restore(self, operation: EtcdOperation, snapshot: Snapshot | None) -> None:
        """Put the instance back as it was, unless it is there."""
        ...

    def keep(self, operation: EtcdOperation, snapshot: Snapshot | None) -> None:
        """Prolong what restore() has written, if it hangs on a lease of the agent."""
        ...

    def concerns(self, kv: KeyValue) -> bool:
        """Whether what a key says, or said, is about the instance. Never raises."""
        ...

    def note(self, snapshot: Snapshot) -> str:
        """Say what a person should know of a snapshot; empty if nothing."""
        ...


class KeyEntry:
    """
    An instance that has a key of its own: a key that is named, or found by its address.

    With *lease_ttl*, in seconds, the key is put back on a lease of the agent's. The number of
    that lease follows from the key, so an agent that has restarted knows its lease again.
    """

    def __init__(
        self,
        key: str,
        finder: KeyFinder | None,
        lease_ttl: float | None = None,
        beside: OtherKeys | None = None,
    ) -> None:
        self._key, self._finder, self._lease_ttl = key, finder, lease_ttl
        self._beside = beside
        if key or finder is None:
            self.keys = KeyRange(key.encode())
        else:
            self.keys = finder.keys

    def listed(self, operation: EtcdOperation) -> bool:
        """Whether the key is there."""
        return bool(self._find(operation))

    def others(self, operation: EtcdOperation) -> int | None:
        """Count the other instances below the prefix; None without a prefix."""
        if self._finder is None:
            return None
        kvs = operation.read(self._finder.keys)
        return self._finder.others([e for e in kvs if e.key != self._key.encode()])

    def other_registrations(self, operation: EtcdOperation) -> list[str]:
        """Name other keys of the service, or beside the named one."""
        return [] if self._beside is None else self._beside.sentences(operation)

    def snapshot(self, operation: EtcdOperation) -> Snapshot | None:
        """Keep key, value and lease."""
        kvs = [
            {"key": encoded(e.key), "value": encoded(e.value), "lease": str(e.lease)}
            for e in self._find(operation)
        ]
        return {"keys": kvs} if kvs else None

    def withdraw(self, operation: EtcdOperation) -> None:
        """Delete the key as it was read; read the key again if it has changed since."""
        while (found := self._find(operation)) and not operation.delete(found):
            _refuse_if_over(operation)

    def restore(self, operation: EtcdOperation, snapshot: Snapshot | None) -> None:
        """Create the key, if it is not there, on the lease that it had or on the agent's own."""
        if self._find(operation):
            return
        if snapshot is None:
            raise AgentError(f"it was not there when the drain began: {LEFT_TO_APP}")
        kvs = _kept(snapshot)
        if self._lease_ttl is not None:
            lease = _own_lease(kvs)
            operation.grant(lease, self._lease_ttl)
            operation.prolong(lease)  # where the lease is an old one, it may be about to end
            kvs = [replace(kv, lease=lease) for kv in kvs]
        try:
            if operation.create(kvs) or self._find(operation):
                return
        except LeaseGone as e:
            raise AgentError(
                "its lease has ended, and without one it would stay there when the app has gone: "
                + LEFT_TO_APP
            ) from e
        names = ", ".join(map(str, kvs))
        raise AgentError(f"somebody else has put something at {names}: {LEFT_TO_APP}")

    def keep(self, operation: EtcdOperation, snapshot: Snapshot | None) -> None:
        """Prolong the agent's own lease; where it has ended, put the key back on a new one."""
        if snapshot is not None and not operation.prolong(_own_lease(_kept(snapshot))):
            self.restore(operation, snapshot)

    def concerns(self, kv: KeyValue) -> bool:
        """Whether a key is, or may be, the instance's."""
        return bool(self._key) or self._finder is None or self._finder.concerns(kv)

    def note(self, snapshot: Snapshot) -> str:
        """Say what becomes of the key when its lease, or the app, has gone."""
        if "keys" not in snapshot:
            return f"{FOREIGN}{LEFT_TO_APP}"
        kv = _kept(snapshot)[0]
        if self._lease_ttl is not None:
            return f"{kv} is put back on the agent's own lease, for as long as the app is ready"
        if kv.lease:
            return f"{kv} is put back only while that lease lives; after that {LEFT_TO_APP}"
        return f"{kv} has no lease: once put back, it stays when the app has gone"

    def _find(self, operation: EtcdOperation) -> list[KeyValue]:
        kvs = operation.read(self.keys)
        return kvs if self._key or self._finder is None else self._finder.find(kvs)


class DocumentEntry:
    """An instance that is one of several members of a document."""

    def __init__(
        self, key: str, pointer: str, address: WrittenAddress, not_ours: NotOurs | None = None
    ) -> None:
        self.keys = KeyRange(key.encode())
        self._pointer, self._address = pointer, address
        self._not_ours = not_ours or NotOurs()

    def listed(self, operation: EtcdOperation) -> bool:
        """Whether the document has the member."""
        _, members = self._read(operation)
        return members is not None and members.find(self._address) is not None

    def others(self, operation: EtcdOperation) -> int | None:
        """Count the members with another address."""
        _, members = self._read(operation)
        return 0 if members is None else members.others(self._address)

    def other_registrations(self, operation: EtcdOperation) -> list[str]:
        """Name other members and places of the document; what the look refuses is told by it."""
        kv, members = self._read(operation)
        if kv is None or members is None:
            return []
        try:
            there = members.find(self._address) is not None
        except LookAlike:
            return []
        return members.others_like(self._address, str(kv)) if there else []

    def snapshot(self, operation: EtcdOperation) -> Snapshot | None:
        """Keep the member, and where it stands."""
        _, members = self._read(operation)
        index = None if members is None else members.find(self._address)
        return None if members is None or index is None else asdict(members.taken(index))

    def withdraw(self, operation: EtcdOperation) -> None:
        """Write the document without the member."""
        self._until_written(operation, self._without)

    def restore(self, operation: EtcdOperation, snapshot: Snapshot | None) -> None:
        """Write the document with the member back in its place."""
        if self.listed(operation):
            return
        if snapshot is None:
            raise AgentError("it was not there when the drain began: put it there by hand")
        if "text" not in snapshot:
            raise AgentError(f"{FOREIGN}put it there by hand, or set mode back")
        kept: Any = snapshot
        removed = RemovedMember(kept["text"], kept["after"], kept["index"])
        self._until_written(
            operation, lambda m: None if m.find(self._address) is not None else m.including(removed)
        )
        if not self.listed(operation):
            raise AgentError("the document is gone: put it there again")

    def keep(self, operation: EtcdOperation, snapshot: Snapshot | None) -> None:
        """Nothing: the document hangs on no lease of the agent's."""

    def concerns(self, kv: KeyValue) -> bool:
        """Whether a document has the member, or cannot be read."""
        try:
            members = DocumentMembers.read(kv.value, self._pointer, self._not_ours)
            return members.find(self._address) is not None
        except (AgentError, RecursionError):
            return True  # listed() says why

    def note(self, snapshot: Snapshot) -> str:
        """Nothing."""
        del snapshot
        return ""

    def _without(self, members: DocumentMembers) -> bytes | None:
        index = members.find(self._address)
        return None if index is None else members.without(index)

    def _until_written(
        self, operation: EtcdOperation, change: Callable[[DocumentMembers], bytes | None]
    ) -> None:
        """Change the document; read it again when somebody else was faster."""
        while True:
            kv, members = self._read(operation)
            content = None if members is None else change(members)
            if kv is None or content is None or operation.replace(kv, content):
                return
            _refuse_if_over(operation)

    def _read(self, operation: EtcdOperation) -> tuple[KeyValue | None, DocumentMembers | None]:
        found = operation.read(self.keys)
        return (
            (found[0], DocumentMembers.read(found[0].value, self._pointer, self._not_ours))
            if found
            else (None, None)
        )


def _kept(snapshot: Snapshot) -> list[KeyValue]:
    """Return the keys that KeyEntry.snapshot() has kept."""
    if "keys" not in snapshot:
        raise AgentError(f"{FOREIGN}{LEFT_TO_APP}")
    keys: Any = snapshot["keys"]
    return [KeyValue(decoded(k["key"]), decoded(k["value"]), int(k["lease"])) for k in keys]


def _own_lease(kvs: Sequence[KeyValue]) -> int:
    """Return the number of the agent's lease for these keys, between 1 and 2**63 - 1."""
    name = b"deregister-agent\0" + b"\0".join(kv.key for kv in kvs)
    return int.from_bytes(blake2b(name, digest_size=8).digest()) >> 1 or 1


def _refuse_if_over(operation: EtcdOperation) -> None:
    """Stop when the time is over: somebody else has always been faster."""
    if operation.over:
        raise AgentError("others keep changing it")
