"""Where the server blocks of a configuration send requests: to which upstream, or address."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from deregister_agent.registries.nginx.conf import Directive, NginxConf, Upstream
from deregister_agent.registries.nginx.known_directives import PASSES

_URL = re.compile(r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://)?(?P<rest>.*)", re.DOTALL)
_PORTS = {"https": "443", "grpcs": "443"}  # ngx_http_proxy_pass(), ngx_http_grpc_pass()
_WITH_PORT = re.compile(r".*:\d+", re.DOTALL)


class Destination(NamedTuple):
    """What the first word of a ``..._pass`` names, without scheme and path."""

    name: str  # of an upstream or a host, or an address; a port where one is written
    port: str = ""  # the port that is meant where none is written, if it is not the usual one

    @property
    def address(self) -> str:
        """The same as the address of a server in an upstream would be written."""
        is_whole = not self.port or _WITH_PORT.fullmatch(self.name)
        return self.name if is_whole else f"{self.name}:{self.port}"

    def may_be(self, upstream: str) -> bool:
        """Tell whether an upstream is meant, or may be: a variable stands for any text."""
        fixed, variable, _ = self.name.lower().partition("$")
        return upstream.lower().startswith(fixed) if variable else upstream.lower() == fixed


def destination(said: str) -> Destination:
    """Read a URL, or an address alone, as the ``..._pass`` directives do."""
    match = _URL.fullmatch(said)
    scheme, rest = (match["scheme"] or "", match["rest"]) if match else ("", said)
    if rest.lower().startswith("unix:"):  # a second colon ends the path of the socket
        return Destination("unix:" + rest[5:].partition(":")[0])
    return Destination(re.split(r"[/?#]", rest, maxsplit=1)[0], _PORTS.get(scheme.lower(), ""))


def sites_to(ways: Iterable[tuple[Directive, Destination]], block: Upstream) -> frozenset[int]:
    """Return the server blocks of these *ways* that lead to an upstream, or may: by a variable."""
    return frozenset(
        directive.site
        for directive, to in ways
        if directive.context == block.context and to.may_be(block.name)
    )


def passes(conf: NginxConf) -> Iterator[tuple[Directive, Destination]]:
    """Yield each directive that sends requests somewhere, and where."""
    for directive in conf.directives:
        if PASSES.fullmatch(directive.name):
            said = conf.said(directive)
            if said:
                yield directive, destination(said[0])
