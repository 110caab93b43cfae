"""
The kernel's table of TCP sockets: who listens on a port, and who is connected to it.

Read by sock_diag, and where that is not permitted from /proc/net/tcp and tcp6.
Neither needs a privilege. Both show one network namespace only, which is this one unless
a process of another is named: an app in a container of its own is not in the table.
"""

import errno
import os
import socket
import struct
import time
from collections.abc import Iterable
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from deregister_agent.errors import AgentError
from deregister_agent.host import sock_diag
from deregister_agent.host.sock_diag import TcpInfo

TABLE_TIMEOUT = 5.0
"""Seconds after which a reading is given up; 20,000 connections take about 0.1."""


class SocketsError(AgentError):
    """The table cannot be read. It is never returned empty instead."""


class State(IntEnum):
    """The state of a TCP socket (linux/include/net/tcp_states.h)."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12  # how a request is filed; it is shown as SYN_RECV


LISTENING = frozenset({State.LISTEN})
CONNECTED = frozenset(State) - {State.LISTEN, State.TIME_WAIT, State.CLOSE, State.SYN_SENT}
"""What is, or was, a connection from a client; TIME_WAIT is only the memory of a connection."""


class Socket(NamedTuple):
    """One socket. An IPv4 peer of an IPv6 socket is shown as the IPv4 address it is."""

    state: State
    local: str
    local_port: int
    peer: str
    peer_port: int
    receive_queue: int  # bytes unread by the app; of a listener: connections not yet accepted
    send_queue: int  # bytes unacknowledged, a FIN included; of a listener: the backlog's limit
    inode: int  # 0: no process holds it, because it was not accepted yet or is closed already
    info: TcpInfo | None = None  # only when asked for; None too if the kernel is too old
    cookie: int = 0  # names this socket alone since boot; only by sock_diag


def listeners(port: int) -> list[Socket]:
    """Return the sockets that listen on *port*, IPv4 and IPv6. Raises SocketsError."""
    return table(LISTENING, local_port=port)


def connections(port: int, *, with_info: bool = False) -> list[Socket]:
    """Return the connections whose local port is *port*. Raises SocketsError."""
    return table(CONNECTED, local_port=port, with_info=with_info)


def table(
    states: Iterable[State],
    *,
    local_port: int = 0,
    peer_port: int = 0,
    with_info: bool = False,
    pid: int = 0,
) -> list[Socket]:
    """
    Return the sockets in one of *states*; a port of 0 means any.

    With *pid*, those of the network that this process sees. Raises SocketsError when
    neither source can be read, or not within TABLE_TIMEOUT seconds.
    """
    wanted, ports = frozenset(states), (local_port, peer_port)
    deadline = time.monotonic() + TABLE_TIMEOUT
    try:
        try:
            if pid:
                _require_our_network(pid)
            return _by_netlink(wanted, ports, deadline, with_info=with_info)
        except TimeoutError:
            raise
        except OSError as refused:
            folder = Path(f"/proc/{pid}/net") if pid else _PROCFS
            return _by_procfs(wanted, ports, deadline, _Files(folder, refused))
    except TimeoutError as e:
        raise SocketsError(
            f"the kernel's socket table could not be read within {TABLE_TIMEOUT:g} s: "
            "is the host overloaded?"
        ) from e


def _require_our_network(pid: int) -> None:
    """Raise OSError unless a process is known to be in the network namespace that we are in."""
    theirs, ours = (Path(f"/proc/{one}/ns/net").stat() for one in (pid, "thread-self"))
    if not os.path.samestat(theirs, ours):
        raise OSError(errno.EXDEV, f"process {pid} is in another network")


_Ports = tuple[int, int]


class _Files(NamedTuple):
    """Where the tables can be read as text, and why the kernel was not asked instead."""

    folder: Path
    refused: OSError


def _by_netlink(
    states: frozenset[State], ports: _Ports, deadline: float, *, with_info: bool
) -> list[Socket]:
    filed = states | ({State.NEW_SYN_RECV} if State.SYN_RECV in states else frozenset())
    mask = sum(1 << state for state in filed)
    return [
        Socket(
            _STATES[row.state],
            _address(row.family, row.local),
            row.local_port,
            _address(row.family, row.peer),
            row.peer_port,
            row.receive_queue,
            row.send_queue,
            row.inode,
            row.info,
            row.cookie,
        )
        for row in sock_diag.dump(mask, ports, deadline, with_info=with_info)
    ]


_MAPPED = b"\0" * 10 + b"\xff\xff"  # ::ffff:0:0/96, an IPv4 address in an IPv6 socket
_STATES = {state.value: state for state in State}  # State(number) takes three times as long


@lru_cache(4096)  # connections mostly come from a few peers
def _address(family: int, packed: bytes) -> str:
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, packed[:4])
    if packed.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed)


_PROCFS = Path("/proc/net")


def _by_procfs(
    states: frozenset[State], ports: _Ports, deadline: float, files: _Files
) -> list[Socket]:
    """
    Read the files twice, and return what stands in either reading.

    The kernel writes them page by page, and where the table changes in between
    it may show a socket twice or pass one over. A missed connection would be a
    false "idle", so one that either reading shows is there.
    """
    found: dict[tuple[object, ...], Socket] = {}
    for _ in range(2):
        for s in _read_files(states, ports, deadline, files):
            # many listeners may share one address; the inode of a connection comes late
            inode = s.inode if s.state is State.LISTEN else 0
            found[s.local, s.local_port, s.peer, s.peer_port, inode] = s
    return list(found.values())


def _read_files(
    states: frozenset[State], ports: _Ports, deadline: float, files: _Files
) -> list[Socket]:
    """Read /proc/net/tcp and tcp6 once (linux/Documentation/networking/proc_net_tcp.rst)."""
    found: list[Socket] = []
    for family, name in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        try:
            with (files.folder / name).open(encoding="ascii") as lines:
                next(lines)
                for line in lines:
                    _check(deadline)
                    found += _from_line(family, line, states, ports)
        except FileNotFoundError as e:
            if name == "tcp6" and not (files.folder / "if_inet6").exists():
                continue  # a kernel without IPv6
            raise _unreadable(files, e) from e
        except TimeoutError:
            raise
        except (OSError, ValueError, StopIteration) as e:
            raise _unreadable(files, e) from e
    return found


def _check(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError


def _unreadable(files: _Files, e: Exception) -> SocketsError:
    return SocketsError(
        f"cannot read the kernel's socket table: sock_diag: {files.refused}; "
        f"{files.folder}/tcp: {e}; "
        "allow AF_NETLINK sockets to the agent, or mount /proc"
    )


def _from_line(
    family: int, line: str, states: frozenset[State], ports: _Ports
) -> tuple[Socket, ...]:
    """Return the socket of one *line*, or nothing if the socket is not wanted."""
    _, local, peer, state, queues, _, _, _, _, inode, *_ = line.split()
    ends = [end.rpartition(":") for end in (local, peer)]
    numbers = [int(port, 16) for _, _, port in ends]
    wanted = all(port in {0, number} for port, number in zip(ports, numbers, strict=True))
    kind = State.SYN_RECV if int(state, 16) == State.NEW_SYN_RECV else State(int(state, 16))
    if not wanted or kind not in states:
        return ()
    here, there = (_address(family, _words(address)) for address, _, _ in ends)
    send, _, receive = queues.partition(":")
    sizes = int(receive, 16), int(send, 16)
    return (Socket(kind, here, numbers[0], there, numbers[1], *sizes, int(inode)),)


def _words(digits: str) -> bytes:
    """Return an address from *digits*: 32-bit words in the host's byte order."""
    words = (int(digits[i : i + 8], 16) for i in range(0, len(digits), 8))
    return b"".join(struct.pack("=I", word) for word in words)
