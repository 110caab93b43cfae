"""
What the etcd registry says to etcd: reads, transactions and a watch.

Facts are from etcd's API reference and from runs against 3.4 and 3.5: 64-bit numbers are
strings, and what is zero or empty is left out of an answer.

A write is a transaction that compares first, so it may be sent twice: to another
endpoint, say, when the first may or may not have taken it.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deregister_agent.errors import AgentError
from deregister_agent.net.fetcher import FetchError
from deregister_agent.net.stream import Stream
from deregister_agent.registries.etcd.cluster import (
    Cluster,
    Endpoint,
    EndpointUnavailable,
    EtcdError,
    left_until,
)
from deregister_agent.registries.etcd.keys import KeyRange, KeyValue, encoded

PAGE = 500
"""Keys of one answer, where there may be thousands."""
SMALL_PAGE = 5
"""The same where values are large: etcd takes none of more than 1.5 MiB, unless told to."""


class LeaseGone(AgentError):  # noqa: N818 - the fact
    """The lease that a key was to hang on has ended."""


@dataclass(frozen=True, slots=True)
class _Watch:
    keys: KeyRange
    since: int
    concerns: Callable[[KeyValue], bool]
    end: float

    def at(self, endpoint: Endpoint, token: str, limit: float) -> int:
        """Watch at one endpoint, which must begin within *limit* seconds."""
        begin = time.monotonic() + limit
        # prev_kv tells whether a key that is gone, or is another's now, was ours.
        wanted = {"start_revision": str(self.since + 1), "prev_kv": True}
        asked = {"create_request": self.keys.asked() | wanted}
        with endpoint.stream("/watch", asked, token, limit) as stream:
            begun = endpoint.read(stream, left_until(begin))
            if begun.get("canceled"):
                raise _cancelled(begun)
            now = int(begun["header"]["revision"])
            if now < self.since:
                # A member that is behind, or a cluster that was set back to a backup: there,
                # a watch from *since* on would be silent until it has caught up.
                return now
            try:
                return self._follow(endpoint, stream, now)
            except FetchError:
                if time.monotonic() < self.end:
                    raise
        return self.since

    def _follow(self, endpoint: Endpoint, stream: Stream, now: int) -> int:
        since = self.since
        while time.monotonic() < self.end:
            told = endpoint.read(stream, left_until(self.end))
            if "compact_revision" in told:
                return max(now, int(told["compact_revision"]))
            if told.get("canceled"):
                raise _cancelled(told)
            for event in told.get("events", []):
                since = max(since, int(event["kv"]["mod_revision"]))
                if self._matters(event):
                    return since
        return since

    def _matters(self, event: Mapping[str, Any]) -> bool:
        """Whether an event concerns; so does one of a key of which nobody knows what it was."""
        now, deleted = KeyValue.read(event["kv"]), event.get("type") == "DELETE"
        if not deleted and (self.concerns(now) or now.created == now.modified):
            return self.concerns(now)
        return "prev_kv" not in event or self.concerns(KeyValue.read(event["prev_kv"]))


def _cancelled(told: Mapping[str, Any]) -> AgentError:
    reason = str(told.get("cancel_reason", "the watch is cancelled"))
    return (
        EndpointUnavailable(f"etcd answered: {reason}")
        if "no leader" in reason
        else EtcdError(reason)
    )


class EtcdOperation:
    """
    The calls of one operation, which share its deadline.

    Each raises AgentError if there is no answer in time, or not a good one, and may raise
    KeyError, TypeError, AttributeError or ValueError if it is not one of etcd's.
    """

    def __init__(self, cluster: Cluster, timeout: float) -> None:
        self._cluster = cluster
        self._end = time.monotonic() + timeout

    @property
    def over(self) -> bool:
        """Whether the time of the operation is over."""
        return time.monotonic() >= self._end

    def read(self, keys: KeyRange) -> list[KeyValue]:
        """Return what is there now: the read is linearizable, so a quorum has confirmed it."""
        answer = self._call("/kv/range", keys.asked())
        kvs = [KeyValue.read(raw) for raw in answer.get("kvs", [])]
        if len(kvs) != int(answer.get("count", 0)):
            raise ValueError("not all keys are in it")
        return kvs

    def some(self, keys: KeyRange, most: int, *, keys_only: bool = False) -> list[KeyValue]:
        """Return what is there now, but not more than so many keys, the first by their names."""
        answer = self._call("/kv/range", keys.asked() | {"limit": most, "keys_only": keys_only})
        return [KeyValue.read(raw) for raw in answer.get("kvs", [])]

    def pages(self, keys: KeyRange) -> Iterator[list[KeyValue]]:
        """
        Yield what is there now, at one revision, page after page.

        A page that is too large to be taken in is asked for again with a few keys.
        """
        asked: dict[str, Any] = {**keys.asked(), "limit": PAGE}
        seen, more = 0, True
        while more:
            if self.over:
                raise AgentError(
                    f"the time was over when {seen} keys had been read: give a longer timeout, or "
                    "a prefix with fewer keys"
                )
            answer = self._page(asked)
            kvs = [KeyValue.read(raw) for raw in answer.get("kvs", [])]
            yield kvs
            seen, more = seen + len(kvs), bool(answer.get("more", False)) and bool(kvs)
            if more:
                asked |= {"key": encoded(kvs[-1].key + b"\0")}
                asked |= {"revision": answer["header"]["revision"]}

    def _page(self, asked: dict[str, Any]) -> Any:
        """Return a page; fewer keys, from here on, where so many are too much for one answer."""
        try:
            return self._call("/kv/range", asked)
        except EtcdError:
            raise
        except AgentError:
            if self.over or asked["limit"] == SMALL_PAGE:
                raise
            asked["limit"] = SMALL_PAGE
        return self._call("/kv/range", asked)

    def revision(self, keys: KeyRange) -> int:
        """Return a revision that is not older than any write acknowledged before."""
        answer = self._call("/kv/range", keys.asked() | {"count_only": True})
        return int(answer["header"]["revision"])

    def delete(self, kvs: Sequence[KeyValue]) -> bool:
        """Delete all of them, if each is still as it was read. Leases are left alone."""
        deletes = [{"request_delete_range": {"key": encoded(kv.key)}} for kv in kvs]
        return self._change([_unchanged(kv) for kv in kvs], deletes)

    def create(self, kvs: Sequence[KeyValue]) -> bool:
        """Create all of them on their leases, if none of the keys is there. Raises LeaseGone."""
        absent = [
            {"key": encoded(e.key), "target": "CREATE", "result": "EQUAL", "create_revision": "0"}
            for e in kvs
        ]
        puts = [
            {"key": encoded(e.key), "value": encoded(e.value), "lease": str(e.lease)} for e in kvs
        ]
        return self._change(absent, [{"request_put": put} for put in puts])

    def replace(self, kv: KeyValue, value: bytes) -> bool:
        """Give a key another value on the same lease, if it is still as it was read."""
        put = {"key": encoded(kv.key), "value": encoded(value), "ignore_lease": True}
        return self._change([_unchanged(kv)], [{"request_put": put}])

    def grant(self, lease: int, seconds: float) -> None:
        """Begin a lease with this number, unless there is one already."""
        wanted = {"ID": str(lease), "TTL": str(math.ceil(seconds))}
        try:
            self._call("/lease/grant", wanted)
        except EtcdError as e:
            if "lease already exists" not in e.said:
                raise

    def prolong(self, lease: int) -> int:
        """Prolong a lease, and return for how many seconds it lives now; 0: it has ended."""
        answer = self._call("/lease/keepalive", {"ID": str(lease)}, part="result")
        return int(answer.get("TTL", 0))

    def watch(self, keys: KeyRange, since: int, concerns: Callable[[KeyValue], bool]) -> int:
        """
        Wait for a change after revision *since* of a key that *concerns*, before or after it.

        Return the revision to go on from. Without a change that is when the time is over;
        at once if *since* has been compacted away, as nobody can say what has changed.
        """
        watch = _Watch(keys, since, concerns, self._end)
        return self._cluster.anywhere(self._end, watch.at)

    def _change(self, compare: Sequence[object], then: Sequence[object]) -> bool:
        try:
            answer = self._call("/kv/txn", {"compare": compare, "success": then})
        except EtcdError as e:
            if "lease not found" in e.said:
                raise LeaseGone(e.said) from e
            raise
        return bool(answer.get("succeeded", False))

    def _call(self, path: str, payload: Mapping[str, object], part: str = "") -> Any:
        answer = self._cluster.anywhere(
            self._end, lambda endpoint, token, limit: endpoint.call(path, payload, token, limit)
        )
        answer = answer[part] if part else answer
        if int(answer["header"]["revision"]) < 1:  # what is no etcd has none; an etcd begins at 1
            raise ValueError("revision 0")
        return answer


def _unchanged(kv: KeyValue) -> dict[str, str]:
    revision = str(kv.modified)
    return {
        "key": encoded(kv.key),
        "target": "MOD",
        "result": "EQUAL",
        "mod_revision": revision,
    }
