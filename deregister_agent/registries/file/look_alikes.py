"""
What looks like the instance in a target file where it is not found under its address.

Pure: read once an absence is in doubt. No name is resolved.
"""

import json
import socket
from collections.abc import Iterator, Sequence

from deregister_agent.host.addresses import host, split
from deregister_agent.host.mentions import is_any_name, names_address, names_port, ports_beside
from deregister_agent.registries.file.target_file import TargetFile

MOST = 5
"""Sentences."""
THERE = 3
"""Targets that are named where nothing looks like the instance."""


def look_alikes(file: TargetFile, target: str, not_ours: Sequence[str]) -> list[str]:
    """Name what could be *target*: in another form, at another name, below an odd key."""
    parts, targets = split(target), sorted(file.targets - set(not_ours))
    ways = [_odd_keys(file, target)]
    if parts is not None:
        ways += [_in_another_form(targets, *parts), _at_another_name(targets, *parts)]
    found = list(dict.fromkeys(each for way in ways for each in way))
    if not found:
        found = [f"target {one!r} (write {_line(one)} if it is meant)" for one in targets[:THERE]]
    return found[:MOST]


def _odd_keys(file: TargetFile, target: str) -> Iterator[str]:
    """Yield keys that are almost ``targets``: some readers take them for that."""
    for number, key, inside in file.odd_targets:
        first = target if target in inside else next(iter(inside), "nothing")
        yield (
            f"key {key!r} of group {number}, with {first!r} (write targets for {key} in the file: "
            "it is read letter for letter)"
        )


def _in_another_form(targets: Sequence[str], name: str, port: int) -> Iterator[str]:
    """Yield targets that have the host in them: as a URL, with a path, without a port."""
    for target in targets:
        alone = ports_beside(target, name) == {None} and split(target) is None
        if names_address(target, name, port) or alone:
            yield _sentence(target)


def _at_another_name(targets: Sequence[str], name: str, port: int) -> Iterator[str]:
    """Yield targets with the port, at a name that may be this machine's; its own name first."""
    own = host(socket.gethostname())
    near = [target for target in targets if _is_a_name_with(target, port)]
    for target in sorted(near, key=lambda one: own.split(".")[0] not in one.casefold()):
        if not ports_beside(target, name):
            yield _sentence(target)


def _is_a_name_with(target: str, port: int) -> bool:
    """Whether a target, or the URL that it is, is a name or loopback with this port."""
    place = target.rpartition("://")[2].partition("/")[0].rpartition("@")[2]
    parts = split(place)
    return names_port(target, port) if parts is None else parts[1] == port and is_any_name(parts[0])


def _sentence(target: str) -> str:
    return f"target {target!r} (write {_line(target)})"


def _line(target: str) -> str:
    return f"target = {json.dumps(target, ensure_ascii=False)}"
