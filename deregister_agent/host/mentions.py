"""
Whether a text speaks of an address, however that is written. Pure; no name is resolved.

For texts that are not understood: ``tcp@10.0.0.7:8972`` is no address, and yet plainly of one.
"""

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import unquote

from deregister_agent.host.addresses import host, without_brackets

_NAME = re.compile(r"\w[\w.-]*")
_NAMED_AFTER_IP = re.compile(r".*[^0-9.](?:[0-9]+\.){3}[0-9]+\.?")
_PORT_BESIDE = re.compile(r"\]?[:_]([0-9]{1,5})(?![0-9.])")


def is_host(written: str) -> bool:
    """
    Tell whether *written* is a host and nothing else: an IP address, or a name.

    What has more in it is neither: ``tcp@10.0.0.7``, ``addr=10.0.0.7``, ``orders-10.0.0.7``.
    """
    if _NAME.fullmatch(written):  # first, as it is quick, and IPv4 is of that form
        return not _NAMED_AFTER_IP.fullmatch(written)
    return _ip(written) is not None


def is_any_name(written: str) -> bool:
    """Tell whether a host may be this machine under another name: a name, or loopback."""
    ip = _ip(written)
    return ip.is_loopback or ip.is_unspecified if ip is not None else is_host(written)


def ports_beside(text: str, name: str) -> set[int | None]:
    """Return for each mention of a host the port right behind it, or None; empty if none."""
    plain = _plain(text)
    found: set[int | None] = set()
    for mention in _mentions(plain, name):
        port = _PORT_BESIDE.match(plain, mention.end())
        found.add(int(port[1]) if port else None)
    return found


def names_port(text: str, port: int) -> bool:
    """Tell whether a port stands somewhere in a text, as a number of its own."""
    return re.search(rf"(?<![0-9]){port}(?![0-9])", _plain(text)) is not None


def names_address(text: str, name: str, port: int) -> bool:
    """Tell whether host and port both stand in a text, in whatever form."""
    return bool(ports_beside(text, name)) and names_port(text, port)


def _plain(text: str) -> str:
    """Return a text without what URLs put in the place of letters, once or twice."""
    return unquote(unquote(text)).casefold()


def _mentions(plain: str, name: str) -> Iterator[re.Match[str]]:
    before, after = ("0-9a-z.", "0-9a-z") if _ip(name) is not None else (r"\w.", r"\w")
    spelled = "|".join(_spellings(host(name)))
    return re.finditer(rf"(?<![{before}])(?:{spelled})(?![{after}]|\.\w)", plain)


def _spellings(name: str) -> list[str]:
    """Return, as patterns, the ways to write a host: of IPv6 also those that leave nothing out."""
    match _ip(name):
        case IPv4Address():  # 10-0-0-7 stands in names that are made of it
            return [re.escape(name), name.replace(".", "-"), name.replace(".", "_")]
        case IPv6Address(exploded=groups):
            short = ":".join(f"{int(group, 16):x}" for group in groups.split(":"))
            return [re.escape(name), groups, short]
    return [re.escape(name)]


def _ip(written: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(without_brackets(written))
    except ValueError:
        return None
