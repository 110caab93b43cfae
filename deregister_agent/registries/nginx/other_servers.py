"""
Count the other servers of an upstream that would get the work: those that could do it.

Templates leave placeholders behind where nobody is registered (``server 127.0.0.1:65535;``,
``server unix:/dev/null;``, ``server 0.0.0.1;``), and a guard that counts them lets the last
instance go. So a server counts as none where it is certain that nobody answers there.
"""

import os
import stat
import time
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address

from deregister_agent.host.sockets import LISTENING, SocketsError, table
from deregister_agent.registries.nginx.conf import NginxConf
from deregister_agent.registries.nginx.look_alikes import is_same
from deregister_agent.registries.nginx.main_file import seen_by
from deregister_agent.registries.nginx.processes import Master, NginxError
from deregister_agent.registries.nginx.server_address import canonical, parts
from deregister_agent.registries.nginx.site import Site

_RESOLVE = 1.0  # seconds for all names
_NOBODYS_PORTS = {1, 9}  # tcpmux and discard, which nobody serves by HTTP
_NOBODYS = (
    IPv4Network("0.0.0.0/8"),  # but for 0.0.0.0 itself, by which Linux means this host
    IPv4Network("192.0.2.0/24"),  # for documentation: RFC 5737
    IPv4Network("198.51.100.0/24"),
    IPv4Network("203.0.113.0/24"),
    IPv4Network("224.0.0.0/3"),  # multicast and reserved
    IPv6Network("2001:db8::/32"),  # RFC 3849
    IPv6Network("100::/64"),  # discard-only: RFC 6666
    IPv6Network("ff00::/8"),
)
_LOOPBACK = {4: "127.0.0.1", 6: "::1"}
_ANY = {"0.0.0.0", "::"}  # noqa: S104 - what others listen on
_UNUSUAL = {0, 127, 192, 198, 203}  # how the networks above begin, and the loopback
_UNUSUAL_FROM = 224


def count_others(site: Site, conf: NginxConf) -> int:
    """
    Return how many other servers are neither ``down`` nor ``backup``, nor nobody's.

    Two spellings of one address are one server, and other names of this server are none.
    """
    up = {
        canonical(server.address): server.address
        for server in site.block(conf).servers
        if not (server.down or server.backup)
    }
    master, end = _master(site), time.monotonic() + _RESOLVE
    return sum(
        1
        for spelled, written in up.items()
        if spelled != site.server.canonical
        and not is_same(site, written, end)
        and not _is_nobodys(spelled, master)
    )


def _master(site: Site) -> Master | None:
    with suppress(NginxError):
        return Master(site.running.pid_file)
    return None


def _is_nobodys(address: bytes, master: Master | None) -> bool:
    """Tell whether it is certain that nobody answers at an address."""
    host, port = (part.decode(errors="replace") for part in parts(address))
    if host.startswith("unix:"):
        return master is not None and _is_no_socket(master, host.removeprefix("unix:"))
    if not port.isdigit() or int(port) in _NOBODYS_PORTS or _is_usual(host):
        return port.isdigit() and int(port) in _NOBODYS_PORTS
    if host == "localhost":
        return all(_nobody_listens(master, ip, int(port)) for ip in _LOOPBACK.values())
    try:
        ip = ip_address(host.strip("[]"))
    except ValueError:
        return host.rstrip(".").endswith(".invalid")  # RFC 6761
    if ip.is_loopback or ip.is_unspecified:
        here = _LOOPBACK[ip.version] if ip.is_unspecified else str(ip)
        return _nobody_listens(master, here, int(port))
    return any(ip in network for network in _NOBODYS)


def _is_usual(host: str) -> bool:
    """Tell of most IPv4 addresses quickly that none of what follows can be said of them."""
    first = host.partition(".")[0]
    return first.isdigit() and int(first) not in _UNUSUAL and int(first) < _UNUSUAL_FROM


def _is_no_socket(master: Master, path: str) -> bool:
    """Tell whether a path is none of a Unix socket, as Nginx sees it; False where unseen."""
    try:
        if not os.path.isdir(f"/proc/{master.pid}/root/."):  # noqa: PTH112 - not followed by Path
            return False
        return not stat.S_ISSOCK(seen_by(master, path).stat().st_mode)
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _nobody_listens(master: Master | None, ip: str, port: int) -> bool:
    """Tell whether nobody listens there in Nginx's network; False where that cannot be seen."""
    if master is None:
        return False
    try:
        found = table(LISTENING, local_port=port, pid=master.pid)
    except SocketsError:
        return False
    return not any(one.local in {ip, *_ANY} for one in found)
