"""
Whether ``down`` keeps work from a server of an upstream, as far as the configuration tells.

What is not known to obey is refused by its name, until the operator vouches for it. What
stands outside of the upstream counts where it can name this upstream: beside all server
blocks, or in one that sends requests to it. A Lua block of another site is no reason.
"""

import json
from collections.abc import Iterator

from deregister_agent.registries.nginx.conf import Directive, NginxConf, Upstream
from deregister_agent.registries.nginx.destinations import passes, sites_to
from deregister_agent.registries.nginx.known_directives import (
    is_checker,
    is_foreign_module,
    is_suspect,
    may_change_servers,
    may_reach_servers,
    obeys,
    only_shows,
    speaks_of_servers,
)
from deregister_agent.registries.nginx.processes import NginxError
from deregister_agent.registries.nginx.site import Site

_SHOWN = 3  # places that a sentence names for one directive


class UnprovedError(NginxError):
    """Something in the configuration is not known to leave a server alone that is down."""


def refuse_unproved(site: Site, conf: NginxConf) -> None:
    """Raise UnprovedError for what is neither known to obey ``down`` nor vouched for."""
    found = list(_unproved(conf, site.block(conf), _Outside(conf)))
    if not found:
        return
    names = sorted({_name(directive) for directive in found})
    missing = [name for name in names if name not in site.obeys]
    if missing:
        which = "; ".join(
            f"{name} ({_places(conf, [d for d in found if _name(d) == name])})" for name in missing
        )
        line = json.dumps([*sorted(site.obeys), *missing])
        raise UnprovedError(
            f'upstream {site.upstream}: "down" may not keep work from its servers, as that is not '
            f"known of {which}; where you know that a server which is down gets no work, "
            f"set obeys = {line}"
        )


def doubts(conf: NginxConf) -> dict[str, list[str]]:
    """Return for each upstream, as keys of proofs begin, what in it is not known to obey."""
    outside = _Outside(conf)
    found = {
        f"{context}/{name}": sorted({_name(one) for one in _unproved(conf, block, outside)})
        for (context, name), block in conf.upstreams.items()
    }
    return {upstream: names for upstream, names in found.items() if names}


def modules(conf: NginxConf) -> list[str]:
    """Return the modules that are loaded and are not Nginx's own, for a note."""
    loaded = [conf.said(d)[0] for d in conf.directives if d.name == b"load_module" and conf.said(d)]
    return sorted({path.rpartition("/")[2] for path in loaded if is_foreign_module(path)})


class _Outside:
    """What stands outside of upstreams, gathered once for all of them."""

    def __init__(self, conf: NginxConf) -> None:
        self.suspects = [one for one in conf.directives if is_suspect(one.name)]
        # There may be thousands of ways, and most configurations have nothing to suspect.
        self.ways = list(passes(conf)) if self.suspects else []


def _unproved(conf: NginxConf, block: Upstream, outside: _Outside) -> Iterator[Directive]:
    for directive in block.directives:
        if not obeys(directive.name, conf.said(directive)):
            yield directive
    near, shared = sites_to(outside.ways, block) | {0}, b"zone" in block.names
    for directive in outside.suspects:
        name = directive.name
        if is_checker(name):
            if directive.site in near:
                yield directive
        elif may_change_servers(name):
            if not only_shows(name, conf.said(directive), shared=shared):
                yield directive
        elif _may_name(conf, directive, block, near):
            yield directive


def _may_name(conf: NginxConf, directive: Directive, block: Upstream, near: frozenset[int]) -> bool:
    """Tell whether code may look for the servers of an upstream, going by where it stands."""
    is_near = directive.site in near
    if b"_by_lua" not in directive.name or directive.name.endswith(b"_file"):
        return is_near  # its text is not looked at
    text = conf.content(directive.file)[directive.start : directive.end]
    return may_reach_servers(text) and (is_near or speaks_of_servers(text, block.name))


def _name(directive: Directive) -> str:
    return directive.name.decode(errors="replace")


def _places(conf: NginxConf, directives: list[Directive]) -> str:
    places = list(dict.fromkeys(conf.place(directive) for directive in directives))
    more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    return ", ".join(places[:_SHOWN]) + more
