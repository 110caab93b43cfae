"""Addresses that are written differently and mean the same. Pure; no name is resolved."""

from ipaddress import IPv6Address, ip_address


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
