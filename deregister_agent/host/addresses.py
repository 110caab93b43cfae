"""Addresses that are written differently and mean the same. Pure; no name is resolved."""

import os
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path

UNIX_PATH_LIMIT = 107
"""The longest path of a Unix socket, in bytes (man 7 unix: sun_path ends with a zero)."""


def host(written: str) -> str:
    """
    Return the one spelling of a host: an IP address or a name.

    IPv6 has many (RFC 5952), and one of them is for IPv4; names know no letter case, and a
    dot at their end says nothing.
    """
    try:
        ip = ip_address(written.removeprefix("[").removesuffix("]"))
    except ValueError:
        return written.casefold().rstrip(".")
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return (mapped or ip).compressed


def host_and_port(written: str) -> tuple[str, int] | None:
    """Return what ``10.0.0.7:8080`` or ``[fd00::7]:8080`` means; None if it is no such thing."""
    name, _, port = written.rpartition(":")
    if not name or not port.isascii() or not port.isdecimal():
        return None
    return host(name), int(port)


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where a server listens: an IP address and a port, or the path of a Unix socket."""

    address: str = ""
    port: int = 0
    path: Path | None = None

    def __str__(self) -> str:
        """Return the form used in the configuration."""
        if self.path is not None:
            return f"unix:{self.path}"
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"

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
    name, colon, port = written.rpartition(":")
    if not colon or not port.isascii() or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 - the largest port
        raise ValueError(f"{written!r}: give address:port, as in 127.0.0.1:8650, or unix:/path")
    name = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    try:
        address = ip_address("127.0.0.1" if name == "localhost" else name)
    except ValueError:
        raise ValueError(f"{written!r}: give an IP address or localhost, not a name") from None
    return ListenAddress(str(address), int(port))
