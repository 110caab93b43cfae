"""
What looks like the instance where it was not found: other keys, other places in a document.

Read only once an absence is in doubt, so it may cost some reads; each is bounded.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from deregister_agent.errors import AgentError
from deregister_agent.host.mentions import is_any_name, names_address
from deregister_agent.registries.etcd.json_tree import places
from deregister_agent.registries.etcd.keys import KeyRange, KeyValue
from deregister_agent.registries.etcd.layouts import KeyLayout, WrittenAddress, addresses, parsed
from deregister_agent.registries.etcd.not_ours import NotOurs
from deregister_agent.registries.etcd.operations import EtcdOperation

MOST = 5
"""Sentences."""
THERE = 3
"""Keys or members that are named where nothing looks like the instance."""
KEYS = 200
"""Of one read."""
LEVELS = 4
"""Folders that are read: that of the prefix, the one above it, and so on."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where in etcd an instance was looked for, and what stands near it."""

    address: WrittenAddress
    prefix: str = ""  # what the keys of its service begin with; empty: it is one key
    layout: KeyLayout | None = None
    key: str = ""
    pointer: str | None = None  # in the document at the key; None: it is no document
    not_ours: NotOurs = field(default_factory=NotOurs)

    def sentences(self, operation: EtcdOperation) -> list[str]:
        """Name what looks like the instance, or else some of what is there."""
        if self.key:  # which it may read, whatever else it may not
            itself = operation.read(KeyRange(self.key.encode()))
            if self.pointer is not None and itself:
                return self._in_document(itself[0])[:MOST]
        elif self.prefix:
            operation.some(KeyRange.below(self.prefix), 1, keys_only=True)
        named: list[str] = []
        there: list[KeyValue] = []
        for level in self._levels():
            kvs = [kv for kv in _some(operation, level) if not self.not_ours.covers(kv.name)]
            there = there or kvs
            found = [f"key {kv.name!r} (write {self._line(kv)})" for kv in kvs if self._has(kv)]
            if found:
                return found[:MOST]
            named = named or [each for kv in kvs for each in self._under_another_name(kv)]
            if operation.over:
                break
        return named[:MOST] or [self._shown(kv) for kv in there[:THERE]]

    def _levels(self) -> Iterator[str]:
        """Yield what keys nearby begin with, the nearest first; the last is that of all keys."""
        # Without its slash a prefix is also that of keys that go on without one (Seata),
        # and of a record at the name itself (CoreDNS).
        if self.prefix:
            yield self.prefix  # alone, as there may be no right to read more
        stem = (self.prefix or self.key[: self.key.rfind("/") + 1]).rstrip("/")
        for _ in range(LEVELS):
            if not stem.strip("/"):
                break
            yield stem
            stem = stem[: stem.rstrip("/").rfind("/") + 1]
        yield ""

    def _has(self, kv: KeyValue) -> bool:
        """Whether a key has our address in its name or value, in whatever form."""
        read = _read(kv)
        alone = WrittenAddress(self.address.host, None)  # in DNS, a record of every port
        at_the_name = kv.name == self.prefix.rstrip("/") and alone in read
        if self.address in read or at_the_name:
            return True
        text = f"{kv.name}\n{kv.value.decode(errors='replace')}"
        return names_address(text, self.address.host, self.address.port or 0)

    def _line(self, kv: KeyValue) -> str:
        """Return the line of the configuration that would mean a key."""
        key = kv.name
        folder = key[: key.rfind("/") + 1]
        if not self.prefix or self.layout is None or self.address not in _read(kv):
            return kv.line
        stem = self.prefix.rstrip("/")
        beside = key.startswith(stem) and "/" not in key[len(stem) :]
        if key.startswith(self.prefix) or beside or not folder.strip("/"):
            return kv.line
        if self.layout.leaf:
            folder = folder[: folder.rstrip("/").rfind("/") + 1]
        return f"prefix = {json.dumps(folder)}"

    def _under_another_name(self, kv: KeyValue) -> Iterator[str]:
        """Yield what has our port at a name, or at loopback, which may be this machine."""
        for each in _read(kv):
            if each.port == self.address.port and is_any_name(each.host):
                line = f"address = {json.dumps(str(each))}" if self.prefix else self._line(kv)
                yield f"key {kv.name!r} with {each} (write {line})"

    def _shown(self, kv: KeyValue) -> str:
        key = kv.name
        line = kv.line
        if self.prefix and not key.startswith(self.prefix):
            line = f"prefix = {json.dumps(key[: key.rfind('/') + 1] or key)}"
        return f"key {key!r}, which has another address (write {line} if it is meant)"

    def _in_document(self, kv: KeyValue) -> list[str]:
        """Name other places in the document, other names of the host, or some members."""
        with suppress(ValueError, RecursionError):
            document = json.loads(kv.value)
            found = [
                f"{self.address} at {place!r} of {kv.name!r} (write pointer = {json.dumps(place)})"
                for place in places(document, self.address)
            ]
            return found or self._members(document)
        return []

    def _members(self, document: Any) -> list[str]:
        found = list(dict.fromkeys(_every_address(document)))
        mine = self.address.port
        near = [each for each in found if each.port == mine and is_any_name(each.host)]
        return [
            f"a member with {each} (write address = {json.dumps(str(each))} if it is meant)"
            for each in near or found[:THERE]
        ]


def _some(operation: EtcdOperation, level: str) -> list[KeyValue]:
    """Return some keys, without values where those are too large; none that may not be read."""
    keys = KeyRange.below(level) if level else KeyRange(b"\0", b"\0")
    for only in (False, True):
        with suppress(AgentError):
            return operation.some(keys, KEYS, keys_only=only)
    return []


def _read(kv: KeyValue) -> list[WrittenAddress]:
    """Return the addresses in a key's value, and in the last part of its name."""
    return [*addresses(parsed(kv.value)), *addresses(kv.name.rpartition("/")[2])]


def _every_address(value: Any) -> Iterator[WrittenAddress]:
    """Yield every address in a document."""
    yield from addresses(value)
    if isinstance(value, dict):
        for name, each in value.items():
            yield from addresses(name)
            yield from _every_address(each)
    elif isinstance(value, list):
        for each in value:
            yield from _every_address(each)
