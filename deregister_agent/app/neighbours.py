"""Processes that serve the same port as this one, whether they share its counts or not."""

import os
import socket
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from deregister_agent.host.sock_diag import Row, dump

PROC = Path("/proc")
LISTEN, ANY = 10, 0xFFF  # include/net/tcp_states.h; a bit for each
ACCEPTS = " 00010000 "  # __SO_ACCEPTCON, include/linux/net.h
TABLE_TIMEOUT = 1.0  # seconds for one look at the kernel's table
MAPPED = bytes(10) + b"\xff\xff"

SocketPlace = tuple[int, bytes]
"""A port and an address, which is empty for "any"."""


def strangers(known: Collection[int]) -> list[int]:
    """
    Name the processes that serve this process's listening sockets and are not *known*.

    They are looked for where pre-fork servers keep them: among the siblings and the
    children of this process. One serves a socket if it accepts from it, or if it still has
    a connection from it: a worker on its way out closes its listener first. One whose
    sockets may not be seen (it has changed its user) is taken for one of them if it was
    started with the same command line.
    """
    family = (_children(os.getppid()) | _children(os.getpid())) - {os.getpid(), *known}
    if not family:
        return []
    wanted = _served_here()
    return sorted(pid for pid in family if _serves(pid, wanted)) if wanted else []


def can_be_told() -> bool:
    """Tell whether strangers() would see them: this process listens, and the kernel tells kin."""
    kin = PROC / str(os.getpid()) / "task" / str(os.getpid()) / "children"
    return kin.exists() and bool(_served_here())


def _served_here() -> set[str]:
    own = _sockets(os.getpid())
    return _by_tcp(own) | _by_unix(own)


def _serves(pid: int, wanted: set[str]) -> bool:
    try:
        return not wanted.isdisjoint(_sockets(pid))
    except PermissionError:
        return _command(pid) == _command(os.getpid())


def _by_tcp(own: set[str]) -> set[str]:
    """Return the inodes of all TCP sockets at the places where one of *own* listens."""
    try:
        places = {place for place, inode in _told(1 << LISTEN, 0) if inode in own}
        ports = {port for port, _ in places}
        sockets = [each for port in ports for each in _told(ANY, port)]
    except OSError:  # a sandbox does not let it ask: all that the kernel prints, then
        every = [*_printed("tcp"), *_printed("tcp6")]
        places = {place for place, inode, state in every if state == LISTEN and inode in own}
        sockets = [(place, inode) for place, inode, _ in every]
    found = {inode for at, inode in sockets if any(_overlap(at, place) for place in places)}
    return found - {"0"}


def _told(states: int, port: int) -> list[tuple[SocketPlace, str]]:
    """Ask for the place and inode of each socket: spares the app a table of 10,000 others."""
    rows = dump(states, (port, 0), time.monotonic() + TABLE_TIMEOUT, with_info=False)
    return [((row.local_port, _address(row)), str(row.inode)) for row in rows]


def _address(row: Row) -> bytes:
    return _plain(row.local[:4] if row.family == socket.AF_INET else row.local)


def _printed(name: str) -> Iterator[tuple[SocketPlace, str, int]]:
    """Yield place, inode and state of each line of the table (man 5 proc: /proc/net)."""
    for line in _lines(PROC / "net" / name):
        _, local, _, state, _, _, _, _, _, inode, *_ = line.split()
        address, _, port = local.rpartition(":")
        words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
        packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
        yield (int(port, 16), _plain(packed)), inode, int(state, 16)


def _plain(address: bytes) -> bytes:
    """Return an IPv4 address in its short form, and "any" of either family as nothing."""
    return address.removeprefix(MAPPED) if any(address) else b""


def _overlap(one: SocketPlace, other: SocketPlace) -> bool:
    """Tell whether a connection to one place may have come to the other."""
    return one[0] == other[0] and (one[1] == other[1] or not (one[1] and other[1]))


def _by_unix(own: set[str]) -> set[str]:
    """Return the inodes of all Unix sockets whose path is that of a listener of *own*."""
    lines = _lines(PROC / "net" / "unix")
    split = [line.split(None, 7) for line in lines if ACCEPTS in line]
    listening = {inode: path for _, _, _, _, _, _, inode, *path in split if inode in own}
    paths = {path[0] for path in listening.values() if path}
    if not paths:
        return set(listening)
    rest = [line.split(None, 7) for line in lines if line.endswith(tuple(paths))]
    return {*listening, *(one[6] for one in rest if one[7:] and one[7] in paths)}


def _sockets(pid: int) -> set[str]:
    """Return the inodes of a process's sockets; none if it has exited."""
    found: set[str] = set()
    try:
        with os.scandir(PROC / str(pid) / "fd") as entries:
            targets = [_target(entry.path) for entry in entries]
        found = {target[8:-1] for target in targets if target.startswith("socket:[")}
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def _target(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115 - hundreds of them, at each answer
    except FileNotFoundError:
        return ""


def _children(pid: int) -> set[int]:
    """Return the children of all threads of a process; none where the kernel does not tell."""
    found: set[int] = set()
    try:
        with os.scandir(PROC / str(pid) / "task") as tasks:
            for task in tasks:
                found.update(map(int, (Path(task.path) / "children").read_text("ascii").split()))
    except OSError:
        pass
    return found


def _command(pid: int) -> bytes:
    try:
        return (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()[1:]
    except OSError:
        return []
