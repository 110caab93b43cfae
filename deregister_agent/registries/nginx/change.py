"""
Carry one change through: edit, test, reload, proof; or put everything back.

Several agents, and many instances at once, share one Nginx. Each edits under a lock
and lets go of it; after a short pause the first to come back loads what all have
edited, and the others find it loaded. What cannot be loaded is taken back for all.
"""

import time
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from deregister_agent.errors import AgentError
from deregister_agent.host.files import remove_durably, replace_durably
from deregister_agent.registries.nginx import proof_record as records
from deregister_agent.registries.nginx.address import Address
from deregister_agent.registries.nginx.conf import Conf, Layout
from deregister_agent.registries.nginx.parse import read
from deregister_agent.registries.nginx.processes import POLL, ControlError
from deregister_agent.registries.nginx.proof_record import Pending, Proof, Record
from deregister_agent.registries.nginx.reload import run
from deregister_agent.registries.nginx.remedies import said
from deregister_agent.registries.nginx.running_by_processes import Seen
from deregister_agent.registries.nginx.site import Site, Wish
from deregister_agent.registries.nginx.watch import mark_of

_LONGEST_GATHER = 1.0  # seconds: nobody waits longer for others


class _ChangedError(ControlError):
    """The files are not those any more that were read."""


@dataclass(frozen=True, slots=True)
class Look:
    """Whether the server is up, and what has shown it: *seen* is None where the files did."""

    listed: bool
    conf: Conf
    known: Record
    seen: Seen | None = None


def look(site: Site, until: float) -> Look:
    """
    Tell whether the files, or any worker that accepts clients, have the server up.

    Raises AgentError or OSError when it cannot be told.
    """
    # What is proved of files that stay the same meanwhile is true whoever is changing others:
    # looks would hold each other up for nothing. What is not proved may be so at once, when
    # somebody who has just reloaded has written it down, and lets go of the lock.
    with suppress(_ChangedError):
        found = _look(site, until, nullcontext())
        if found.seen is None or not found.listed:
            return found
    while True:
        try:
            return _look(site, until, site.locked(until))
        except _ChangedError:
            if time.monotonic() >= until:
                raise


def _look(site: Site, until: float, lock: AbstractContextManager[None]) -> Look:
    """Tell whether it is listed, as far as is proved. Raises what _seen() does."""
    conf = site.read()
    if not all(server.down for server in site.servers(conf)):
        return Look(listed=True, conf=conf, known=records.load(site.record))
    with lock:
        known = records.load(site.record)
        seen = _seen(site, conf, until)
        return Look(not _proven(site, conf, known, seen.ids, down=True), conf, known, seen)


def _seen(site: Site, conf: Conf, until: float) -> Seen:
    """
    Name what accepts clients, and could have loaded *conf*.

    Raises ControlError when it cannot be told, _ChangedError when the files change meanwhile.
    """
    site.running.check(conf, {server.file for server in site.servers(conf)})
    seen = site.running.seen(until)
    if not conf.current():
        raise _ChangedError("the configuration changed while it was read")
    return seen


def _proven(
    site: Site,
    conf: Conf,
    known: Record,
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
    wanted = site.key if down else None
    rest = ids - records.covered(ids, known.proofs, conf.digest(), wanted)
    if not rest or not by_time:
        return not rest
    # A server that was last proved down and still is: only somebody who took "down" away,
    # reloaded and put it back, all within a tick, could make this wrong.
    strictly = not (down and known.down_since(site.key) is not None)
    return not known.dirty and site.running.loaded_after(rest, conf.changed_at(), strictly=strictly)


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
        site.running.check(conf, {server.file for server in site.servers(conf)})
        site.running.seen(until)  # or there would be nobody to load it
        with site.locked(until):
            # Whoever edited first, and has not reloaded yet, has tested what was there before.
            if not wish.create and not records.load(site.record).pending:
                _test(site, until, "before any change of the agent's")
            edited = _edit(site, wish)
    if edited:
        _gather(site, until)
    with site.locked(until):
        _load(site, wish, until)


def _open(site: Site, wish: Wish, conf: Conf) -> bool:
    """Tell whether anything is left to edit."""
    if wish.create:
        return site.owned is not None and not site.owned.exists()
    return bool(wish.unmet(site.servers(conf)))


def _edit(site: Site, wish: Wish) -> bool:
    """Write down what is about to change, then change it. False if there is nothing to do."""
    conf = site.read()
    if not _open(site, wish, conf):
        return False
    servers = site.servers(conf)
    which = () if wish.create else wish.unmet(servers)
    after = conf.marked([servers[i] for i in which], down=wish.down)
    if wish.create and site.owned is not None:
        after = {site.owned: wish.create}
    created = str(site.owned) if wish.create else ""
    entry = Pending(site.context, site.upstream, site.server.text, which, wish.down, created)
    known = _captured(site, conf, records.load(site.record))
    known = known.begun(entry, site.key)
    records.save(site.record, known)
    try:
        _write(conf, after)
    except (ControlError, OSError):
        _take_back(site, known, "a file could not be written")
        raise
    return True


def _captured(site: Site, conf: Conf, known: Record) -> Record:
    """
    Keep what times prove now, since an edit is about to spoil them.

    Only of servers that were proved to be down before: the others, and all else in the
    files, are known by time alone, and need no better proof before they are asked about.
    """
    with suppress(ControlError):
        ids = site.running.seen(time.monotonic() + 1.0).ids
        rest = ids - records.covered(ids, known.proofs, conf.digest(), None)
        after = site.running.loaded_after(rest, conf.changed_at(), strictly=True)
        if rest and not known.dirty and after:
            down = tuple(key for key in records.all_down(conf) if known.down_since(key) is not None)
            proof = Proof(tuple(sorted(rest)), "", down, _boottime())
            return known.proved(proof, site.running.alive())
    return known


def _write(conf: Conf, after: dict[Path, bytes]) -> None:
    """Replace files, unless somebody without our lock has just done so."""
    for path, content in after.items():
        if path in conf.files and path.read_bytes() != conf.files[path]:
            raise ControlError(f"somebody else is changing {path}")
        replace_durably(path, content)


def _gather(site: Site, until: float) -> None:
    """Let changes that come together become one reload: wait until no more come in."""
    end = min(time.monotonic() + _LONGEST_GATHER, until)
    last, since = mark_of(site.record), time.monotonic()
    while time.monotonic() < min(since + site.gather, end):
        time.sleep(min(POLL, site.gather))
        if (mark := mark_of(site.record)) != last:
            last, since = mark, time.monotonic()


def _load(site: Site, wish: Wish, until: float) -> None:
    """Have the present files loaded, if they are not. The caller holds the lock."""
    known = records.load(site.record)
    try:
        proof = _loaded(site, wish, known, until)
    except (AgentError, OSError) as e:
        raise ControlError(_take_back(site, known, said(e))) from e
    if proof is not None:
        records.save(site.record, known.proved(proof, site.running.alive()))


def _loaded(site: Site, wish: Wish, known: Record, until: float) -> Proof | None:
    """Return the proof that a reload has given; None if none was needed."""
    conf = site.read()
    if _open(site, wish, conf):
        raise ControlError(known.refused or "somebody else has taken the change back")
    ids = _seen(site, conf, until).ids
    if _proven(site, conf, known, ids, down=wish.down, by_time=not wish.down):
        return None
    _test(site, until, "with the change")
    ids = _reloaded(site, conf, until)
    return Proof(tuple(sorted(ids)), conf.digest(), records.all_down(conf), _boottime())


def _reloaded(site: Site, conf: Conf, until: float) -> frozenset[str]:
    """Reload, and be sure that what was loaded is what was read."""
    ids = site.running.reload(until)
    if not conf.current():
        raise ControlError("the configuration changed during the reload")
    return ids


def _take_back(site: Site, known: Record, why: str) -> str:
    """Undo every edit that is not loaded. Returns *why*, with what became of the files."""
    if not known.pending:
        return why
    try:
        for entry in reversed(known.pending):
            _undo(site.layout, entry)
    except (AgentError, OSError) as e:
        return f"{why}; and the change could not be taken back: {said(e)}"
    why = f"{why} (the change was taken back)"
    with suppress(OSError):  # then the edits are undone, and the record still asks for that
        records.save(site.record, replace(known, pending=(), refused=why))
    return why


def _undo(layout: Layout, entry: Pending) -> None:
    """Put back what one edit changed, where it still stands as it was left."""
    if entry.created:
        remove_durably(Path(entry.created))
        return
    conf = read(layout)
    servers = conf.find(entry.context, entry.upstream, Address(entry.server))
    ours = [servers[i] for i in entry.which if i < len(servers) and servers[i].down == entry.down]
    _write(conf, conf.marked(ours, down=not entry.down))


def _test(site: Site, until: float, when: str) -> None:
    """Run the test command. Raises ControlError."""
    try:
        run(site.test, until - time.monotonic())
    except ControlError as e:
        raise ControlError(f"{e} ({when})") from e


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
