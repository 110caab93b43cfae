"""Other ways by which the same configuration sends work to a server, past its upstream."""

import json
import os
import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from weakref import WeakSet

from deregister_agent.registries.nginx.conf import Directive, NginxConf, Upstream
from deregister_agent.registries.nginx.destinations import destination, passes
from deregister_agent.registries.nginx.look_alikes import is_same
from deregister_agent.registries.nginx.site import Site

_RESOLVE = 1.0  # seconds for all names of one look: what has no address by then is left out


class UpstreamName(NamedTuple):
    """One upstream of a configuration."""

    context: str
    name: str


@dataclass(frozen=True, eq=False)
class Coverage:
    """What one registry takes an instance out of. It counts for as long as the registry lives."""

    instance: str
    config: Path
    upstream: UpstreamName

    def __post_init__(self) -> None:
        """Let the instance's other registries know."""
        _IN_USE.add(self)

    def of_all(self) -> set[UpstreamName]:
        """Return the upstreams that all registries of the instance take it out of."""
        return {
            one.upstream
            for one in set(_IN_USE)
            if (one.instance, one.config) == (self.instance, self.config)
        }


_IN_USE: WeakSet[Coverage] = WeakSet()


def other_ways(
    site: Site, conf: NginxConf, covered: AbstractSet[UpstreamName], not_ours: AbstractSet[str]
) -> list[str]:
    """
    Return a sentence for each other upstream and each address that leads to the server.

    *covered* are the upstreams that a registry takes the server out of, *not_ours* what the
    operator says to leave out: the name of an upstream, or an address as it is written.
    Which upstream a variable means is not known, and is left out.
    """
    end = time.monotonic() + _RESOLVE
    found = [*_upstreams(site, conf, covered, end), *_addresses(site, conf, end)]
    return list(
        dict.fromkeys(
            f"{sentence}, or set not_ours = {json.dumps([*sorted(not_ours), written])}"
            for written, sentence in found
            if written not in not_ours
        )
    )


def _upstreams(
    site: Site, conf: NginxConf, covered: AbstractSet[UpstreamName], end: float
) -> Iterator[tuple[str, str]]:
    for block in conf.upstreams.values():
        name = UpstreamName(block.context, block.name)
        if name in covered or name == (site.context, site.upstream):
            continue
        for place in _up_in(site, conf, block, end):
            there = f"{block.context} upstream {block.name} has {site.server.text} too ({place})"
            line = f"upstream = {json.dumps(block.name)}"
            if block.context != site.context:
                line += f" and context = {json.dumps(block.context)}"
            yield block.name, f"{there}: add a registry with {line}, if there is none yet"


def _up_in(site: Site, conf: NginxConf, block: Upstream, end: float) -> Iterator[str]:
    """Yield the place of the first directive that has the server up in another upstream."""
    for server in block.servers:
        if not server.down and _is_ours(site, server.address, end):
            yield conf.place(server)
            return


def _addresses(site: Site, conf: NginxConf, end: float) -> Iterator[tuple[str, str]]:
    for directive, written in _written(conf):
        to = destination(written)
        if _is_ours(site, os.fsencode(to.address), end):
            what = f"{directive.name.decode()} {written} ({conf.place(directive)})"
            straight = f"{what} sends work straight to {site.server.text}"
            yield written, f"{straight}: send it to upstream {site.upstream} instead"


def _written(conf: NginxConf) -> Iterator[tuple[Directive, str]]:
    """Yield what names an address outside of upstreams: destinations, and values of variables."""
    for directive, _ in passes(conf):
        yield directive, conf.said(directive)[0]
    for directive in conf.directives:
        if directive.name in {b"map", b"set"} and (said := conf.said(directive)):
            yield directive, said[-1]


def _is_ours(site: Site, address: bytes, end: float) -> bool:
    return site.server.is_named(address) or is_same(site, address, end)
