"""
Read the kernel's table of TCP sockets by sock_diag (man 7 sock_diag).

The kernel does the filtering: a quiet port takes 0.3 ms among any number of others.
No privilege is needed, but a sandbox or an old container runtime may forbid it.
"""

import errno
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from socket import ntohs
from typing import NamedTuple

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_DUMP = 0x1 | 0x300
_NLM_F_DUMP_INTR = 0x10
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_INET_DIAG_INFO, _INET_DIAG_ULP_INFO = 2, 19
_BUFFER = 65536  # the kernel fills at most 32 KiB at a time

# struct nlmsghdr: length, type, flags, sequence, port id
_HEADER = struct.Struct("=IHHII")
# struct inet_diag_req_v2: family, protocol, extensions, pad, states; then struct
# inet_diag_sockid: source and destination port (big endian), both addresses,
# interface, cookie[2]. A port that is not 0 is a filter, as old as the interface
# (inet_diag_dump_icsk in net/ipv4/inet_diag.c): no bytecode is needed for one port.
_REQUEST = struct.Struct("=BBBxI2s2s16x16xIII")
_NO_COOKIE = 0xFFFFFFFF
# struct inet_diag_msg: family, state, timer, retrans; inet_diag_sockid as above;
# expires, rqueue, wqueue, uid, inode
_MESSAGE = struct.Struct("=BBxxHH16s16s4xQ4xII4xI")
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type
# the name of what lies above TCP is the first attribute inside (tcp_diag_put_ulp)
_ULP_NAME, _MPTCP = slice(8, 14), b"mptcp\0"
# struct tcp_info (linux/tcp.h) up to tcpi_bytes_retrans, which Linux has since 4.19:
# unacked at 24, last_data_sent 44, last_data_recv 52, bytes_acked 120,
# bytes_received 128, notsent_bytes 144, bytes_sent 200, bytes_retrans 208
_TCP_INFO = struct.Struct("=24xI16xI4xI64xQQ8xI52xQQ")
_LEAST_INFO = _ATTRIBUTE.size + _TCP_INFO.size
_attribute = _ATTRIBUTE.unpack_from  # looked up once: it is called 100,000 times in a read


class TcpInfo(NamedTuple):
    """What the kernel counts of one connection; ages are milliseconds, the rest bytes."""

    unacked: int  # segments sent and not acknowledged
    last_data_sent: int
    last_data_recv: int
    bytes_acked: int
    bytes_received: int  # a FIN included
    notsent: int
    bytes_sent: int  # those sent once more included
    bytes_retrans: int  # how many of them were sent once more
    multipath: bool = False  # carries MPTCP, which has queues of its own that do not show here


class Row(NamedTuple):
    """One socket as the kernel shows it; addresses are packed, in 16 bytes."""

    family: int
    state: int
    local_port: int
    peer_port: int
    local: bytes
    peer: bytes
    cookie: int  # names this socket alone until the next boot
    receive_queue: int
    send_queue: int
    inode: int
    info: TcpInfo | None


def dump(states: int, ports: tuple[int, int], deadline: float, *, with_info: bool) -> Iterator[Row]:
    """
    Yield the TCP sockets, IPv4 and IPv6, in *states*: a bit mask, 1 << state.

    *ports* are the local and the peer's port, 0 for any. Raises OSError where this
    is not permitted, and TimeoutError past *deadline* (of time.monotonic).
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        for family in (socket.AF_INET, socket.AF_INET6):
            body = _REQUEST.pack(
                family,
                socket.IPPROTO_TCP,
                1 << (_INET_DIAG_INFO - 1) if with_info else 0,
                states,
                *(port.to_bytes(2, "big") for port in ports),
                0,
                _NO_COOKIE,
                _NO_COOKIE,
            )
            size = _HEADER.size + len(body)
            header = _HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, family, 0)
            kernel.sendto(header + body, (0, 0))
            for message in _messages(kernel, family, deadline):
                yield _row(message)


def _messages(kernel: socket.socket, sequence: int, deadline: float) -> Iterator[memoryview]:
    """Yield the body of each message of one dump, up to its end."""
    while True:
        kernel.settimeout(max(0.001, deadline - time.monotonic()))
        data, _, flags, _ = kernel.recvmsg(_BUFFER)
        if flags & socket.MSG_TRUNC:
            raise OSError(errno.EMSGSIZE, "the kernel's answer was cut off")
        rest = memoryview(data)
        while rest:
            length, kind, flags, number, _ = _HEADER.unpack_from(rest)
            body, rest = rest[_HEADER.size : length], rest[(length + 3) & ~3 :]
            if number != sequence:
                continue
            if kind in {_NLMSG_ERROR, _NLMSG_DONE}:
                # both begin with an int: 0, or the error's number, negative
                problem = int.from_bytes(body[:4], sys.byteorder, signed=True)
                if problem:
                    raise OSError(-problem, os.strerror(-problem))
                return
            if flags & _NLM_F_DUMP_INTR:
                raise OSError(errno.EINTR, "the table changed while it was read")
            yield body


def _row(body: memoryview) -> Row:
    family, state, local_port, peer_port, local, peer, cookie, receive, send, inode = (
        _MESSAGE.unpack_from(body)
    )
    return Row(
        family,
        state,
        ntohs(local_port),
        ntohs(peer_port),
        local,
        peer,
        cookie,
        receive,
        send,
        inode,
        _info(body),
    )


def _info(body: memoryview) -> TcpInfo | None:
    """Return the counts in the attributes behind the message; None unless all of them are there."""
    info, multipath = None, False
    at, last = _MESSAGE.size, len(body) - _ATTRIBUTE.size
    while at <= last:
        length, kind = _attribute(body, at)
        if kind == _INET_DIAG_INFO and length >= _LEAST_INFO:
            info = _TCP_INFO.unpack_from(body, at + _ATTRIBUTE.size)
        elif kind == _INET_DIAG_ULP_INFO:
            multipath = body[at : at + length][_ULP_NAME] == _MPTCP
        at += max(_ATTRIBUTE.size, (length + 3) & ~3)
    return TcpInfo._make((*info, multipath)) if info else None
