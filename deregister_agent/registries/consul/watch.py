"""
Which entries of a service in Consul are about one instance, and a watch for these alone.

Consul can only be asked to wait for a change of the whole service. But the answer tells whose
the change was: each entry bears the indexes of its last change.
"""

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b

from deregister_agent.host.addresses import host
from deregister_agent.registries.consul.operations import CatalogEntry, ConsulOperation

SOON = 1.0
"""
Seconds after which a watch ends when others have changed and the instance is not there: the
instance may have come and gone in between, which leaves no trace in the catalog.
"""
PAUSE = 0.5
"""
Seconds between two questions when others have changed: where many leave a service at once, each
of them would else be asked about by all.
"""
RATE = 40
"""
Questions a second, at most, of all watches of this process together when others have changed:
an agent with hundreds of instances of one service would else do nothing but watch.
"""
_NOT_THERE = "-"
_TAGS = ("lan", "lan_ipv4", "lan_ipv6", "wan", "wan_ipv4", "wan_ipv6")
"""The tags of addresses that Consul itself gives out (api-docs, agent/service)."""
_PLAIN = re.compile(r"[\w.:/@-]+", re.ASCII)  # what needs no quoting in a filter


@dataclass(frozen=True, slots=True)
class OwnEntries:
    """What is about the instance among the entries of its service: its ID, or its address."""

    id: str
    address: str
    port: int

    @property
    def filter(self) -> str:
        """Return a filter that leaves out most others; a Consul before 1.5 ignores it."""
        if not _PLAIN.fullmatch(self.id):
            return ""
        return f'Service.ID == "{self.id}" or Service.Port == {self.port}'

    @property
    def filter_on_node(self) -> str:
        """
        Return such a filter for the services of a node: what may lead to the instance passes.

        By its ports: its own, those of its tagged addresses and of what it is the proxy of; and
        without one, as the address may have it.
        """
        if not self.filter:
            return ""
        ways = [f'ID == "{self.id}"', "Port == 0", f"Port == {self.port}"]
        ways += [f"TaggedAddresses.{tag}.Port == {self.port}" for tag in _TAGS]
        to, port = f'Proxy.DestinationServiceID == "{self.id}"', "Proxy.LocalServicePort"
        # The kind first: an agent of 1.8.7 breaks off where it is asked for the Proxy of another.
        ways.append(f'(Kind == "connect-proxy" and ({to} or {port} == {self.port}))')
        return " or ".join(ways)

    def is_here(self, entry: CatalogEntry) -> bool:
        """Tell whether an entry sends work to the instance's address, whatever its ID is."""
        here = (host(self.address), self.port)
        return (host(entry.address), entry.port) == here

    def among(self, entries: Sequence[CatalogEntry]) -> list[CatalogEntry]:
        """Return the entries that are about the instance, on whatever node."""
        return [entry for entry in entries if entry.id == self.id or self.is_here(entry)]

    def mark(self, entries: Sequence[CatalogEntry]) -> str:
        """Return a fingerprint that changes whenever an entry about the instance does."""
        shown = sorted(repr(entry) for entry in self.among(entries))
        if not shown:
            return _NOT_THERE
        return blake2b("\n".join(shown).encode(), digest_size=8).hexdigest()

    def watch(self, operation: ConsulOperation, cursor: str | None, wait: float) -> str:
        """
        Wait, for at most *wait* seconds, until something about the instance may have changed.

        The cursor is an index of the catalog, and the mark of what the catalog showed then.
        While the mark of an entry is the same, nothing has changed, as indexes never repeat.
        """
        with _watches.one_more():
            return self._watch(operation, cursor or "", time.monotonic() + wait)

    def _watch(self, operation: ConsulOperation, cursor: str, end: float) -> str:
        index, _, before = cursor.partition(" ")
        while True:
            entries, now = operation.entries(index, end - time.monotonic(), self.filter)
            mark, moved = self.mark(entries), now != index
            # An index that goes backwards is of another life of Consul: all may be new.
            new = mark != before or int(now) < int(index)
            if new or not moved or time.monotonic() >= end:
                return f"{now} {mark}"
            pause = max(PAUSE, _watches.count / RATE)
            if mark == _NOT_THERE:
                end = min(end, time.monotonic() + max(SOON, pause))
            time.sleep(min(pause, max(0.0, end - time.monotonic())))
            index = now


class _Watches:
    """The number of watches that this process has under way."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count one watch more until the block ends."""
        with self._lock:
            self.count += 1
        try:
            yield
        finally:
            with self._lock:
                self.count -= 1


_watches = _Watches()
