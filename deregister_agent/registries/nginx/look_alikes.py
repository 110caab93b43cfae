"""Servers that may be the instance under another name: refused where they are, else named."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from itertools import islice

from deregister_agent.net.sockets import addresses_of
from deregister_agent.registries.nginx.conf import NginxConf, ServerDirective, Upstream
from deregister_agent.registries.nginx.processes import NginxError
from deregister_agent.registries.nginx.server_address import canonical, parts
from deregister_agent.registries.nginx.site import Site
from deregister_agent.registries.nginx.tokens import words

_MOST = 5  # sentences: they end up in one refusal
_RESOLVE = 1.0  # seconds for all names of one look: what has no address by then is left out


class OtherSpellingError(NginxError):
    """The upstream has the instance up under a name that is not ``server``."""


def refuse_other_spellings(site: Site, conf: NginxConf, until: float) -> None:
    """
    Raise OtherSpellingError where the upstream sends work to the server under another name.

    A host name means what the resolver says now. One that it does not know is let pass:
    Nginx may be in a container and know names that this host does not.
    """
    block, end = site.block(conf), min(until, time.monotonic() + _RESOLVE)
    up = [s for s in block.servers if not s.down and not site.server.is_named(s.address)]
    for server in up:
        if _is_by_service(conf, server):
            is_ours = f"may mean {site.server.text}, as its port comes from DNS"
        elif is_same(site, server.address, end):
            is_ours = f"is {site.server.text} in other words"
        else:
            continue
        name = os.fsdecode(server.address)
        raise OtherSpellingError(
            f"upstream {block.name} has the server {name} in {conf.place(server)}, which "
            f"{is_ours}, and is up: set server = {json.dumps(name)}, or take it out of Nginx"
        )


def look_alikes(site: Site, conf: NginxConf) -> list[str]:
    """Return, for a server that is absent, what may be meant, with the line to write."""
    block = site.block(conf)
    alike = [s for s in block.servers if _port(s.address) == _port(site.server.canonical)]
    rest = [s for s in block.servers if s not in alike]
    sentences = [_shown(block, s) for s in alike]
    sentences += elsewhere(site, conf)
    sentences += [_shown(block, s) for s in rest]
    return list(islice(dict.fromkeys(sentences), _MOST))


def elsewhere(site: Site, conf: NginxConf) -> Iterator[str]:
    """Yield the other upstreams that list the server, with the lines that mean each."""
    for other in conf.upstreams.values():
        if (other.context, other.name) == (site.context, site.upstream):
            continue
        found = [s for s in other.servers if site.server.is_named(s.address)]
        if found:
            context = f", context = {json.dumps(other.context)}"
            yield (
                f"{other.context} upstream {other.name} has {site.server.text}"
                f"{_state(found)}: upstream = {json.dumps(other.name)}"
                f"{context if other.context != site.context else ''}"
            )


def _shown(block: Upstream, server: ServerDirective) -> str:
    name = os.fsdecode(server.address)
    return f"upstream {block.name} has {name}{_state([server])}: server = {json.dumps(name)}"


def _state(servers: list[ServerDirective]) -> str:
    return " (down)" if all(server.down for server in servers) else ""


def _port(address: bytes) -> bytes:
    return parts(canonical(address))[1]


def _is_by_service(conf: NginxConf, server: ServerDirective) -> bool:
    """Tell whether DNS says which ports the name stands for (SRV records)."""
    content = conf.files[server.file]
    if b"service=" not in content[server.start : server.end]:  # as nearly always; this is quick
        return False
    said = words(content, server.start, server.end)
    return any(word.text.startswith(b"service=") for word in said[1:])


def is_same(site: Site, address: bytes, end: float) -> bool:
    """Tell whether *address*, spelled in another way, is the server that is looked for."""
    theirs, ours = parts(canonical(address)), parts(site.server.canonical)
    if theirs[1] != ours[1]:
        return False
    if not ours[1]:
        return _socket(site, theirs[0]) == _socket(site, ours[0])
    if _is_literal(theirs[0]) == _is_literal(ours[0]):
        return False  # two addresses that differ; of two names each is its own
    name, literal = (ours, theirs) if _is_literal(theirs[0]) else (theirs, ours)
    found: list[str] = []
    with suppress(OSError):
        found = addresses_of(name[0].decode(errors="replace"), int(name[1]), end)
    written = [f"[{one}]:" if ":" in one else f"{one}:" for one in found]
    return b":".join(literal) in {canonical(one.encode() + name[1]) for one in written}


def _is_literal(host: bytes) -> bool:
    try:
        ip_address(host.strip(b"[]").decode(errors="replace"))
    except ValueError:
        return False
    return True


def _socket(site: Site, address: bytes) -> bytes:
    """Return the file that a Unix socket's path leads to, as this host sees it."""
    path = address.removeprefix(b"unix:").removesuffix(b":")
    return os.path.realpath(os.fsencode(site.paths.root) + b"/" + path.lstrip(b"/"))
