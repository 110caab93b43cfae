"""Who holds a socket is read from all of /proc, once for everybody who asks at the same moment."""

import os
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from deregister_agent.kernel import pids
from deregister_agent.kernel.pids import Pid
from tests.servers.child import wait_until

Found = dict[int, frozenset[Pid]]


class SlowProc:
    """A /proc that takes its time: each scan waits until it is let go, or fails."""

    def __init__(self) -> None:
        self.scans: list[frozenset[int]] = []
        self.go = threading.Semaphore(0)
        self.error: OSError | None = None

    def read(self, inodes: Collection[int]) -> Found:
        self.scans.append(frozenset(inodes))
        assert self.go.acquire(timeout=30)
        if self.error is not None:
            raise self.error
        return {inode: frozenset({(inode, len(self.scans))}) for inode in inodes}


@pytest.fixture
def proc(monkeypatch: pytest.MonkeyPatch) -> SlowProc:
    slow = SlowProc()
    monkeypatch.setattr(pids, "_read_holders", slow.read)
    return slow


@pytest.fixture
def ask(proc: SlowProc) -> Iterator[Callable[[int], "Future[Found]"]]:
    """Give what asks for one inode on a thread of its own, and returns once it has asked."""
    with ThreadPoolExecutor(16) as pool:

        def one(inode: int) -> "Future[Found]":
            asks = _is_waiting if proc.scans else _is_scanned
            asked = pool.submit(pids.holders, {inode})
            wait_until(lambda: asks(proc, inode), f"{inode} is asked for")
            return asked

        try:
            yield one
        finally:
            proc.go.release(100)


def _is_scanned(proc: SlowProc, inode: int) -> bool:
    return any(inode in scan for scan in proc.scans)


def _is_waiting(proc: SlowProc, inode: int) -> bool:
    del proc
    following = pids._scans._next
    return following is not None and inode in following.wanted


def test_a_scan_serves_only_those_who_asked_before_it_began(
    proc: SlowProc, ask: Callable[[int], "Future[Found]"]
) -> None:
    """Whoever asks while a scan runs is told by the next one, together with the others."""
    early = ask(1)
    late = [ask(inode) for inode in (1, 2, 3)]
    proc.go.release()
    assert early.result(30) == {1: frozenset({(1, 1)})}
    assert not any(one.done() for one in late)
    proc.go.release()
    assert [one.result(30) for one in late] == [{n: frozenset({(n, 2)})} for n in (1, 2, 3)]
    assert proc.scans == [{1}, {1, 2, 3}]


def test_a_scan_that_fails_fails_for_all_and_no_longer(
    proc: SlowProc, ask: Callable[[int], "Future[Found]"]
) -> None:
    """Nobody is left waiting or told that a socket has no holder; the next one works."""
    proc.error = PermissionError(13, "Permission denied")
    asked = [ask(1), ask(2), ask(3)]
    proc.go.release(2)
    for one in asked:
        with pytest.raises(PermissionError):
            one.result(30)
    proc.error = None
    proc.go.release()
    assert pids.holders({4}) == {4: frozenset({(4, 3)})}


def test_many_ask_at_once() -> None:
    """Each is told of its own socket, however many ask together."""
    me = pids.find(os.getpid())
    sockets = [socket.socket() for _ in range(40)]
    try:
        inodes = [os.fstat(one.fileno()).st_ino for one in sockets]
        with ThreadPoolExecutor(40) as pool:
            found = list(pool.map(lambda inode: pids.holders({inode}), inodes))
        assert found == [{inode: frozenset({me})} for inode in inodes]
    finally:
        for one in sockets:
            one.close()


def test_nothing_is_read_for_nobody(proc: SlowProc) -> None:
    """Without a socket to ask for, /proc is left alone."""
    assert pids.holders(()) == {}
    assert proc.scans == []
