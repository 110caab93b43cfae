"""Addresses: written in one way, read from all. Pure; no name is resolved."""

import re
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

_PORT = re.compile(r"[0-9]{1,9}")
_LAST_PORT = 65535


def host(written: str) -> str:
    """
    Return the one spelling of a host: an IP address or a name.

    IPv6 has many (RFC 5952), and one of them is for IPv4; names know no letter case, and a
    dot at their end says nothing.
    """
    try:
        ip = ip_address(without_brackets(written))
    except ValueError:
        return written.casefold().rstrip(".")
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return (mapped or ip).compressed


def host_and_port(written: str) -> tuple[str, int] | None:
    """Return what ``10.0.0.7:8080`` or ``[fd00::7]:8080`` means; None if it is no such thing."""
    parts = split(written)
    return (host(parts[0]), parts[1]) if parts is not None else None


def split(written: str) -> tuple[str, int] | None:
    """Return host and port of ``host:port``, the host as written but for brackets; None if none."""
    name, _, port = written.rpartition(":")
    if not name or _PORT.fullmatch(port) is None or int(port) > _LAST_PORT:
        return None
    return without_brackets(name), int(port)


def joined(name: str, port: int | str) -> str:
    """Return ``host:port``, an IPv6 address in brackets."""
    return f"{in_brackets(name)}:{port}"


def in_brackets(name: str) -> str:
    """Return a host as it stands before a colon: an IPv6 address in brackets."""
    return f"[{name}]" if ":" in name else name


def without_brackets(name: str) -> str:
    """Return a host without the brackets that an IPv6 address may have."""
    return name.removeprefix("[").removesuffix("]")


def server_and_target(url: str) -> tuple[str, str]:
    """Return a URL's server, ``scheme://host:port``, and what is asked of it: path and query."""
    parts = urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc}", f"{parts.path or '/'}{query}"
