"""Which connections are at work: every rule as a row, and every history look by look."""

from typing import Any

import pytest

from deregister_agent.host.connection_activity import (
    Activity,
    CountsMissingError,
    Follower,
    is_in_hand,
    is_loaded,
)
from deregister_agent.host.sock_diag import TcpInfo
from deregister_agent.host.sockets import Socket, State

STILL = 10.0
BUSY, UNKNOWN, IDLE = Activity


def info(received: int = 0, sent: int = 0, **more: int) -> TcpInfo:
    """Return counts of a connection on which the app has sent last, unless *more* says else."""
    counts: dict[str, Any] = {
        "unacked": 0,
        "last_data_sent": 500,
        "last_data_recv": 600,
        "bytes_acked": sent,
        "notsent": 0,
        "bytes_retrans": 0,
    }
    return TcpInfo(**(counts | {"bytes_received": received, "bytes_sent": sent} | more))


def one(counts: TcpInfo | None, cookie: int = 1, **more: Any) -> Socket:
    """Return an accepted connection with these counts."""
    ends = ("127.0.0.1", 8080, "10.0.0.9", 40000)
    plain = Socket(State.ESTABLISHED, *ends, 0, 0, 77, counts, cookie)
    return plain._replace(**more)


def told(follower: Follower, connection: Socket, at: float) -> Activity:
    """Return what a look that takes no time says of *connection*."""
    (said,) = follower.saw([connection], at, at)
    return said


ANSWERED = info(100, 200)
TIE = {"last_data_sent": 4, "last_data_recv": 4}
LATE = {"last_data_sent": 8, "last_data_recv": 4}

# Each step: the seconds since the step before, the counts, and what is said of them.
HISTORIES: dict[str, list[tuple[float, TcpInfo, Activity]]] = {
    "nothing ever sent": [(0, info(), UNKNOWN), (9.9, info(), UNKNOWN), (0.1, info(), IDLE)],
    "met when its last byte is long ago": [
        (0, info(1, 1, last_data_sent=9_000_000, last_data_recv=9_000_001), UNKNOWN),
        (STILL, info(1, 1, last_data_sent=9_000_000, last_data_recv=9_000_001), IDLE),
    ],
    "a request and nothing sent, for ever": [
        (0, info(100, 0, **TIE), BUSY),
        (1000, info(100, 0), BUSY),
    ],
    "the client's handshake bytes alone are no request": [
        (0, info(0, 0, **LATE), UNKNOWN),
        (STILL, info(0, 0, **LATE), IDLE),
    ],
    "MPTCP is never idle": [
        (0, info(100, 200, multipath=True), UNKNOWN),
        (1000, info(100, 200, multipath=True), UNKNOWN),
    ],
    "answered": [(0, info(100, 0), BUSY), (1, ANSWERED, UNKNOWN), (STILL, ANSWERED, IDLE)],
    "received last, by the kernel's clock": [
        (0, info(300, 200, **LATE), BUSY),
        (1000, info(300, 200, **LATE), BUSY),
    ],
    "a tie tells nothing": [
        (0, info(300, 200, **TIE), UNKNOWN),
        (STILL, info(300, 200, **TIE), IDLE),
    ],
    "received since the last look and nothing sent, whatever the clock": [
        (0, ANSWERED, UNKNOWN),
        (STILL, ANSWERED, IDLE),
        (1, info(150, 200, **TIE), BUSY),
        (1000, info(150, 200, last_data_sent=1, last_data_recv=9), BUSY),
        (1, info(150, 300), UNKNOWN),
    ],
    "both since the last look, received last": [
        (0, ANSWERED, UNKNOWN),
        (1, info(150, 300, **LATE), BUSY),
    ],
    "both since the last look, a tie": [
        (0, ANSWERED, UNKNOWN),
        (1, info(150, 300, **TIE), UNKNOWN),
        (9.9, info(150, 300, **TIE), UNKNOWN),
        (0.1, info(150, 300, **TIE), IDLE),
    ],
    "both since the last look, begins anew": [
        (0, ANSWERED, UNKNOWN),
        (STILL, ANSWERED, IDLE),
        (1, info(150, 300), UNKNOWN),
        (STILL, info(150, 300), IDLE),
    ],
    "a streamed answer moves": [
        (0, info(100, 0), BUSY),
        (9, info(100, 10), UNKNOWN),
        (9, info(100, 20), UNKNOWN),
        (9, info(100, 30), UNKNOWN),
        (STILL, info(100, 30), IDLE),
    ],
    "an old answer sent once more is not the answer owed": [
        (0, ANSWERED, UNKNOWN),
        (1, info(150, 200), BUSY),
        (1, info(150, 260, bytes_retrans=60, last_data_sent=1), BUSY),
        (1000, info(150, 260, bytes_retrans=60, last_data_sent=1), BUSY),
    ],
    "bytes sent once more have moved": [
        (0, ANSWERED, UNKNOWN),
        (9, info(100, 250, bytes_retrans=50), UNKNOWN),
        (9, info(100, 250, bytes_retrans=50), UNKNOWN),
        (1, info(100, 250, bytes_retrans=50), IDLE),
    ],
    "an acknowledgement of bytes is a move": [
        (0, info(100, 200, bytes_acked=150), UNKNOWN),
        (9, ANSWERED, UNKNOWN),
        (9, ANSWERED, UNKNOWN),
        (1, ANSWERED, IDLE),
    ],
}


@pytest.mark.parametrize("name", HISTORIES)
def test_history(name: str) -> None:
    """From look to look a connection is what its history says."""
    follower, at = Follower(STILL), 0.0
    for wait, counts, expected in HISTORIES[name]:
        at += wait
        assert (at, told(follower, one(counts), at)) == (at, expected)


class TestFollower:
    def test_the_time_of_a_look_does_not_count(self) -> None:
        """Stillness is measured from the end of one look to the begin of another."""
        follower = Follower(STILL)
        assert follower.saw([one(ANSWERED)], 0, 5) == [UNKNOWN]
        assert follower.saw([one(ANSWERED)], 14.9, 99) == [UNKNOWN]
        assert follower.saw([one(ANSWERED)], 15, 99) == [IDLE]

    def test_a_loaded_connection_is_busy_and_then_begins_anew(self) -> None:
        """Bytes in a queue are work, and their end is a move that the counts need not show."""
        follower = Follower(STILL)
        assert told(follower, one(ANSWERED), 0) is UNKNOWN
        assert told(follower, one(ANSWERED, receive_queue=1), 1000) is BUSY
        assert told(follower, one(ANSWERED), 1001) is UNKNOWN
        assert told(follower, one(ANSWERED), 1000 + STILL) is IDLE

    def test_another_connection_with_the_same_addresses(self) -> None:
        """A connection is known by its cookie: another one has no past."""
        follower = Follower(STILL)
        told(follower, one(ANSWERED), 0)
        assert told(follower, one(ANSWERED, cookie=2), STILL) is UNKNOWN

    def test_passed_over_by_a_look(self) -> None:
        """What a look has not shown is met anew by the next one."""
        follower = Follower(STILL)
        told(follower, one(ANSWERED), 0)
        follower.saw([], 5, 5)
        assert told(follower, one(ANSWERED), STILL) is UNKNOWN

    def test_each_for_itself(self) -> None:
        """Of several connections each has its own past, in the order they are given."""
        follower = Follower(STILL)
        follower.saw([one(ANSWERED, 1), one(ANSWERED, 2)], 0, 0)
        said = follower.saw(
            [one(info(1, 0), 3), one(info(150, 300), 2), one(ANSWERED, 1)], STILL, STILL
        )
        assert said == [BUSY, UNKNOWN, IDLE]

    def test_counts_not_told(self) -> None:
        """Without counts nothing is idle: it is an error, and the look does not count."""
        follower = Follower(STILL)
        told(follower, one(ANSWERED), 0)
        with pytest.raises(CountsMissingError, match=r"AF_NETLINK .* or remove still"):
            follower.saw([one(ANSWERED), one(None, 2)], 5, 5)
        assert told(follower, one(ANSWERED), STILL) is IDLE

    @pytest.mark.parametrize(
        "loaded", [{"state": State.SYN_RECV}, {"inode": 0}, {"send_queue": 1}], ids=str
    )
    def test_counts_not_needed(self, loaded: dict[str, Any]) -> None:
        """What is busy for another reason needs no counts; when it has some it is met anew."""
        follower = Follower(STILL)
        assert told(follower, one(None, **loaded), 0) is BUSY
        assert told(follower, one(ANSWERED), STILL) is UNKNOWN


@pytest.mark.parametrize(
    ("state", "inode", "received", "send", "loaded"),
    [
        (State.ESTABLISHED, 7, 0, 0, False),
        (State.ESTABLISHED, 7, 1, 0, True),
        (State.ESTABLISHED, 7, 0, 1, True),
        (State.ESTABLISHED, 0, 0, 0, True),
        (State.SYN_RECV, 7, 0, 0, True),
        (State.CLOSE_WAIT, 7, 0, 0, True),
        (State.FIN_WAIT1, 7, 0, 1, False),
        (State.FIN_WAIT1, 7, 0, 2, True),
        (State.FIN_WAIT1, 7, 1, 1, True),
        (State.FIN_WAIT2, 7, 0, 0, False),
        (State.FIN_WAIT2, 7, 1, 0, True),
        (State.CLOSING, 7, 0, 1, False),
        (State.LAST_ACK, 0, 0, 9, True),
    ],
)
def test_loaded(state: State, inode: int, received: int, send: int, loaded: bool) -> None:
    """Queues that are not empty, and a connection the app has to accept or to close, are work."""
    connection = one(None, state=state, inode=inode, receive_queue=received, send_queue=send)
    assert is_loaded(connection) is loaded
    assert is_in_hand(connection)
