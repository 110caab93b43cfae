"""Who is connected to a port now, without the agent's own connections to it."""

import math
from collections.abc import Iterable, Mapping

from deregister_agent.host import pids
from deregister_agent.host.connection_activity import is_in_hand, is_loaded, received_last
from deregister_agent.host.pids import Pid
from deregister_agent.host.socket_holders import own_sockets, recent_holders
from deregister_agent.host.sockets import CONNECTED, Socket, State, connections, table
from deregister_agent.model import Peer

_CONNECTING = CONNECTED | {State.SYN_SENT}  # the other end of one may be there already
_SHOWN_FOR = 5.0  # seconds for which it holds which program has a socket: reading that is dear


def kept_peers(port: int) -> list[Peer]:
    """Return who keeps connections to *port*, who was active last first. Raises SocketsError."""
    found = [one for one in connections(port, with_info=True) if is_in_hand(one)]
    if not found:
        return []
    mine = own_sockets()
    there = {(s.local, s.local_port, s.peer): s.inode for s in table(_CONNECTING, peer_port=port)}
    here = {end: inode for one in found if (inode := there.get(end := _other_end(one), 0))}
    others = [one for one in found if here.get(_other_end(one)) not in mine]
    held = _holders([inode for inode in here.values() if inode not in mine])
    by_peer: dict[tuple[str, str], list[Socket]] = {}
    for one in others:
        program = _program(held.get(here.get(_other_end(one), 0), ()))
        by_peer.setdefault((one.peer, program), []).append(one)
    return sorted(
        (_peer(*who, kept) for who, kept in by_peer.items()),
        key=lambda one: (math.inf if one.last_byte is None else one.last_byte, one.who),
    )


def _other_end(one: Socket) -> tuple[str, int, str]:
    return (one.peer, one.peer_port, one.local)


def _holders(inodes: list[int]) -> Mapping[int, frozenset[Pid]]:
    try:
        return recent_holders(inodes, _SHOWN_FOR)[0]
    except OSError:
        return {}  # the addresses are told all the same


def _program(processes: Iterable[Pid]) -> str:
    """Name the programs that hold a socket, each once."""
    return ", ".join(sorted({name for pid, _ in processes if (name := pids.name(pid))}))


def _peer(address: str, program: str, kept: list[Socket]) -> Peer:
    told = [one.info for one in kept if one.info is not None]
    ages = [min(info.last_data_sent, info.last_data_recv) / 1000 for info in told]
    return Peer(
        address,
        program,
        connections=len(kept),
        waiting=sum(is_loaded(one) or bool(one.info and received_last(one.info)) for one in kept),
        last_byte=min(ages, default=None),
        used=len(told) < len(kept) or any(info.bytes_received or info.bytes_sent for info in told),
    )
