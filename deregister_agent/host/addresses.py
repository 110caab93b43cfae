"""Addresses: written in one way, read from all. Pure; no name is resolved."""

import os
import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from urllib.parse import urlsplit

UNIX_PATH_LIMIT = 107
"""The longest path of a Unix socket, in bytes (man 7 unix: sun_path ends with a zero)."""

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


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where a server listens: an IP address and a port, or the path of a Unix socket."""

    address: str = ""
    port: int = 0
    path: Path | None = None

    def __str__(self) -> str:
        """Return the form used in the configuration."""
        return f"unix:{self.path}" if self.path is not None else joined(self.address, self.port)

    @property
    def elsewhere(self) -> bool:
        """Whether other hosts can reach it."""
        return self.path is None and not ip_address(self.address).is_loopback


def parse_listen_address(written: str) -> ListenAddress:
    """Return what ``127.0.0.1:8650``, ``[::1]:8650`` or ``unix:/path`` names. Raises ValueError."""
    if written.startswith("unix:"):
        path = Path(written.removeprefix("unix:"))
        if not path.is_absolute():
            raise ValueError(f"{written!r}: give the whole path, as in unix:/run/deregister.sock")
        if len(os.fsencode(path)) > UNIX_PATH_LIMIT:
            raise ValueError(
                f"{written!r}: longer than the {UNIX_PATH_LIMIT} bytes of a Unix socket"
            )
        return ListenAddress(path=path)
    parts = split(written)
    if parts is None:
        raise ValueError(f"{written!r}: give address:port, as in 127.0.0.1:8650, or unix:/path")
    name, port = parts
    try:
        address = ip_address("127.0.0.1" if name == "localhost" else name)
    except ValueError:
        raise ValueError(f"{written!r}: give an IP address or localhost, not a name") from None
    return ListenAddress(str(address), port)
