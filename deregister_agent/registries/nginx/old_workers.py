"""
Name the old workers that could still open a new connection to a withdrawn server.

An old worker does so for an upload that it accepted before the reload, or for the
retry of a request that failed elsewhere (proxy_next_upstream). From outside it cannot
be told from one that only holds a WebSocket, so only its exit is proof.
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from deregister_agent.host.sockets import CONNECTED, State
from deregister_agent.model import Instance, Straggler
from deregister_agent.registries.nginx import proof_record as records
from deregister_agent.registries.nginx.change import Look
from deregister_agent.registries.nginx.conf import Conf
from deregister_agent.registries.nginx.processes import Worker, held_by
from deregister_agent.registries.nginx.proof_record import Record
from deregister_agent.registries.nginx.running_by_processes import Seen
from deregister_agent.registries.nginx.site import Site

_OPEN = CONNECTED | {State.SYN_SENT}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited for old workers, and whether they are waived then."""

    limit: float  # seconds from when the server was down in all that accepts clients
    gives_up: bool


def named(
    site: Site, found: Look, seen: Seen, patience: Patience, instance: Instance
) -> list[Straggler]:
    """Name each old worker, for a person who wonders what the drain waits for."""
    workers, age = _old_workers(site, found, seen)
    late = age >= patience.limit
    after = f"; {age:.0f} s after the reload" if late else ""
    return [
        Straggler(
            f"old nginx worker {worker.pid}, {_now() - worker.started:.0f} s old, "
            f"{_held(worker, instance.address, instance.port)}{after}",
            waived=late and patience.gives_up,
        )
        for worker in workers
    ]


def unseen(known: Record, key: str, patience: Patience) -> list[Straggler]:
    """Say of workers that cannot be seen for how long there may be some."""
    since = known.down_since(key)
    age = 0.0 if since is None else _now() - since
    if age < patience.limit:
        return [Straggler(f"old nginx workers, unseen: {patience.limit - age:.0f} s to go")]
    return [Straggler(f"old nginx workers, unseen, {age:.0f} s after the reload", waived=True)]


def _old_workers(site: Site, found: Look, seen: Seen) -> tuple[list[Worker], float]:
    """
    Return the old workers that may know the server as up, and how long it has been down.

    Workers that retired later, from a generation that had it down, are no danger. Which
    these are, time tells only of a server that was proved to be down before they began.
    """
    known, conf = found.known, found.conf
    down = all(server.down for server in site.servers(conf))
    ids = frozenset(worker.id for worker in seen.retiring)
    harmless = records.covered(ids, known.proofs, conf.digest() if down else "", site.key)
    rest = [worker for worker in seen.retiring if worker.id not in harmless]
    since = known.down_since(site.key)
    if down and since is not None and not known.dirty:
        rest = [w for w in rest if w.started <= since or not _began_after(w, site, conf)]
    if since is None:
        since = _now() if seen.began is None else seen.began
    return rest, _now() - since


def _held(worker: Worker, address: str, port: int) -> str:
    sockets = held_by(worker, _OPEN, peer_port=port)
    if sockets is None:
        return "its connections cannot be read"
    with suppress(ValueError):  # a host's name: nothing is connected to that
        address = str(ip_address(address))
    count = sum(1 for one in sockets if one.peer == address)
    return f"{count} connection(s) to {address}:{port}"


def _began_after(worker: Worker, site: Site, conf: Conf) -> bool:
    return site.running.loaded_after(frozenset({worker.id}), conf.changed_at(), strictly=True)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
