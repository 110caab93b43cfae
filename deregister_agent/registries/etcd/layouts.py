"""
Which keys are an instance: the layouts met in the wild, and addresses in keys and values.

Pure. Layouts are from the sources of etcd's client/v3/naming/endpoints, go-zero
core/discov, kratos contrib/registry/etcd, go-micro plugins/registry/etcd, kitex
registry-etcd, coredns plugin/etcd, and Traefik's KV provider.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlsplit

from deregister_agent.errors import AgentError
from deregister_agent.host.addresses import host as one_spelling
from deregister_agent.host.addresses import in_brackets, joined, without_brackets
from deregister_agent.host.mentions import is_host, ports_beside
from deregister_agent.registries.etcd.operations import KeyRange, KeyValue

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


@dataclass(frozen=True, slots=True)
class KeyFinder:
    """Finds the keys of the instance at one address among those of its service."""

    keys: KeyRange
    address: WrittenAddress
    layout: KeyLayout

    def find(self, kvs: Sequence[KeyValue]) -> list[KeyValue]:
        """
        Return the instance's keys: one, or with a leaf all of its folder; none if it is not there.

        Raises AgentError where that would be a guess.
        """
        found = [kv for kv in kvs if self.is_ours(kv)]
        if len(found) > 1:
            raise AgentError(
                f"{len(found)} keys are {self.address}: {', '.join(map(str, found))}; set key to "
                "the one that is meant, or delete those that are left over"
            )
        for kv in found:
            self._refuse_shared(kv)
        if not found:
            self._refuse_unread(kvs)
            return []
        folder = self._folder(found[0])
        return [kv for kv in kvs if kv.key.startswith(folder)] if folder else found

    def others(self, kvs: Sequence[KeyValue]) -> int:
        """Count the other instances; two keys with the same address are one."""
        seen = {self._told_apart_by(kv) for kv in kvs if not self.is_ours(kv)}
        return len(seen - {frozenset()})

    def _told_apart_by(self, kv: KeyValue) -> frozenset[str]:
        """Return the addresses of a key, or what looks like one in a form that is not known."""
        known = frozenset(map(str, self._addresses(kv)))
        parts = kv.value, kv.key[kv.key.rfind(b"/") + 1 :]
        chosen = {"value": parts[:1], "key": parts[1:]}.get(self.layout.match, parts)
        texts = (
            [] if known or self.layout.leaf else [part.decode(errors="replace") for part in chosen]
        )
        return known or frozenset(found[0] for text in texts for found in _LIKELY.finditer(text))

    def concerns(self, kv: KeyValue) -> bool:
        """Whether a key may be the instance's."""
        return self.is_ours(kv) or self._mentions(kv)

    def is_ours(self, kv: KeyValue) -> bool:
        """Whether a key has our address where the layout says."""
        ours = {self.address}
        if self.layout.portless:
            ours.add(WrittenAddress(self.address.host, None))
        return not ours.isdisjoint(self._addresses(kv))

    def _addresses(self, kv: KeyValue) -> list[WrittenAddress]:
        key, leaf = kv.key.decode(errors="replace"), self.layout.leaf
        name = key.rpartition("/")[2]
        if leaf and name.casefold() != leaf:
            return []
        found: list[WrittenAddress] = []
        if self.layout.match != "key":
            found += addresses(_read(kv.value))
        if self.layout.match != "value":
            found += addresses(name)
        return found

    def _folder(self, kv: KeyValue) -> bytes:
        return kv.key[: kv.key.rindex(b"/") + 1] if self.layout.leaf else b""

    def _refuse_shared(self, kv: KeyValue) -> None:
        others = {
            str(each)
            for each in self._addresses(kv)
            if each.host != self.address.host
            or not (self.layout.several or each.port in (None, self.address.port))
        }
        if others:
            raise LookAlike(
                f"{kv} also has {', '.join(sorted(others))} in it, so to delete it would take "
                'others out as well: set mode = "document", key and pointer'
            )

    def _refuse_unread(self, kvs: Sequence[KeyValue]) -> None:
        for kv in kvs:
            if self._mentions(kv):
                raise LookAlike(
                    f"{kv} mentions {self.address.host} in a form that is not known: if it is the "
                    f'instance, write {self._line(kv)}; and mode = "document" where it holds '
                    "others too"
                )

    def _line(self, kv: KeyValue) -> str:
        """Return the line of the configuration that would mean a key."""
        either = replace(self, layout=replace(self.layout, match="either"))
        name = json.dumps(kv.key.decode(errors="replace"))
        return 'match = "either"' if either.is_ours(kv) else f"key = {name}"

    def _mentions(self, kv: KeyValue) -> bool:
        """Whether a key may be ours, in a form that cannot be read."""
        text = (kv.key + b"\n" + kv.value).decode(errors="replace")
        return mentions(text, self.address, self._addresses(kv))


def mentions(text: str, address: WrittenAddress, read: Collection[WrittenAddress]) -> bool:
    """
    Whether a text may mean *address*, though that is not among the addresses *read* in it.

    It may if the host was read without a port, or with another one while the very address
    stands elsewhere; or if no address could be read and the host is somewhere in the text.
    """
    own = {each.port for each in read if each.host == address.host}
    if own == {None} or address.port in own:
        return own == {None}
    if own:
        return address.port in ports_beside(text, address.host)
    return not read and bool(ports_beside(text, address.host))


def _read(value: bytes) -> object:
    text = value.decode(errors="replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
