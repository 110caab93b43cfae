"""
The record of what was proved of running workers, and of edits that are not loaded yet.

Kept in a small file beside the configuration, because a drain outlives this process
and several agents may look after one Nginx. Losing it costs one reload, never the truth.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from deregister_agent.host.clock import SystemClock
from deregister_agent.host.files import read_plain, replace_durably
from deregister_agent.registries.nginx.conf import NginxConf
from deregister_agent.registries.nginx.server_address import canonical


@dataclass(frozen=True, slots=True)
class Proof:
    """These workers have loaded a configuration with this digest and these servers down."""

    ids: tuple[str, ...]
    digest: str
    down: tuple[str, ...]
    at: float  # CLOCK_BOOTTIME
    doubts: Mapping[str, Sequence[str]] | None = None
    """For each upstream, what it had that is not known to obey "down"; None: nobody had looked."""


@dataclass(frozen=True, slots=True)
class DownServer:
    """A server that proofs may know to be down, and what its upstream may have beside that."""

    key: str
    obeys: frozenset[str]  # what the operator vouches for

    def is_in(self, proof: Proof) -> bool:
        """Tell whether workers of a proof have the server down, and leave it alone for that."""
        upstream = self.key.rpartition(" ")[0]
        if self.key not in proof.down or proof.doubts is None:
            return False
        return self.obeys.issuperset(proof.doubts.get(upstream, ()))


@dataclass(frozen=True, slots=True)
class PendingEdit:
    """An edit that is on disk, written down before it was made, and not yet loaded."""

    context: str
    upstream: str
    server: str
    which: tuple[int, ...]  # which of the directives for this server
    down: bool
    created: str = ""  # the file that was made for it

    @property
    def key(self) -> str:
        """The name by which proofs know the server."""
        return key(self.context, self.upstream, self.server.encode(errors="surrogateescape"))


@dataclass(frozen=True, slots=True)
class ProofRecord:
    """All that is kept of one Nginx."""

    proofs: tuple[Proof, ...] = ()
    pending: tuple[PendingEdit, ...] = ()
    dirty: bool = False  # files were changed since the last proof: their times prove nothing
    refused: str = ""  # why the last changes were taken back
    since: Mapping[str, float] = field(default_factory=dict)  # CLOCK_BOOTTIME: first proved down
    ours: Mapping[str, Sequence[bool]] = field(default_factory=dict)
    """For each server that agents of this record have marked down: which of its directives. None
    at all where that is not known: a record of a former version said only that it was down."""
    boot: str = field(default_factory=lambda: SystemClock().boot_id())

    def down_since(self, key: str) -> float | None:
        """Return when, by CLOCK_BOOTTIME, this server was first proved down and has been since."""
        return self.since.get(key)

    def begun(self, entry: PendingEdit, count: int) -> "ProofRecord":
        """Return the record with an edit that is about to be made to one of *count* directives."""
        since = {other: at for other, at in self.since.items() if other != entry.key}
        flags = self.ours.get(entry.key, ())
        if len(flags) != count:
            flags = [False] * count
        ours = _flagged({**self.ours, entry.key: flags}, entry, down=entry.down)
        pending = (*self.pending, entry)
        return replace(self, pending=pending, dirty=True, refused="", since=since, ours=ours)

    def taken_back(self, why: str) -> "ProofRecord":
        """Return the record once what is pending has been undone."""
        ours = self.ours
        for entry in reversed(self.pending):
            ours = _flagged(ours, entry, down=not entry.down)
        return replace(self, pending=(), refused=why, ours=ours)

    def proved(self, proof: Proof, alive: frozenset[str]) -> "ProofRecord":
        """Return the record with one more proof, and no proof of workers known to have gone."""
        kept = [p for p in self.proofs if alive.intersection(p.ids)]
        since = {key: self.since.get(key, proof.at) for key in proof.down}
        # Somebody else has lifted what is not down any more; of several directives some may be.
        ours = {key: flags for key, flags in self.ours.items() if key in since or len(flags) > 1}
        done = replace(self, pending=(), dirty=False, refused="", since=since, ours=ours)
        return replace(done, proofs=(*kept, proof))


def load(path: Path) -> ProofRecord:
    """
    Read the record. One of another boot says only whose each "down" is, and none says nothing.

    A record that cannot be read proves nothing either: then the next change reloads.
    """
    try:
        data = json.loads(read_plain(path))
        record = ProofRecord(
            proofs=tuple(
                Proof(tuple(p["ids"]), p["digest"], tuple(p["down"]), p["at"], p.get("doubts"))
                for p in data["proofs"]
            ),
            pending=tuple(
                PendingEdit(**{**p, "which": tuple(p["which"])}) for p in data["pending"]
            ),
            dirty=data["dirty"],
            refused=data["refused"],
            since=dict(data["since"]),
            boot=data["boot"],
            ours=dict(data.get("ours", dict.fromkeys(data["since"], ()))),
        )
    except FileNotFoundError:
        return ProofRecord()
    except (ValueError, KeyError, TypeError):
        return ProofRecord(dirty=True)
    today = ProofRecord(ours=record.ours)
    return record if record.boot == today.boot else today


def save(path: Path, record: ProofRecord) -> None:
    """Write the record durably. Raises OSError."""
    replace_durably(path, json.dumps(asdict(record)).encode())


def mark(path: Path) -> Sequence[int]:
    """Return numbers of the record's file that change when it is replaced; none without a file."""
    with suppress(OSError):
        seen = path.stat()
        return seen.st_ino, seen.st_mtime_ns
    return ()


def key(context: str, upstream: str, server: bytes) -> str:
    """Return the name by which proofs know a server of an upstream."""
    return f"{context}/{upstream} {canonical(server).decode(errors='surrogateescape')}"


def _flagged(
    ours: Mapping[str, Sequence[bool]], entry: PendingEdit, *, down: bool
) -> Mapping[str, Sequence[bool]]:
    """Return *ours* with the directives of *entry* counted as marked down by us, or no longer."""
    flags = list(ours.get(entry.key, ()))
    for i in set(entry.which).intersection(range(len(flags))):
        flags[i] = down
    rest = {name: one for name, one in ours.items() if name != entry.key}
    return {**rest, entry.key: flags} if any(flags) else rest


def all_down(conf: NginxConf) -> tuple[str, ...]:
    """Return the servers that are down wherever their upstream lists them."""
    found: list[str] = []
    for (context, name), block in conf.upstreams.items():
        down = {canonical(server.address) for server in block.servers if server.down}
        if down:
            down -= {canonical(server.address) for server in block.servers if not server.down}
        found += [key(context, name, address) for address in down]
    return tuple(sorted(found))


def covered(
    ids: Iterable[str], proofs: Iterable[Proof], digest: str, down: DownServer | None
) -> frozenset[str]:
    """Return those of *ids* proved to run this configuration, or to have *down* down."""
    good = [p for p in proofs if p.digest == digest or (down is not None and down.is_in(p))]
    return frozenset(ids).intersection(worker for proof in good for worker in proof.ids)
