"""Who is connected to a port now, without the agent's own connections to it."""

from collections import Counter
from collections.abc import Mapping

from deregister_agent.host.connection_activity import is_in_hand
from deregister_agent.host.socket_holders import own_sockets
from deregister_agent.host.sockets import CONNECTED, State, connections, table

_CONNECTING = CONNECTED | {State.SYN_SENT}  # the app's end of one of ours may be there already


def kept_peers(port: int) -> Mapping[str, int]:
    """Return how many connections each peer keeps to *port*. Raises SocketsError."""
    found = [one for one in connections(port) if is_in_hand(one)]
    mine = own_sockets() if found else frozenset()
    to_app = table(_CONNECTING, peer_port=port) if mine else []
    own = {(one.local, one.local_port, one.peer) for one in to_app if one.inode in mine}
    return Counter(one.peer for one in found if (one.peer, one.peer_port, one.local) not in own)
