"""
What host names stand for: all asked at once, and with one end for all of them.

The system's resolver (getaddrinfo, man 3) knows no time limit, so threads ask it. One that hangs
ends with the resolver's own patience, and nobody waits for it.
"""

import queue
import socket
import time
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

from deregister_agent.host import threads
from deregister_agent.host.addresses import host

AT_ONCE = 8
"""Names that one call asks for at the same time."""

_Names = queue.SimpleQueue[str]
_Answers = queue.SimpleQueue[tuple[str, frozenset[str]]]


def resolved(names: Iterable[str], limit: float) -> Mapping[str, frozenset[str]]:
    """
    Return the IP addresses of each name, which both are in the one spelling of addresses.host().

    Returns after *limit* seconds at the latest. A name is left out for which there was no
    answer by then, or for which there is no address: others may find one all the same, as
    each host may have its own resolver. Raises NoThread.
    """
    until = time.monotonic() + limit
    todo: _Names = queue.SimpleQueue()
    answers: _Answers = queue.SimpleQueue()
    found: dict[str, frozenset[str]] = {}
    asked = 0
    for name in set(map(host, names)) - {""}:
        if parsed(name) is not None:
            found[name] = frozenset({name})
        else:
            todo.put(name)
            asked += 1
    for _ in range(min(AT_ONCE, asked)):
        threads.start(_ask, todo, answers, until)
    for _ in range(asked):
        try:
            name, addresses = answers.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            break
        if addresses:
            found[name] = addresses
    return found


def parsed(name: str) -> IPv4Address | IPv6Address | None:
    """Return the IP address that a host is, without brackets; None if it is a name."""
    try:
        return ip_address(name)
    except ValueError:
        return None


def _ask(todo: _Names, answers: _Answers, until: float) -> None:
    """Ask for one name after the other, for as long as somebody waits for the answers."""
    while time.monotonic() < until:
        try:
            name = todo.get_nowait()
        except queue.Empty:
            return
        answers.put((name, _addresses(name)))


def _addresses(name: str) -> frozenset[str]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # UnicodeError: a part of it is empty, or too long
        return frozenset()
    return frozenset(host(str(address[0]).partition("%")[0]) for *_, address in found)
