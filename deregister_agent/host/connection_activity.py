"""
Which connections are at work: their bytes followed from look to look. Pure.

One sample of the kernel's counts does not tell. "Received after it has last sent, so
the app owes an answer" is true, but its opposite is not: a streamed answer, a
request that came at once after an answer, and one of several sent together all
look like an answer that was given. So there is a third word between busy and idle.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from deregister_agent.errors import AgentError
from deregister_agent.host.sock_diag import TcpInfo
from deregister_agent.host.sockets import Socket, State

CLOSED_BY_APP = frozenset({State.FIN_WAIT1, State.FIN_WAIT2, State.CLOSING, State.LAST_ACK})
"""The app has sent its last byte; the kernel does the rest, unless the app holds the socket."""
_FIN = 1  # a FIN takes one place in the send queue
_APP_HAS_THE_NEXT_MOVE = frozenset({State.SYN_RECV, State.NEW_SYN_RECV, State.CLOSE_WAIT})


class Activity(StrEnum):
    """What a connection is taken for."""

    BUSY = "busy"  # the app, or the kernel for the app, certainly has something to do
    UNKNOWN = "unknown"  # perhaps: bytes have moved not long ago, or the past is not known
    IDLE = "idle"  # no byte has moved for long enough, and the app owes nothing that can be seen


class CountsMissingError(AgentError):
    """The kernel does not tell how many bytes have moved on a connection."""


class _Past(NamedTuple):
    """What earlier looks have shown of one connection."""

    counts: tuple[int, ...]
    owes: bool  # something was received after the last byte of the app's own
    still_since: float  # the end of the last look that saw a byte moved, or could not tell


class Follower:
    """
    Follows connections from look to look, each by its cookie.

    A connection met for the first time has an unknown past, and is unknown until it has
    been followed for ``still`` seconds. So is one that a look has passed over. One that
    carries MPTCP is never idle: what waits in its queues does not show in those of TCP.
    """

    def __init__(self, still: float) -> None:
        self._still = still
        self._past: dict[int, _Past] = {}

    def saw(self, found: Iterable[Socket], asked: float, answered: float) -> list[Activity]:
        """
        Take in a look made between *asked* and *answered*; say what each of *found* is.

        Raises CountsMissingError if the kernel did not tell a connection's counts; then
        the look does not count.
        """
        before, after, said = self._past, dict[int, _Past](), list[Activity]()
        for one in found:
            loaded = is_loaded(one)
            if one.info is None:
                if not loaded:
                    raise CountsMissingError(
                        "the kernel does not tell here how many bytes have moved on each "
                        "connection: allow AF_NETLINK sockets to the agent, on Linux 4.19 or "
                        "newer, or remove still"
                    )
                said.append(Activity.BUSY)
                continue
            past = _followed(before.get(one.cookie), one.info, answered, loaded=loaded)
            after[one.cookie] = past
            if loaded or past.owes:
                said.append(Activity.BUSY)
            else:
                still = asked - past.still_since >= self._still
                idle = still and not one.info.multipath
                said.append(Activity.IDLE if idle else Activity.UNKNOWN)
        self._past = after
        return said


def _followed(before: _Past | None, info: TcpInfo, now: float, *, loaded: bool) -> _Past:
    """Return what is known of a connection after a look, from what was known before."""
    counts = (info.bytes_received, info.bytes_sent, info.bytes_retrans, info.bytes_acked)
    if before is None:
        return _Past(counts, received_last(info), now)
    if counts == before.counts:
        return before._replace(still_since=now) if loaded else before
    received = counts[0] != before.counts[0]
    sent = counts[1] - counts[2] != before.counts[1] - before.counts[2]
    if received and sent:
        owes = received_last(info)
    elif received or sent:
        owes = received
    else:
        owes = before.owes  # only sent once more, or acknowledged
    return _Past(counts, owes, now)


def received_last(info: TcpInfo) -> bool:
    """
    Tell whether something was certainly received after the last byte was sent.

    The two ages have the resolution of a jiffy, 1 to 10 ms: what happened within
    one shows as a tie, and a tie tells nothing.
    """
    if info.bytes_received and not info.bytes_sent:
        return True
    return bool(info.bytes_received) and info.last_data_recv < info.last_data_sent


def is_loaded(connection: Socket) -> bool:
    """
    Tell whether bytes wait in a queue of *connection*, or it waits for the app as a whole.

    That is: unread, unsent or unacknowledged bytes; a connection that the app has not
    accepted yet, or has closed before its answer was out; and one on which the peer
    has sent its all, so that the app has at least to close it.
    """
    if connection.inode == 0 or connection.state in _APP_HAS_THE_NEXT_MOVE:
        return True
    fin = _FIN if connection.state in CLOSED_BY_APP else 0
    return connection.receive_queue > 0 or connection.send_queue > fin


def is_in_hand(connection: Socket) -> bool:
    """
    Tell whether the app, or the kernel for it, still has something to do with *connection*.

    Once the app has closed it (no process holds it any more) it counts for as long
    as bytes of the answer are unacknowledged; the FIN alone does not count.
    """
    if connection.state not in CLOSED_BY_APP:
        return True
    return connection.inode != 0 or connection.send_queue > _FIN
