"""
Name the old workers that could still open a new connection to a withdrawn server.

An old worker does so for an upload that it accepted before the reload, or for the
retry of a request that failed elsewhere (proxy_next_upstream). From outside it cannot
be told from one that only holds a WebSocket, so only its exit is proof.
"""

import time
from collections.abc import Sequence

from deregister_agent.nginx import record as records
from deregister_agent.nginx.conf import Conf
from deregister_agent.nginx.processes import Worker, connections
from deregister_agent.nginx.record import Record
from deregister_agent.nginx.running import ByProcesses
from deregister_agent.nginx.site import Site


def old_workers(site: Site, running: ByProcesses, until: float) -> tuple[list[Worker], float]:
    """
    Return the old workers that may know the server as up, and how long it has been down.

    Workers that retired later, from a generation that had it down, are no danger.
    """
    known, conf = records.load(site.record), site.read()
    workers = running.workers(until)
    down = all(server.down for server in site.servers(conf))
    ids = frozenset(worker.id for worker in workers.retiring)
    harmless = records.covered(ids, known.proofs, conf.digest() if down else "", site.key)
    rest = [worker for worker in workers.retiring if worker.id not in harmless]
    if down and not known.dirty:
        rest = [w for w in rest if not _began_after(w, running, conf)]
    since = known.down_since(site.key)
    if since is None:
        since = max((worker.started for worker in workers.active), default=_now())
    return rest, _now() - since


def unseen_for(known: Record, key: str) -> float:
    """Return for how long a server is known to be down; 0 where that is not known."""
    since = known.down_since(key)
    return 0.0 if since is None else _now() - since


def named(workers: Sequence[Worker], address: str, port: int) -> list[str]:
    """Describe each worker, for a person who wonders what the drain waits for."""
    return [
        f"old nginx worker {worker.pid}, {_now() - worker.started:.0f} s old, "
        f"{_held(worker, address, port)}"
        for worker in workers
    ]


def _held(worker: Worker, address: str, port: int) -> str:
    count = connections(worker, address, port)
    if count is None:
        return "its connections cannot be read"
    return f"{count} connection(s) to {address}:{port}"


def _began_after(worker: Worker, running: ByProcesses, conf: Conf) -> bool:
    return running.loaded_after(frozenset({worker.id}), conf.changed_at(), strictly=True)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
