"""
Carry one change through: edit, test, reload, proof; or put everything back.

Several agents, and many instances at once, share one Nginx. Each edits under a lock
and lets go of the lock; after a short pause the first to come back loads what all have
edited, and the others find that done. What cannot be loaded is taken back for all.
"""

import time
from contextlib import suppress
from pathlib import Path

from deregister_agent.errors import AgentError
from deregister_agent.host.files import read_plain, remove_durably, replace_durably
from deregister_agent.registries.nginx import proof_record
from deregister_agent.registries.nginx.conf import ConfPaths, NginxConf
from deregister_agent.registries.nginx.obedience import doubts
from deregister_agent.registries.nginx.parse import read
from deregister_agent.registries.nginx.processes import POLL, NginxError
from deregister_agent.registries.nginx.proof import is_proved, workers_of
from deregister_agent.registries.nginx.proof_record import PendingEdit, Proof, ProofRecord
from deregister_agent.registries.nginx.reload import run
from deregister_agent.registries.nginx.remedies import with_remedy
from deregister_agent.registries.nginx.server_address import ServerAddress
from deregister_agent.registries.nginx.site import Site, Wish

_GATHER_LIMIT = 1.0  # seconds: nobody waits longer for others


def carry_out(site: Site, wish: Wish) -> None:
    """
    Make *wish* true of the files and of the running workers.

    Raises AgentError or OSError; then the files are as before, or, if the process
    dies, as wished and known not to be loaded.
    """
    until = time.monotonic() + site.timeout
    edited = False
    conf = site.read()
    if _open(site, wish, conf):
        site.check_seen(conf)
        site.running.workers(until)  # or there would be nobody to load it
        with site.locked(until):
            # Whoever edited first, and has not reloaded yet, has tested what was there before.
            if not wish.create and not proof_record.load(site.record).pending:
                _test(site, until, "before any change of the agent's")
            edited = _edit(site, wish)
    if edited:
        _gather(site, until)
    with site.locked(until):
        _load(site, wish, until)


def _open(site: Site, wish: Wish, conf: NginxConf) -> bool:
    """Tell whether anything is left to edit for *wish*."""
    if wish.create:
        return site.owned is not None and not site.owned.exists()
    return bool(wish.unmet(site.servers(conf)))


def _edit(site: Site, wish: Wish) -> bool:
    """Write down the coming edit, then make the edit. False if there is nothing to do."""
    conf = site.read()
    if not _open(site, wish, conf):
        return False
    servers = site.servers(conf)
    which = () if wish.create else wish.unmet(servers)
    after = conf.marked([servers[i] for i in which], down=wish.down)
    if wish.create and site.owned is not None:
        after = {site.owned: wish.create}
    created = str(site.owned) if wish.create else ""
    entry = PendingEdit(site.context, site.upstream, site.server.text, which, wish.down, created)
    record = _captured(site, conf, proof_record.load(site.record))
    record = record.begun(entry, len(servers))
    proof_record.save(site.record, record)
    try:
        _write(conf, after)
    except (NginxError, OSError):
        _take_back(site, record, "a file could not be written")
        raise
    return True


def _captured(site: Site, conf: NginxConf, record: ProofRecord) -> ProofRecord:
    """
    Return the record with what file times prove now, since an edit is about to spoil them.

    Only of servers that were proved to be down before: the others, and all else in the
    files, are known by time alone, and need no better proof before somebody asks for it.
    """
    with suppress(NginxError):
        ids = site.running.workers(time.monotonic() + 1.0).active_ids
        rest = ids - proof_record.covered(ids, record.proofs, conf.digest(), None)
        after = site.running.loaded_after(rest, conf.changed_at(), strictly=True)
        if rest and not record.dirty and after:
            down = tuple(key for key in proof_record.all_down(conf) if key in record.since)
            proof = Proof(tuple(sorted(rest)), "", down, _boottime(), doubts(conf))
            return record.proved(proof, site.running.alive())
    return record


def _write(conf: NginxConf, after: dict[Path, bytes]) -> None:
    """Replace files, unless somebody without the lock has just changed them."""
    for path, content in after.items():
        if path in conf.files and read_plain(path) != conf.files[path]:
            raise NginxError(f"somebody else is changing {path}")
        replace_durably(path, content)


def _gather(site: Site, until: float) -> None:
    """Wait until no more changes come in, so that those that come together cost one reload."""
    end = min(time.monotonic() + _GATHER_LIMIT, until)
    last, since = proof_record.mark(site.record), time.monotonic()
    while time.monotonic() < min(since + site.gather, end):
        time.sleep(min(POLL, site.gather))
        if (mark := proof_record.mark(site.record)) != last:
            last, since = mark, time.monotonic()


def _load(site: Site, wish: Wish, until: float) -> None:
    """Have Nginx load the present files, unless it has. The caller holds the lock."""
    record = proof_record.load(site.record)
    try:
        proof = _loaded(site, wish, record, until)
    except (AgentError, OSError) as e:
        raise NginxError(_take_back(site, record, with_remedy(e))) from e
    if proof is not None:
        proof_record.save(site.record, record.proved(proof, site.running.alive()))


def _loaded(site: Site, wish: Wish, record: ProofRecord, until: float) -> Proof | None:
    """Return the proof that a reload has given; None if no reload was needed."""
    conf = site.read()
    if _open(site, wish, conf):
        raise NginxError(record.refused or "somebody else has taken the change back")
    ids = workers_of(site, conf, until).active_ids
    if is_proved(site, conf, record, ids, down=wish.down, by_time=not wish.down):
        return None
    _test(site, until, "with the change")
    ids = _reloaded(site, conf, until)
    down = proof_record.all_down(conf)
    return Proof(tuple(sorted(ids)), conf.digest(), down, _boottime(), doubts(conf))


def _reloaded(site: Site, conf: NginxConf, until: float) -> frozenset[str]:
    """Reload, and return the ids of the workers that have loaded *conf*, as it was read."""
    ids = site.running.reload(until)
    if not conf.current():
        raise NginxError("the configuration changed during the reload")
    return ids


def _take_back(site: Site, record: ProofRecord, why: str) -> str:
    """Undo every edit that is not loaded. Return *why*, with what became of the files."""
    if not record.pending:
        return why
    try:
        for entry in reversed(record.pending):
            _undo(site.paths, entry)
    except (AgentError, OSError) as e:
        return f"{why}; and the change could not be taken back: {with_remedy(e)}"
    why = f"{why} (the change was taken back)"
    with suppress(OSError):  # then the edits are undone, and the record still asks for that
        proof_record.save(site.record, record.taken_back(why))
    return why


def _undo(paths: ConfPaths, entry: PendingEdit) -> None:
    """Put back what one edit changed, where that still stands as the edit left it."""
    if entry.created:
        remove_durably(Path(entry.created))
        return
    conf = read(paths)
    servers = conf.find(entry.context, entry.upstream, ServerAddress(entry.server))
    ours = [servers[i] for i in entry.which if i < len(servers) and servers[i].down == entry.down]
    _write(conf, conf.marked(ours, down=not entry.down))


def _test(site: Site, until: float, when: str) -> None:
    """Run the test command. Raises NginxError, which says *when* the test was made."""
    try:
        run(site.test, until - time.monotonic())
    except NginxError as e:
        raise NginxError(f"{e} ({when})") from e


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
