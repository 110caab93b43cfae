"""
Block until what is known of an Nginx may have changed.

Nothing tells of all changes, so the files and the workers are looked at several times
a second. The exit of an old worker, which drains wait for, is told at once.
"""

import hashlib
import time
from collections.abc import Sequence

from deregister_agent.registries.nginx import proof_record
from deregister_agent.registries.nginx.conf import NginxConf
from deregister_agent.registries.nginx.processes import Master, Workers, wait_exit
from deregister_agent.registries.nginx.site import Site

_INTERVAL = 0.25  # seconds between two looks at what nobody tells of


def next_change(site: Site, cursor: str | None, timeout: float) -> str:
    """
    Block for at most *timeout* seconds while all is as in *cursor*; return the cursor of now.

    Raises AgentError or OSError.
    """
    end, conf = time.monotonic() + timeout, site.read()
    while True:
        workers = Master(site.running.pid_file).workers()
        if not conf.current():
            conf = site.read()
        now, left = _cursor(conf, workers, proof_record.mark(site.record)), end - time.monotonic()
        if now != cursor or left <= 0:
            return now
        wait_exit(workers.retiring, min(_INTERVAL, left))


def _cursor(conf: NginxConf, workers: Workers, record: Sequence[int]) -> str:
    ids = [sorted(w.id for w in some) for some in (workers.active, workers.retiring)]
    files = sorted((str(path), stat) for path, stat in conf.stats.items())
    seen = repr((files, sorted(conf.globs.items()), ids, workers.unnamed, record))
    return hashlib.sha256(seen.encode()).hexdigest()
