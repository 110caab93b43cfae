"""
Name the old workers that could still open a new connection to a withdrawn server.

An old worker does so for an upload that it accepted before the reload, or for the
retry of a request that failed elsewhere (proxy_next_upstream). From outside it cannot
be told from a worker that only holds a WebSocket, so only its exit is proof.
"""

import time
from collections.abc import Sequence

from deregister_agent.host import addresses
from deregister_agent.host.sockets import CONNECTED, LISTENING, State
from deregister_agent.model import Instance, Straggler
from deregister_agent.registries.nginx import proof_record
from deregister_agent.registries.nginx.processes import Worker, Workers, held_by
from deregister_agent.registries.nginx.proof import ServerLook
from deregister_agent.registries.nginx.site import Site

_OPEN = CONNECTED | {State.SYN_SENT}


def old_workers(
    site: Site, found: ServerLook, workers: Workers, instance: Instance
) -> list[Straggler]:
    """Name each old worker, for a person who wonders what the drain waits for."""
    now, dangerous = time.clock_gettime(time.CLOCK_BOOTTIME), _dangerous(site, found, workers)
    listened = _listened(workers.active) if dangerous else None
    return [
        Straggler(
            f"old nginx worker {worker.pid}, {now - worker.started:.0f} s old, "
            f"{_connections(worker, instance.address, instance.port)}"
            f"{_without_clients(worker, listened)}"
        )
        for worker in dangerous
    ]


def _dangerous(site: Site, found: ServerLook, workers: Workers) -> list[Worker]:
    """
    Return the old workers that may know the server as up.

    Workers that retired later, from a generation that had it down, are no danger. Which
    these are, time tells only of a server that was proved to be down before they began.
    """
    record, conf = found.record, found.conf
    down = all(server.down for server in site.servers(conf))
    ids = frozenset(worker.id for worker in workers.retiring)
    digest = conf.digest() if down else ""
    harmless = proof_record.covered(ids, record.proofs, digest, site.down)
    rest = [worker for worker in workers.retiring if worker.id not in harmless]
    since = record.down_since(site.key)
    if not rest or not down or since is None or record.dirty:
        return rest
    changed = conf.changed_at()
    return [
        worker
        for worker in rest
        if worker.started <= since
        or not site.running.loaded_after(frozenset({worker.id}), changed, strictly=True)
    ]


def _connections(worker: Worker, address: str, port: int) -> str:
    sockets = held_by(worker, _OPEN, peer_port=port)
    if sockets is None:
        return "its connections cannot be read"
    host = addresses.host(address)
    count = sum(1 for socket in sockets if socket.peer == host)
    return f"{count} connection(s) to {addresses.joined(host, port)}"


def _listened(active: Sequence[Worker]) -> set[int] | None:
    """Return the TCP ports on which Nginx has clients; None where they cannot be read."""
    for worker in active:
        if sockets := held_by(worker, LISTENING):
            return {one.local_port for one in sockets}
    return None


def _without_clients(worker: Worker, listened: set[int] | None) -> str:
    """
    Say that no client holds an old worker, and what then does; nothing where that is not known.

    A timer of Lua that is under way keeps its worker for as long as it likes, beyond
    worker_shutdown_timeout, which closes connections and knows nothing of timers.
    """
    sockets = held_by(worker, CONNECTED)
    if sockets is None or not listened:
        return ""
    if any(socket.local_port in listened for socket in sockets):
        return ""
    return (
        ", without a client by TCP: if that stays so, a timer of Lua or the like holds it, which "
        f"worker_shutdown_timeout does not end, and `kill {worker.pid}` does"
    )
