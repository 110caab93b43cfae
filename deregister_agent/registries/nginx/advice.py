"""Warnings: what in an Nginx configuration will hurt when instances are taken out."""

from collections.abc import Iterator
from contextlib import suppress

from deregister_agent.registries.nginx.conf import NginxConf, Upstream
from deregister_agent.registries.nginx.look_alikes import look_alikes
from deregister_agent.registries.nginx.obedience import (
    UnprovedError,
    modules,
    refuse_unproved,
)
from deregister_agent.registries.nginx.processes import NginxError
from deregister_agent.registries.nginx.site import Site


def advice(site: Site) -> list[str]:
    """Return one sentence for each thing that is worth changing, with the change."""
    conf = site.read()
    servers = site.servers(conf)
    block = site.block(conf)
    found = [*_doubts(site, conf), *_general(conf, site.context), *_of_upstream(site, conf, block)]
    return found if servers else [*found, _absence(site, conf)]


def _doubts(site: Site, conf: NginxConf) -> Iterator[str]:
    """Yield what may keep "down" from being obeyed: what is refused, and what is only to know."""
    try:
        refuse_unproved(site, conf)
    except UnprovedError as e:
        yield f"stop-traffic is refused: {e}"
    with suppress(NginxError):  # it does not run, as check-config need not know
        if doubt := site.running.doubt(conf.paths.main):
            yield doubt
    if loaded := modules(conf):
        yield (
            f"modules of others are loaded ({', '.join(loaded)}): of their directives only those "
            'that are known to run code or to change servers are looked for; make sure that "down" '
            "is obeyed all the same"
        )
    for one in conf.unread:
        yield f"cannot read {one}: whether code in it may change servers is not known"


def _absence(site: Site, conf: NginxConf) -> str:
    meant = "; ".join(look_alikes(site, conf)) or "nothing there looks like it"
    refused = "" if site.may_be_absent else ", so stop-traffic is refused until it has been seen"
    return f"upstream {site.upstream} does not list {site.server.text} now{refused}; {meant}"


def _general(conf: NginxConf, context: str) -> Iterator[str]:
    names = {directive.name for directive in conf.directives}
    if b"worker_shutdown_timeout" not in names:
        yield (
            "no worker_shutdown_timeout: a WebSocket or long poll holds an old worker, and with it "
            "the drain, for as long as it likes; set one that is longer than the longest request"
        )
    if context == "http" and b"keepalive_min_timeout" not in names:
        yield (
            "no keepalive_min_timeout (nginx 1.27.4 or newer): each reload closes idle keep-alive "
            "connections under clients that may be about to use them"
        )
    retries = [d for d in conf.directives if d.name == b"proxy_next_upstream"]
    if any("off" in conf.said(directive) for directive in retries):
        yield (
            "proxy_next_upstream off: a request that meets a server which is just going is not "
            "tried on another"
        )


def _of_upstream(site: Site, conf: NginxConf, block: Upstream) -> Iterator[str]:
    if sum(1 for server in block.servers if not server.backup) <= 1:
        yield (
            f"upstream {block.name} has one server: while it is down, every request gets 502, and "
            "the last-instance guard refuses (min_others)"
        )
    yield from _of_the_last_one(site, conf, block)
    hashing = sorted(block.names & {b"ip_hash", b"hash"})
    if hashing and site.may_be_absent:
        yield (
            f"upstream {block.name} uses {hashing[0].decode()}, and absent = 'withdrawn' lets "
            "another tool remove servers: each removal moves most clients; let it mark them down"
        )
    names = [s.address for s in block.servers if not _is_literal(s.address)]
    if names:
        yield (
            f"upstream {block.name} lists host names ({names[0].decode(errors='replace')}): the "
            f"agent does not resolve them; make sure that none is {site.server.text}"
        )


def _of_the_last_one(site: Site, conf: NginxConf, block: Upstream) -> Iterator[str]:
    """
    Warn where one failure puts out the server that is left.

    With one server in an upstream Nginx does not count failures, but one that is ``down``
    counts as a server (ngx_http_upstream_init_round_robin(): peers->single).
    """
    up = [s for s in block.servers if not s.down]
    if len(up) != 2 or any(server.backup for server in up):  # noqa: PLR2004 - ours and the last
        return
    if all(b"max_fails=0" in conf.parameters(server) for server in up):
        return
    yield (
        f"upstream {block.name} has two servers: while {site.server.text} is down, Nginx still "
        "counts two, so after max_fails failures (1 unless set) it takes the other one out as "
        "well, and all requests fail for fail_timeout (10 s unless set); set max_fails=0 on both"
    )


def _is_literal(address: bytes) -> bool:
    return address[:1] == b"[" or address[:5] == b"unix:" or address[:1].isdigit()
