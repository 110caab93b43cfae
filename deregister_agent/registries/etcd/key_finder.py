"""Which of the keys of a service are the instance's, and which may be and are not recognised."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from deregister_agent.errors import AgentError
from deregister_agent.host.mentions import ports_beside
from deregister_agent.registries.etcd.keys import KeyRange, KeyValue
from deregister_agent.registries.etcd.layouts import (
    KeyLayout,
    LookAlike,
    Match,
    WrittenAddress,
    addresses,
    names_both,
    parsed,
    speaks_of,
)
from deregister_agent.registries.etcd.not_ours import NotOurs

MOST = 5
"""Keys that one error names."""
MATCHES: tuple[Match, ...] = ("value", "key")
_LIKELY = re.compile(r"((?:[0-9]{1,3}\.){3}[0-9]{1,3})[:_]([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class KeyFinder:
    """Finds the keys of the instance at one address among those of its service."""

    keys: KeyRange
    address: WrittenAddress
    layout: KeyLayout
    not_ours: NotOurs = field(default_factory=NotOurs)

    def find(self, kvs: Sequence[KeyValue]) -> list[KeyValue]:
        """
        Return the instance's keys: one, or with a leaf all of its folder; none if it is not there.

        Raises AgentError where that would be a guess.
        """
        ours = [kv for kv in kvs if self.is_ours(kv)]
        # A list with others in it, beside the instance's own key, is another registration.
        found = [kv for kv in ours if not self.shared_with(kv)]
        if len(found) > 1:
            raise AgentError(
                f"{len(found)} keys are {self.address}: {', '.join(map(str, found))}; set key to "
                "the one that is meant, or delete those that are left over; or name in not_ours "
                "those that send no work"
            )
        if found:
            return self.with_its_folder(found[0], kvs)
        self._refuse([self._shared(kv) for kv in ours])
        self._refuse([self._unread(kv) for kv in kvs if self.speaks_of_us(kv)])
        return []

    def with_its_folder(self, own: KeyValue, kvs: Iterable[KeyValue]) -> list[KeyValue]:
        """Return an instance's key, or where the layout has folders all keys in its one."""
        folder = own.key[: own.key.rindex(b"/") + 1] if self.layout.leaf else b""
        return [kv for kv in kvs if kv.key.startswith(folder)] if folder else [own]

    def others(self, kvs: Sequence[KeyValue]) -> int:
        """
        Count the other instances; two keys with the same address are one.

        What may be ours is none of them, as nobody knows.
        """
        seen = {
            self._told_apart_by(kv) - {str(self.address)}
            for kv in kvs
            if not self.is_ours(kv) and not self.speaks_of_us(kv)
        }
        return len(seen - {frozenset()})

    def _told_apart_by(self, kv: KeyValue) -> frozenset[str]:
        """Return the addresses of a key, or what looks like one in a form that is not known."""
        known = frozenset(map(str, self._addresses(kv)))
        parts = kv.value, kv.key[kv.key.rfind(b"/") + 1 :]
        chosen = {"value": parts[:1], "key": parts[1:]}.get(self.layout.match, parts)
        texts = (
            [] if known or self.layout.leaf else [part.decode(errors="replace") for part in chosen]
        )
        return known or frozenset(
            f"{found[1]}:{found[2]}" for text in texts for found in _LIKELY.finditer(text)
        )

    def concerns(self, kv: KeyValue) -> bool:
        """Whether a key may be the instance's."""
        return self.is_ours(kv) or self.speaks_of_us(kv)

    def is_ours(self, kv: KeyValue) -> bool:
        """Whether a key has our address where the layout says."""
        ours = {self.address}
        if self.layout.portless:
            ours.add(WrittenAddress(self.address.host, None))
        return not ours.isdisjoint(self._addresses(kv)) and not self.not_ours.covers(kv.name)

    def is_ours_alone(self, kv: KeyValue) -> bool:
        """Whether a key has our address and no other: it can be withdrawn."""
        return self.is_ours(kv) and not self.shared_with(kv)

    def has_us(self, kv: KeyValue) -> bool:
        """Whether host and port both stand in a key, wherever and however; or it is ours."""
        if self.not_ours.covers(kv.name):
            return False
        read = [*addresses(parsed(kv.value)), *addresses(kv.name.rpartition("/")[2])]
        return self.address in read or names_both(self._text(kv, read), self.address, read)

    def speaks_of_us(self, kv: KeyValue) -> bool:
        """Whether a key may be ours, though it cannot be read as that."""
        if self.not_ours.covers(kv.name):
            return False
        text = (kv.key + b"\n" + kv.value).decode(errors="replace")
        if not ports_beside(text, self.address.host):
            return False  # as of most, and without reading what addresses they have
        read = self._addresses(kv)
        return speaks_of(self._text(kv, read), self.address, read)

    def _text(self, kv: KeyValue, read: Collection[WrittenAddress]) -> str:
        """
        Return what a key and its value say, without what all keys of the service begin with.

        Where another port of the host was read, the key does not count: it may have any number.
        """
        if any(each.host == self.address.host and each.port for each in read):
            return kv.value.decode(errors="replace")
        start = self.keys.start
        if not kv.key.startswith(start) or ports_beside(start.decode(), self.address.host):
            start = b""
        return (kv.key[len(start) :] + b"\n" + kv.value).decode(errors="replace")

    def _addresses(self, kv: KeyValue) -> Sequence[WrittenAddress]:
        return _addresses_in(kv, self.layout)

    def _shared(self, kv: KeyValue) -> str:
        """Say why a key with others in it is not withdrawn."""
        alone = "".join(
            f'match = "{match}", if only the {match} has the address; or '
            for match in MATCHES
            if self._matching(match).is_ours_alone(kv)
        )
        return (
            f"{kv} also has {', '.join(sorted(self.shared_with(kv)))} in it, so to delete it would "
            f'take others out as well: set {alone}mode = "document", key and pointer; or, if it '
            f"sends no work, {self.not_ours.line(kv.name)}"
        )

    def shared_with(self, kv: KeyValue) -> set[str]:
        """Return the addresses in a key that are not the instance's."""
        return {
            str(each)
            for each in self._addresses(kv)
            if each.host != self.address.host
            or not (self.layout.several or each.port in (None, self.address.port))
        }

    def _refuse(self, told: Sequence[str]) -> None:
        """Raise LookAlike if anything is told: what may be the instance is not out."""
        if told:
            more = f"; and {len(told) - MOST} more keys do" if len(told) > MOST else ""
            raise LookAlike("; ".join(told[:MOST]) + more)

    def _unread(self, kv: KeyValue) -> str:
        """Say how a key may be the instance, and what to write."""
        return (
            f"{kv} mentions {self.address.host} in a form that is not known: if it is the "
            f'instance, write {self._line(kv)}; and mode = "document" where it holds others too; '
            f"if it sends it no work, {self.not_ours.line(kv.name)}"
        )

    def _line(self, kv: KeyValue) -> str:
        """Return the line of the configuration that would mean a key."""
        return 'match = "either"' if self._matching("either").is_ours(kv) else kv.line

    def _matching(self, match: Match) -> "KeyFinder":
        return replace(self, layout=replace(self.layout, match=match))


@lru_cache(maxsize=2)  # of one key several things are asked, one right after the other
def _addresses_in(kv: KeyValue, layout: KeyLayout) -> Sequence[WrittenAddress]:
    """Return the addresses that a key has where the layout says."""
    name = kv.name.rpartition("/")[2]
    if layout.leaf and name.casefold() != layout.leaf:
        return ()
    found: list[WrittenAddress] = []
    if layout.match != "key":
        found += addresses(parsed(kv.value))
    if layout.match != "value":
        found += addresses(name)
    return tuple(found)
