"""Tell, from files, running workers and the record, whether a server is proved to be down."""

import time
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass

from deregister_agent.registries.nginx import proof_record
from deregister_agent.registries.nginx.conf import NginxConf
from deregister_agent.registries.nginx.processes import NginxError, Workers
from deregister_agent.registries.nginx.proof_record import ProofRecord
from deregister_agent.registries.nginx.site import Site


class _ChangedError(NginxError):
    """The files are not those any more that were read."""


@dataclass(frozen=True, slots=True)
class ServerLook:
    """Whether the server is listed, and what has shown that."""

    listed: bool
    conf: NginxConf
    record: ProofRecord
    workers: Workers | None = None  # None where the files alone have shown it


def look(site: Site, until: float) -> ServerLook:
    """
    Tell whether the files, or any worker that accepts clients, have the server up.

    Raises AgentError or OSError when that cannot be told.
    """
    # What is proved of files that stay the same meanwhile is true whoever is changing others:
    # looks would hold each other up for nothing. What is not proved may be so at once, when
    # somebody who has just reloaded has written it down, and lets go of the lock.
    with suppress(_ChangedError):
        found = _look(site, until, nullcontext())
        if found.workers is None or not found.listed:
            return found
    while True:
        try:
            return _look(site, until, site.locked(until))
        except _ChangedError:
            if time.monotonic() >= until:
                raise


def _look(site: Site, until: float, lock: AbstractContextManager[None]) -> ServerLook:
    """Tell whether the server is listed, as far as is proved. Raises what workers_of() does."""
    conf = site.read()
    if not all(server.down for server in site.servers(conf)):
        return ServerLook(listed=True, conf=conf, record=proof_record.load(site.record))
    with lock:
        record = proof_record.load(site.record)
        workers = workers_of(site, conf, until)
        down = is_proved(site, conf, record, workers.active_ids, down=True)
        return ServerLook(not down, conf, record, workers)


def workers_of(site: Site, conf: NginxConf, until: float) -> Workers:
    """
    Return the workers, of which those that accept clients could have loaded *conf*.

    Raises NginxError when that cannot be told, or the files change meanwhile.
    """
    site.check_seen(conf)
    workers = site.running.workers(until)
    if not conf.current():
        raise _ChangedError("the configuration changed while it was read")
    return workers


def is_proved(
    site: Site,
    conf: NginxConf,
    record: ProofRecord,
    ids: frozenset[str],
    *,
    down: bool,
    by_time: bool = True,
) -> bool:
    """
    Tell whether all of *ids* have loaded what *conf* says of this server.

    *by_time*: take workers that began after the last change for such as have loaded it. So
    they have after somebody's reload; but one that crashed is replaced by one of its kind.
    """
    wanted = site.down if down else None
    rest = ids - proof_record.covered(ids, record.proofs, conf.digest(), wanted)
    if not rest or not by_time:
        return not rest
    # A server that was last proved down and still is: only somebody who took "down" away,
    # reloaded and put it back, all within a tick, could make this wrong.
    strictly = not (down and record.down_since(site.key) is not None)
    return not record.dirty and site.running.loaded_after(
        rest, conf.changed_at(), strictly=strictly
    )
