"""
What else in etcd sends work to the instance: keys that mention its address and are not its own.

Asked once for each drain, so it may cost some reads; all share one deadline.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from deregister_agent.registries.etcd.cluster import EtcdError
from deregister_agent.registries.etcd.key_finder import MOST, KeyFinder
from deregister_agent.registries.etcd.keys import KeyRange, KeyValue
from deregister_agent.registries.etcd.layouts import KeyLayout
from deregister_agent.registries.etcd.operations import EtcdOperation


@dataclass(frozen=True, slots=True)
class OtherKeys:
    """Finds the keys that stay when the instance's own is withdrawn, and mention it."""

    finder: KeyFinder  # with all keys of the service, or those that stand beside a named one
    key: bytes = b""  # of the instance, where that is named; else it is found by its address
    strict: bool = False  # only a key with host and port counts: others stand there as well
    around: Sequence[KeyRange] = ()  # where others than this service may stand: strict, one page

    def sentences(self, operation: EtcdOperation) -> list[str]:
        """Name each with the line to paste, a few at most. Raises what EtcdOperation raises."""
        own: list[KeyValue] = []
        found: list[KeyValue] = []
        for kv in self._readable(operation):
            if kv.key == self.key if self.key else self.finder.is_ours_alone(kv):
                own.append(kv)
            elif self.finder.has_us(kv) if self.strict else self.finder.concerns(kv):
                found.append(replace(kv, value=b""))  # there may be thousands
        if not own and not self.key:
            found = []  # the look refuses them: each may be the instance itself
        gone = {each.key for kv in own for each in self.finder.with_its_folder(kv, found)}
        found = [kv for kv in found if kv.key not in gone]
        return self._told([*found, *self._around(operation)])

    def _readable(self, operation: EtcdOperation) -> Iterator[KeyValue]:
        """Yield the keys of the service; none where the user may not see them."""
        try:
            for page in operation.pages(self.finder.keys):
                yield from page
        except EtcdError as e:
            if not e.no_right:
                raise

    def _around(self, operation: EtcdOperation) -> Iterator[KeyValue]:
        """Yield what has us beside the service's keys; at its very name that may be the host."""
        for keys in self.around:
            try:
                page = next(operation.pages(keys))
            except EtcdError as e:
                if not e.no_right:
                    raise
            else:
                for kv in page:
                    named = kv.key == keys.start and self.finder.concerns(kv)
                    if named or (self._goes_on(kv) and self.finder.has_us(kv)):
                        yield kv

    def _goes_on(self, kv: KeyValue) -> bool:
        """Tell whether a key beside the prefix may be of the service: not orders2 of orders."""
        stem = self.finder.keys.start.rstrip(b"/")
        return not (kv.key.startswith(stem) and kv.key[len(stem) : len(stem) + 1].isalnum())

    def _told(self, found: Sequence[KeyValue]) -> list[str]:
        told = [self._sentence(kv) for kv in found[:MOST]]
        if len(found) > MOST:
            told[-1] += f"; and {len(found) - MOST} more keys do"
        return told

    def _sentence(self, kv: KeyValue) -> str:
        return (
            f"{kv} has {self.finder.address} in it, and stays there when the instance is "
            f"withdrawn: if it sends no work, write {self.finder.not_ours.line(kv.name)}; if it "
            f"does, delete it, or withdraw it by an etcd registry of its own with {kv.line}, and "
            "write the former here unless this one has a key as well"
        )


def around(prefix: str, layout: KeyLayout) -> list[KeyRange]:
    """
    Return where keys stand that consumers may take for those below a prefix.

    Without its slash a prefix is that of keys that go on without one (Seata), and of a record
    at the name itself (CoreDNS); and Traefik takes ``loadBalancer`` for ``loadbalancer``.
    """
    stem = prefix.rstrip("/")
    if layout.leaf:
        stem = stem.rsplit("/", 2)[0] + "/"
    if not stem.strip("/"):
        return []
    inner, outer = KeyRange.below(prefix), KeyRange.below(stem)
    return [KeyRange(outer.start, inner.start), KeyRange(inner.end or b"", outer.end)]
