"""Whether nobody at all uses a port of this host: not even a connection is left over."""

from ipaddress import ip_address

from deregister_agent.host.own_addresses import is_own
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
    if not is_own(own):
        return f"{address} is no address of this host or container"
    try:
        found = table(frozenset(State), local_port=port)
    except SocketsError as e:
        return str(e)
    if not found:
        return ""
    states = ", ".join(sorted({one.state.name for one in found}))
    return f"port {port} is in use, or was a moment ago: {len(found)} socket(s) in {states}"
