"""
Whether what is sent to an address gets to one instance, which is known by an address of its own.

An address need not be the instance's own for that: it may be a name of it, another address of
its machine, or loopback where somebody on its machine sends.
"""

import socket
from collections.abc import Mapping
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from deregister_agent.host.addresses import host
from deregister_agent.host.resolving import parsed

_DOCKER_BRIDGE = ip_network("172.17.0.0/16")
"""Where Docker puts the containers of each host, unless it is told otherwise."""
_NAMES_OF_EACH_HOST = {
    *("localhost", "localhost.localdomain", "localhost4", "localhost6"),
    *("ip6-localhost", "ip6-loopback"),
    *("host.docker.internal", "gateway.docker.internal", "host.containers.internal"),
}
"""Names that mean another host on each: by the hosts file of distributions, Docker and Podman."""
_LOCAL = ".localhost"
"""The end of more of them (RFC 6761)."""


def is_own(address: IPv4Address | IPv6Address) -> bool:
    """
    Tell whether an address is one of this network namespace.

    Whom the kernel would answer from for it: itself, where it is its own. To bind to it
    proves less, as net.ipv4.ip_nonlocal_bind lets any be bound to. Nothing is sent.
    """
    if address.is_loopback:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6  # noqa: PLR2004
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as trial:
            trial.connect((str(address), 9))
            return ip_address(trial.getsockname()[0].partition("%")[0]) == address
    except OSError:  # no way leads there: it is another host's, if anybody's
        return False


def is_of_its_host(written: str) -> bool:
    """Tell whether an address means another place on each host: loopback, a container's bridge."""
    name = host(written)
    return _is_of_its_host(name, parsed(name))


class OwnAddresses:
    """
    The addresses of one instance: the host that it is known by, and what names stand for.

    *found* is the answer of resolving.resolved() for the names that are asked about, that of
    the instance included.
    """

    def __init__(self, name: str, found: Mapping[str, frozenset[str]]) -> None:
        self._name, self._found = host(name), found
        self._own = found.get(self._name, frozenset({self._name}))

    def are_meant_by(self, written: str, *, here: bool) -> bool | None:
        """
        Tell whether what is sent to a host gets to the instance; None: its name is not known.

        *here*: whether it is sent, or was written down, on the instance's own machine, and so
        whether addresses count that mean another place on each host.
        """
        at = host(written)
        ip = parsed(at)
        if _is_of_its_host(at, ip) and not here:
            return False
        if at == self._name or at in self._own:
            return True
        if ip is not None:
            return self._is_this_machine(ip, here=here)
        if at in _NAMES_OF_EACH_HOST or at.endswith(_LOCAL):
            return True
        if at not in self._found:
            return None
        # A name that stands for loopback is this machine's own, as in the hosts file of Debian.
        return any(
            one in self._own or self._is_this_machine(ip_address(one), here=here)
            for one in self._found[at]
        )

    def _is_this_machine(self, ip: IPv4Address | IPv6Address, *, here: bool) -> bool:
        """Tell whether an IP address leads to this machine, and the instance is on it."""
        if here and (ip.is_loopback or ip.is_unspecified):
            return True
        return self._is_local and is_own(ip)

    @cached_property
    def _is_local(self) -> bool:
        """Whether the instance is on this machine."""
        own = [ip for one in self._own if (ip := parsed(one)) is not None]
        return any(ip.is_unspecified or is_own(ip) for ip in own)


def _is_of_its_host(name: str, ip: IPv4Address | IPv6Address | None) -> bool:
    if ip is None:
        return name in _NAMES_OF_EACH_HOST or name.endswith(_LOCAL)
    return ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip in _DOCKER_BRIDGE
