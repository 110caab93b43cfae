"""
Which keys are an instance: the layouts met in the wild, and addresses in keys and values.

Pure. Layouts are from the sources of etcd's client/v3/naming/endpoints, go-zero
core/discov, kratos contrib/registry/etcd, go-micro plugins/registry/etcd, kitex
registry-etcd, coredns plugin/etcd, and Traefik's KV provider.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from deregister_agent.errors import AgentError
from deregister_agent.host.addresses import host as one_spelling
from deregister_agent.host.addresses import in_brackets, joined, without_brackets
from deregister_agent.host.mentions import (
    is_host,
    names_address,
    names_port_alone,
    ports_beside,
    without_port,
)

Match = Literal["either", "key", "value"]
LayoutName = Literal["grpc", "go-zero", "kratos", "go-micro", "kitex", "skydns", "traefik"]

_HOST_PORT = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^\s:/\[\]]+)):(?P<port>\d{1,5})")
_LIKELY = re.compile(r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}[:_][0-9]{1,5}")
_SCHEME_PORTS = {"http": 80, "https": 443}
_LAST_PORT = 65535


class LookAlike(AgentError):  # noqa: N818 - the fact
    """What is there may be the instance, and is not recognised as it."""


@dataclass(frozen=True, slots=True)
class WrittenAddress:
    """Where work is sent to, as etcd has it; a DNS record may have no port."""

    host: str
    port: int | None

    @classmethod
    def of(cls, host: str, port: int | None) -> "WrittenAddress":
        """Return an address with its host in the one form: IPv4 also where written as IPv6."""
        return cls(one_spelling(host), port)

    @classmethod
    def parse(cls, text: str) -> "WrittenAddress | None":
        """Read ``host:port``, ``[v6]:port`` or a URL; None if the text is none of these."""
        text = text.strip()
        if "://" in text:
            return _of_url(text)
        found = _HOST_PORT.fullmatch(text)
        if found is None or not 0 < int(found["port"]) <= _LAST_PORT:
            return None
        written = found["v6"] or found["host"]
        return cls.of(written, int(found["port"])) if is_host(written) else None

    def __str__(self) -> str:
        """Return the form that is mostly written."""
        return in_brackets(self.host) if self.port is None else joined(self.host, self.port)


def _of_url(text: str) -> WrittenAddress | None:
    try:
        parts = urlsplit(text)
        port = parts.port or _SCHEME_PORTS.get(parts.scheme)
    except ValueError:
        return None
    written = parts.hostname or ""
    return WrittenAddress.of(written, port) if port and is_host(written) else None


def addresses(value: object) -> Iterator[WrittenAddress]:
    """
    Yield each address in a value: a text, or JSON as read, of the forms in use.

    Those are ``Addr`` or ``address``, ``host`` or ``ip`` with ``port``, ``endpoints`` (a list
    of any of these), and ``nodes`` (a list, or an object whose names are the addresses).
    """
    match value:
        case str():
            found = WrittenAddress.parse(value)
            if found is not None:
                yield found
        case list():
            for each in value:
                yield from addresses(each)
        case dict():
            yield from _of_object({str(name).casefold(): each for name, each in value.items()})


def _of_object(names: Mapping[str, Any]) -> Iterator[WrittenAddress]:
    for name in ("addr", "address", "host", "ip"):
        host = names.get(name)
        if not isinstance(host, str):
            continue
        found = WrittenAddress.parse(host)
        if found is None and is_host(host):
            found = WrittenAddress.of(without_brackets(host), _port(names.get("port")))
        if found is not None:
            yield found
    for name in ("endpoints", "nodes"):
        inner = names.get(name)
        yield from addresses(list(inner) if isinstance(inner, dict) else inner)


def _port(value: object) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() and int(text) else None


def speaks_of(text: str, address: WrittenAddress, read: Collection[WrittenAddress]) -> bool:
    """
    Whether a text may mean *address*, though it was not recognised by the addresses *read* in it.

    It may if it names host and port; or the host alone, where that was read without a port, or
    where nothing could be read and no other port is right behind the host.
    """
    if names_both(text, address, read):
        return True
    own = _ports_of(address.host, read)
    return own == {None} or (not read and without_port(text, address.host))


def names_both(text: str, address: WrittenAddress, read: Collection[WrittenAddress]) -> bool:
    """
    Whether host and port both stand in a text, in whatever form.

    Where the host was read with another port, the number must not be a part of some name: twins
    on one host are in one service, and that may be called orders-8080.
    """
    host, port = address.host, address.port or 0
    if not _ports_of(host, read) - {None}:
        return names_address(text, host, port)
    beside = ports_beside(text, host)
    return port in beside or (bool(beside) and names_port_alone(text, port))


def _ports_of(host: str, read: Collection[WrittenAddress]) -> set[int | None]:
    return {each.port for each in read if each.host == host}


def parsed(value: bytes) -> object:
    """Return a value as read: JSON, or else the text that it is."""
    text = value.decode(errors="replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


@dataclass(frozen=True, slots=True)
class KeyLayout:
    """How a framework writes the keys of instances."""

    prefix: str  # {service}, {dashed} and {reversed} stand for forms of its name
    match: Match = "value"
    several: bool = False  # an instance has a port for each protocol
    portless: bool = False  # a record without a port is that of every port of the host
    leaf: str = ""  # the instance is a folder, and the key of this name in it has the address

    def prefix_of(self, service: str) -> str:
        """Return what the keys of a service begin with."""
        labels = "/".join(reversed([label for label in service.split(".") if label]))
        dashed = service.replace("/", "-")
        return self.prefix.format(service=service, dashed=dashed, reversed=labels)


LAYOUTS: Mapping[str, KeyLayout] = {
    "grpc": KeyLayout("{service}/"),
    "go-zero": KeyLayout("{service}/"),
    "kratos": KeyLayout("/microservices/{service}/", several=True),
    "go-micro": KeyLayout("/micro/registry/{dashed}/"),
    "kitex": KeyLayout("kitex/registry-etcd/{service}/", match="either"),
    "skydns": KeyLayout("/skydns/{reversed}/", portless=True),
    "traefik": KeyLayout(
        "traefik/http/services/{service}/loadbalancer/servers/", match="value", leaf="url"
    ),
}
