"""Entries of a read-back that are not the instance's as they are written, but may be meant."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from deregister_agent.errors import AgentError, excerpt
from deregister_agent.host.addresses import host, host_and_port
from deregister_agent.host.json_pointer import pointed
from deregister_agent.registries.http.requests import (
    VARIABLE,
    ReadBack,
    as_text,
    entry_of,
    filled,
)

_MOST = 5  # sentences: they end up in one refusal


class OtherSpellingError(AgentError):
    """The read-back has the instance listed under an address that is spelled in another way."""


def refuse_other_spellings(
    look: ReadBack, entries: Sequence[Any], values: Mapping[str, str]
) -> None:
    """
    Raise OtherSpellingError where one of *entries*, which are others', is listed and is ours.

    Ours is what means the same address: case, dots and the forms of IPv6 tell nobody apart.
    """
    for entry in entries:
        said = {at: as_text(pointed(entry, at)) for at in look.where}
        wanted = {at: filled(text, values) for at, text in look.where.items()}
        same = all(_same(said[at], text) for at, text in wanted.items())
        if same and entry_of(look, entry).listed:
            raise OtherSpellingError(
                f"it lists {_shown(said)}, which is the instance in another spelling than "
                f"{_shown(wanted)}: {_line(look, said, values)}"
            )


def look_alikes(look: ReadBack, entries: Sequence[Any], values: Mapping[str, str]) -> Sequence[str]:
    """Return, for an instance that is absent, which *entries* there are; the most alike first."""
    found: list[tuple[int, str]] = []
    for entry in entries:
        said = {at: as_text(pointed(entry, at)) for at in look.where}
        like = sum(_like(said[at], filled(text, values)) for at, text in look.where.items())
        found.append((-like, f"it has {_shown(said)}: {_line(look, said, values)}"))
    found.sort(key=lambda one: one[0])
    return list(dict.fromkeys(sentence for _, sentence in found))[:_MOST]


def _same(said: str, wanted: str) -> bool:
    """Tell whether two texts are the same address: a host, or a host and a port."""
    if said == wanted:
        return True
    ours, theirs = host_and_port(wanted), host_and_port(said)
    if ours is not None and theirs is not None:
        return ours == theirs
    return host(said) == host(wanted)


def _like(said: str, wanted: str) -> int:
    """Tell how much two texts have in common: all of it counts 2, the port of an address 1."""
    if _same(said, wanted):
        return 2
    ours, theirs = host_and_port(wanted), host_and_port(said)
    return int(ours is not None and theirs is not None and ours[1] == theirs[1])


def _shown(said: Mapping[str, str]) -> str:
    return ", ".join(f"{at} {excerpt(text)}" for at, text in said.items())


def _line(look: ReadBack, said: Mapping[str, str], values: Mapping[str, str]) -> str:
    """Return what to write so that the entry is the one that is looked for."""
    meant: dict[str, str] = {}
    for at, text in look.where.items():
        if said[at] != filled(text, values):
            names, parts = VARIABLE.findall(text), VARIABLE.split(text)[::2]
            match = re.fullmatch("(.+)".join(map(re.escape, parts)), said[at])
            if not names or match is None:
                return f"look.where.{json.dumps(at)} = {json.dumps(said[at])}"
            meant |= zip(names, match.groups(), strict=True)
    changed = {name: value for name, value in meant.items() if value != values.get(name)}
    settings = ", ".join(f"{name} = {json.dumps(value)}" for name, value in changed.items())
    return f"variables = {{ {settings} }}"
