"""Whether nobody at all uses a port of this host: not even a connection is left over."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

from deregister_agent.host.sockets import SocketsError, State, table


def who_uses(address: str, port: int) -> str:
    """
    Say why it cannot be told that nobody uses *port*; empty where nobody does.

    That nothing is in the table proves nothing about an address of another host or
    namespace: there an app would look exactly like nobody. A connection that is only
    remembered (TIME_WAIT) is the trace of an app that was here a minute ago.
    """
    try:
        own = ip_address(address)
    except ValueError:
        return f"whether {address} is an address of this host cannot be told: give the address"
    if not _is_own(own):
        return f"{address} is no address of this host or container"
    try:
        found = table(frozenset(State), local_port=port)
    except SocketsError as e:
        return str(e)
    if not found:
        return ""
    states = ", ".join(sorted({one.state.name for one in found}))
    return f"port {port} is in use, or was a moment ago: {len(found)} socket(s) in {states}"


def _is_own(address: IPv4Address | IPv6Address) -> bool:
    """
    Tell whether an address is one of this network namespace.

    Whom the kernel would answer from for it: itself, where it is its own. To bind to it
    proves less, as net.ipv4.ip_nonlocal_bind lets any be bound to. Nothing is sent.
    """
    if address.is_loopback:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6  # noqa: PLR2004
    with socket.socket(family, socket.SOCK_DGRAM) as trial:
        try:
            trial.connect((str(address), 9))
        except OSError:  # no way leads there: it is another host's, if anybody's
            return False
        return ip_address(trial.getsockname()[0].partition("%")[0]) == address
