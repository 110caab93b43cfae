"""
Whether a text speaks of an address, however that is written. Pure; no name is resolved.

For texts that are not understood: ``tcp@10.0.0.7:8972`` is no address, and yet plainly of one.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from deregister_agent.host.addresses import host, without_brackets
from deregister_agent.host.unwrapped import unwrapped

_NAME = re.compile(r"\w[\w.-]*")
_NAMED_AFTER_IP = re.compile(r".*[^0-9.](?:[0-9]+\.){3}[0-9]+\.?")
_COLON_AND_PORT = re.compile(r"\]?:[0-9]{1,5}(?![0-9.])")
_BINARY = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ufffd]")
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
    plain = _plain(text, name)
    found: set[int | None] = set()
    for mention in _mentions(plain, name):
        port = _PORT_BESIDE.match(plain, mention.end())
        found.add(int(port[1]) if port else None)
    return found


def without_port(text: str, name: str) -> bool:
    """
    Tell whether a host stands in a text without a port behind a colon, at least once.

    In what is no text, such as protobuf, nobody knows what is a port: so none has one there.
    """
    plain = _plain(text, name)
    ports = [_COLON_AND_PORT.match(plain, each.end()) for each in _mentions(plain, name)]
    return bool(ports) and (None in ports or _BINARY.search(plain) is not None)


def names_port(text: str, port: int) -> bool:
    """Tell whether a port stands somewhere in a text, as a number of its own."""
    return _has_number(unwrapped(text), port)


def names_port_alone(text: str, port: int) -> bool:
    """Tell the same, where ``orders-8080`` and ``v8080`` do not count."""
    return re.search(rf"(?<![\w.-]){port}(?![\w-]|\.[0-9])", unwrapped(text)) is not None


def names_address(text: str, name: str, port: int) -> bool:
    """Tell whether host and port both stand in a text, in whatever form."""
    plain = _plain(text, name)
    return _has_number(plain, port) and next(_mentions(plain, name), None) is not None


def _has_number(plain: str, number: int) -> bool:
    return re.search(rf"(?<![0-9]){number}(?![0-9])", plain) is not None


def _plain(text: str, name: str) -> str:
    """Return a text without what others have wrapped it in, also where that wraps the host."""
    return unwrapped(text, _spellings(host(name)))


def _mentions(plain: str, name: str) -> Iterator[re.Match[str]]:
    yield from _alone(name).finditer(plain)
    if _BINARY.search(plain):
        yield from _counted(host(name)).finditer(plain)


@lru_cache(maxsize=256)
def _alone(name: str) -> re.Pattern[str]:
    """Return the pattern of a host, in any spelling, that is not a part of another one."""
    spelled = "|".join(map(re.escape, _spellings(host(name))))
    match _ip(host(name)):
        case IPv4Address():
            # A letter beside it may be of anything; a digit is of another IP, unless it is a port.
            before = r"(?<![0-9])(?<![0-9]\.)"
            after = r"(?![0-9]|\.[0-9]{1,3}(?![0-9])|\.[a-z_])"
        case IPv6Address():
            before, after = r"(?<![0-9a-z.])", r"(?![0-9a-z]|\.\w)"
        case _:
            before, after = r"(?<![\w.])", r"(?!\w|\.\w)"
    return re.compile(f"{before}(?:{spelled}){after}")


@lru_cache(maxsize=256)
def _counted(name: str) -> re.Pattern[str]:
    """Return the pattern of a host as protobuf has it: behind its length, before anything."""
    return re.compile(re.escape(chr(len(name)).casefold() + name))


@lru_cache(maxsize=256)
def _spellings(name: str) -> tuple[str, ...]:
    """Return the ways to write a host."""
    ways: tuple[str, ...]
    match _ip(name):
        case IPv4Address() as ip:  # 10-0-0-7 stands in names that are made of it
            high, low = divmod(int(ip), 1 << 16)
            as_ipv6 = (f"ffff:{high:x}:{low:x}", f"ffff:{high:04x}:{low:04x}")
            ways = (name, name.replace(".", "-"), name.replace(".", "_"), *as_ipv6)
        case IPv6Address(exploded=groups):  # with all zeros, with those of a group left out
            short = ":".join(f"{int(group, 16):x}" for group in groups.split(":"))
            whole = (name, groups, short)
            ways = (*whole, *(each.replace(":", by) for each in whole for by in "-_"))
        case _:
            ways = (name, name.replace(".", "-"), name.replace(".", "_"))
    return tuple(dict.fromkeys(ways))


@lru_cache(maxsize=256)
def _ip(written: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(without_brackets(written))
    except ValueError:
        return None
