"""Addresses of servers: whether two spellings in Nginx's configuration mean the same."""

import re
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv6Address

_DEFAULT_PORT = b"80"  # ngx_parse_url(): uv.default_port = 80
_IPV4 = re.compile(rb"(\d{1,5})\.(\d{1,5})\.(\d{1,5})\.(\d{1,5})(?::(\d+))?")
_USUAL = re.compile(rb"(?:(?:0|[1-9]\d*)\.){3}(?:0|[1-9]\d*):[1-9]\d*")


def canonical(text: bytes) -> bytes:
    """
    Return the same spelling for all that mean the same address and port.

    Host names are not resolved: what they mean is for the resolver to say, and may change.
    """
    if _USUAL.fullmatch(text):  # as most are
        return text
    if text[:5].lower() == b"unix:":
        return b"unix:" + text[5:]
    if match := _IPV4.fullmatch(text):
        octets = b".".join(b"%d" % int(octet) for octet in match.groups()[:4])
        return octets + b":%d" % int(match[5] or _DEFAULT_PORT)
    if text.startswith(b"["):
        return _ipv6(text)
    host, _, port = text.partition(b":")
    port = port or _DEFAULT_PORT
    return host.lower() + b":" + (b"%d" % int(port) if port.isdigit() else port)


def parts(address: bytes) -> tuple[bytes, bytes]:
    """Return host and port of a canonical address; of a Unix socket it all, and no port."""
    if address.startswith(b"unix:"):
        return address, b""
    host, _, port = address.rpartition(b":")
    return host, port


def _ipv6(text: bytes) -> bytes:
    host, _, port = text[1:].partition(b"]")
    number = port[1:] if port[1:].isdigit() else port or _DEFAULT_PORT
    try:
        address = IPv6Address(host.decode("ascii", errors="replace"))
    except AddressValueError:
        return text
    if address.ipv4_mapped is not None:
        return canonical(f"{address.ipv4_mapped}:{int(number)}".encode())
    return f"[{address}]:".encode() + (b"%d" % int(number) if number.isdigit() else number)


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """The address of a server to look for."""

    text: str
    _bytes: bytes = field(init=False)
    canonical: bytes = field(init=False)

    def __post_init__(self) -> None:
        """Compute the spelling that others are compared with."""
        object.__setattr__(self, "_bytes", self.text.encode(errors="surrogateescape"))
        object.__setattr__(self, "canonical", canonical(self._bytes))

    def is_named(self, text: bytes) -> bool:
        """Tell whether *text*, as it stands in the configuration, means this server."""
        return text == self._bytes or canonical(text) == self.canonical
