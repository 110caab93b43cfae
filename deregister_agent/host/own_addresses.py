"""
Whether what is sent to an address gets to one instance, which is known by an address of its own.

An address need not be the instance's own for that: it may be a name of it, another address of
its machine, or loopback where somebody on its machine sends.
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from deregister_agent.host.addresses import host
from deregister_agent.host.resolving import is_ip

_DOCKER_BRIDGE = ip_network("172.17.0.0/16")
"""Where Docker puts the containers of each host, unless it is told otherwise."""
_NAMES_OF_EACH_HOST = {
    *("localhost", "localhost.localdomain", "localhost4", "localhost6"),
    *("ip6-localhost", "ip6-loopback"),
    *("host.docker.internal", "gateway.docker.internal", "host.containers.internal"),
}
"""Names that mean another host on each: by the hosts file of distributions, Docker and Podman."""


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
    if not is_ip(name):
        return name in _NAMES_OF_EACH_HOST or name.endswith(".localhost")
    ip = ip_address(name)
    return ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip in _DOCKER_BRIDGE


@dataclass(frozen=True, slots=True)
class OwnAddresses:
    """
    The addresses of one instance: the host that it is known by, and what names stand for.

    *found* is the answer of resolving.resolved() for the names that are asked about, that of
    the instance included.
    """

    name: str
    found: Mapping[str, frozenset[str]]

    def are_meant_by(self, written: str, *, here: bool) -> bool | None:
        """
        Tell whether what is sent to a host gets to the instance; None: its name is not known.

        *here*: whether it is sent, or was written down, on the instance's own machine, and so
        whether addresses count that mean another place on each host.
        """
        at = host(written)
        if at == host(self.name) or at in self._own:
            return here or not is_of_its_host(at)
        if is_of_its_host(at):
            return here and (not is_ip(at) or self._is_this_machine(at, here=True))
        if is_ip(at):
            return self._is_this_machine(at, here=here)
        if at not in self.found:
            return None
        # A name that stands for loopback is this machine's own, as in the hosts file of Debian.
        return any(
            one in self._own or self._is_this_machine(one, here=here) for one in self.found[at]
        )

    @property
    def _own(self) -> frozenset[str]:
        name = host(self.name)
        return self.found.get(name, frozenset({name}))

    def _is_this_machine(self, ip: str, *, here: bool) -> bool:
        """Tell whether an IP address leads to this machine, and the instance is on it."""
        address = ip_address(ip)
        if here and (address.is_loopback or address.is_unspecified):
            return True
        return self._is_local and is_own(address)

    @property
    def _is_local(self) -> bool:
        """Whether the instance is on this machine."""
        own = [ip_address(one) for one in self._own if is_ip(one)]
        return any(one.is_unspecified or is_own(one) for one in own)
