"""Processes that serve the same port as this one, whether they share its counts or not."""

import os
from collections.abc import Collection
from pathlib import Path

PROC = Path("/proc")
LISTEN = "0A"  # include/net/tcp_states.h
ACCEPTS = "00010000"  # __SO_ACCEPTCON, include/linux/net.h


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
    if not family:  # spares the kernel and the app the rest, which takes milliseconds
        return []
    tables = _tables()
    listening = _listening(tables)
    places = {listening[inode] for inode in _sockets(os.getpid()) if inode in listening}
    wanted = {inode for inode, place in listening.items() if place in places}
    if not wanted:
        return []
    wanted |= _accepted(tables, places)
    return sorted(pid for pid in family if _serves(pid, wanted))


def _serves(pid: int, wanted: set[str]) -> bool:
    try:
        return not wanted.isdisjoint(_sockets(pid))
    except PermissionError:
        return _command(pid) == _command(os.getpid())


def _tables() -> tuple[list[str], list[str]]:
    """Return what the kernel tells of TCP and of Unix sockets (man 5 proc: /proc/net)."""
    tcp = [line for name in ("tcp", "tcp6") for line in _lines(PROC / "net" / name)]
    return tcp, _lines(PROC / "net" / "unix")


def _listening(tables: tuple[list[str], list[str]]) -> dict[str, str]:
    """Return the inodes of listening sockets, and the place of each: its port, or its file."""
    found = {}
    for line in tables[0]:
        if f" {LISTEN} " in line:  # most lines of a busy host are not even split
            _, local, _, state, _, _, _, _, _, inode, *_ = line.split()
            if state == LISTEN:
                found[inode] = local.rpartition(":")[2]
    for line in tables[1]:
        _, _, _, flags, _, _, inode, *path = line.split(None, 7)
        if flags == ACCEPTS:
            found[inode] = path[0] if path else inode
    return found


def _accepted(tables: tuple[list[str], list[str]], places: set[str]) -> set[str]:
    """Return the inodes of the connections that were accepted at these places."""
    found = set()
    for line in tables[0]:
        if any(f":{place} " in line for place in places):
            _, local, _, _, _, _, _, _, _, inode, *_ = line.split()
            if local.rpartition(":")[2] in places:
                found.add(inode)
    for line in tables[1]:
        _, _, _, _, _, _, inode, *path = line.split(None, 7)
        if path and path[0] in places:
            found.add(inode)
    return found - {"0"}


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
