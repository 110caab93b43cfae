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
from deregister_agent.host.files import replace_durably
from deregister_agent.registries.nginx.conf import NginxConf
from deregister_agent.registries.nginx.server_address import canonical


@dataclass(frozen=True, slots=True)
class Proof:
    """These workers have loaded a configuration with this digest and these servers down."""

    ids: tuple[str, ...]
    digest: str
    down: tuple[str, ...]
    at: float  # CLOCK_BOOTTIME


@dataclass(frozen=True, slots=True)
class PendingEdit:
    """An edit that is on disk, written down before it was made, and not yet loaded."""

    context: str
    upstream: str
    server: str
    which: tuple[int, ...]  # which of the directives for this server
    down: bool
    created: str = ""  # the file that was made for it


@dataclass(frozen=True, slots=True)
class ProofRecord:
    """All that is kept of one Nginx."""

    proofs: tuple[Proof, ...] = ()
    pending: tuple[PendingEdit, ...] = ()
    dirty: bool = False  # files were changed since the last proof: their times prove nothing
    refused: str = ""  # why the last changes were taken back
    since: Mapping[str, float] = field(default_factory=dict)  # CLOCK_BOOTTIME: first proved down
    boot: str = field(default_factory=lambda: SystemClock().boot_id())

    def down_since(self, key: str) -> float | None:
        """Return when, by CLOCK_BOOTTIME, this server was first proved down and has been since."""
        return self.since.get(key)

    def begun(self, entry: PendingEdit, key: str) -> "ProofRecord":
        """Return the record with an edit that is about to be made to the server *key*."""
        since = {other: at for other, at in self.since.items() if other != key}
        return replace(self, pending=(*self.pending, entry), dirty=True, refused="", since=since)

    def proved(self, proof: Proof, alive: frozenset[str]) -> "ProofRecord":
        """Return the record with one more proof, and no proof of workers known to have gone."""
        kept = [p for p in self.proofs if alive.intersection(p.ids)]
        since = {key: self.since.get(key, proof.at) for key in proof.down}
        proofs = (*kept, proof)
        return replace(self, proofs=proofs, pending=(), dirty=False, refused="", since=since)


def load(path: Path) -> ProofRecord:
    """
    Read the record. A record of another boot, or none, says nothing.

    A record that cannot be read proves nothing either: then the next change reloads.
    """
    try:
        data = json.loads(path.read_bytes())
        record = ProofRecord(
            proofs=tuple(
                Proof(tuple(p["ids"]), p["digest"], tuple(p["down"]), p["at"])
                for p in data["proofs"]
            ),
            pending=tuple(
                PendingEdit(**{**p, "which": tuple(p["which"])}) for p in data["pending"]
            ),
            dirty=data["dirty"],
            refused=data["refused"],
            since=dict(data["since"]),
            boot=data["boot"],
        )
    except FileNotFoundError:
        return ProofRecord()
    except (ValueError, KeyError, TypeError):
        return ProofRecord(dirty=True)
    return record if record.boot == ProofRecord().boot else ProofRecord()


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
    ids: Iterable[str], proofs: Iterable[Proof], digest: str, down: str | None
) -> frozenset[str]:
    """Return those of *ids* proved to run this configuration, or to have *down* down."""
    good = [p for p in proofs if p.digest == digest or (down is not None and down in p.down)]
    return frozenset(ids).intersection(worker for proof in good for worker in proof.ids)
