"""What else in a target file leads to the instance: its address in other words, or other names."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from deregister_agent.errors import few
from deregister_agent.host.addresses import host
from deregister_agent.host.mentions import names_address
from deregister_agent.host.own_addresses import OwnAddresses
from deregister_agent.host.resolving import resolved
from deregister_agent.registries.file.target_file import TargetFile

MOST = 5
"""Targets that are told of in a sentence of their own."""
_PORTS = {"http": frozenset({80}), "https": frozenset({443})}
_BY_READER = frozenset({80, 443})
"""What Prometheus adds to a target without a port, by the scheme of the job."""


class OtherTargets(NamedTuple):
    """What leads to the instance besides its target, and what could not be told."""

    sentences: Sequence[str]
    unknown: Sequence[str]  # targets at names that stand for no address here


@dataclass(frozen=True, slots=True)
class _Entry:
    """A target of the file, below whichever key it stands."""

    target: str
    key: str = "targets"


def other_targets(
    file: TargetFile, target: str, at: tuple[str, int], not_ours: Sequence[str], limit: float
) -> OtherTargets:
    """
    Name each target but *target* itself that leads to its place, or to address and port *at*.

    The file is taken to be read on the machine of the instance, so loopback counts. Names are
    resolved within *limit* seconds.
    """
    own = {Place(host(at[0]), frozenset({at[1]}))}
    if (place := place_of(target)) is not None:
        own.add(place)
    entries = [one for one in _entries(file, target) if one.target not in not_ours]
    places = [place_of(one.target) for one in entries]
    near = (one.host for one in places if one is not None and any(map(one.may_be_at, own)))
    found = resolved((*near, *(one.host for one in own)), limit)
    known = [(one, OwnAddresses(one.host, found)) for one in own]
    meant = [
        (entry, _leads(entry.target, place, known))
        for entry, place in zip(entries, places, strict=True)
    ]
    lead = [entry for entry, leads in meant if leads]
    said = [_sentence(entry, target, not_ours) for entry in lead[:MOST]]
    if len(lead) > MOST:
        more = [entry.target for entry in lead[MOST:]]
        said.append(f"{len(more)} more targets lead to it: {few(more)}")
    return OtherTargets(said, [entry.target for entry, leads in meant if leads is None])


class Place(NamedTuple):
    """Where a target is."""

    host: str
    ports: frozenset[int]  # several where it depends on who reads the file

    def may_be_at(self, other: "Place") -> bool:
        """Tell whether another place has a port of it."""
        return not self.ports.isdisjoint(other.ports)


def place_of(target: str) -> Place | None:
    """Return where a target is, or the URL that it is; None if it is neither."""
    text = target.strip()
    scheme, mark, _ = text.partition("://")
    try:
        parts = urlsplit(text if mark else f"//{text}")
        name, port = parts.hostname, parts.port
    except ValueError:  # what stands for the port is none, or there is half a bracket
        return None
    if not name:
        return None
    by_scheme = _PORTS.get(scheme.casefold(), frozenset()) if mark else _BY_READER
    return Place(host(name), by_scheme if port is None else frozenset({port}))


def _leads(
    target: str, place: Place | None, own: Sequence[tuple[Place, OwnAddresses]]
) -> bool | None:
    """Tell whether a target, at a place, leads to the instance; None: its name is not known."""
    near = [one for one in own if place is None or place.may_be_at(one[0])]
    meant = [
        addresses.are_meant_by(place.host, here=True) for _, addresses in near if place is not None
    ]
    if any(meant):
        return True
    unsure = place is None or None in meant
    # In words that are not understood, or under a name that is made of the address.
    spoken_of = unsure and any(
        names_address(target, one.host, port) for one, _ in near for port in one.ports
    )
    if spoken_of:
        return True
    return None if None in meant else False


def _entries(file: TargetFile, target: str) -> Iterator[_Entry]:
    for one in sorted(file.targets - {target}):
        yield _Entry(one)
    for _, key, inside in file.odd_targets:
        for one in inside:
            yield _Entry(one, key)


def _sentence(entry: _Entry, own: str, not_ours: Sequence[str]) -> str:
    one, written = entry.target, json.dumps(entry.target, ensure_ascii=False)
    line = f"not_ours = {json.dumps([*not_ours, one], ensure_ascii=False)}"
    if entry.key != "targets":
        ways = f"write targets for {entry.key} in the file, which is read letter for letter"
    else:
        ways = (
            "take it out of the file, or withdraw it too by a registry of its own "
            f"(target = {written})"
        )
    said = f"target {one!r} below {entry.key!r} leads to it as well: {ways}"
    return said if one == own else f"{said}; or write {line} if it brings the instance no work"
