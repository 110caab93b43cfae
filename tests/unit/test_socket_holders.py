"""Who holds a socket is read from all of /proc, once for everybody who asks at the same moment."""

import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from deregister_agent.host import pids, socket_holders
from deregister_agent.host.pids import Pid
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
    monkeypatch.setattr(socket_holders, "_read_holders", slow.read)
    monkeypatch.setattr(socket_holders, "_scans", socket_holders._Scans())
    return slow


@pytest.fixture
def ask(proc: SlowProc) -> Iterator[Callable[[int], "Future[Found]"]]:
    """Give what asks for one inode on a thread of its own, and returns once it has asked."""
    with ThreadPoolExecutor(16) as pool:

        def one(inode: int) -> "Future[Found]":
            first, before = not proc.scans, time.monotonic()
            asked = pool.submit(socket_holders.holders, {inode})
            wait_until(lambda: _is_asked_since(inode, before), f"{inode} is asked for")
            wait_until(lambda: not first or proc.scans, "the first scan has begun")
            return asked

        try:
            yield one
        finally:
            proc.go.release(100)


def _is_asked_since(inode: int, before: float) -> bool:
    return socket_holders._scans._asked.get(inode, 0.0) > before


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
    assert socket_holders.holders({4}) == {4: frozenset({(4, 3)})}


def test_many_ask_at_once() -> None:
    """Each is told of its own socket, however many ask together."""
    me = pids.find(os.getpid())
    sockets = [socket.socket() for _ in range(40)]
    try:
        inodes = [os.fstat(one.fileno()).st_ino for one in sockets]
        with ThreadPoolExecutor(40) as pool:
            found = list(pool.map(lambda inode: socket_holders.holders({inode}), inodes))
        assert found == [{inode: frozenset({me})} for inode in inodes]
    finally:
        for one in sockets:
            one.close()


def test_nothing_is_read_for_nobody(proc: SlowProc) -> None:
    """Without a socket to ask for, /proc is left alone."""
    assert socket_holders.holders(()) == {}
    assert proc.scans == []


def test_a_scan_of_not_long_ago_serves_those_who_take_it(proc: SlowProc) -> None:
    """One scan is enough for all who look now and then; whoever asks for now gets another."""
    proc.go.release(3)
    first, began, _ = socket_holders.recent_holders({1}, 0.0)
    assert socket_holders.recent_holders({1}, 60.0)[:2] == (first, began)
    assert socket_holders.holders({1}) == {1: frozenset({(1, 2)})}
    assert socket_holders.recent_holders({1}, 60.0)[0] == {1: frozenset({(1, 2)})}
    assert socket_holders.recent_holders({1}, 0.0)[0] == {1: frozenset({(1, 3)})}


def test_a_scan_that_is_too_old_serves_nobody(
    proc: SlowProc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is told is never older than what was asked for."""
    proc.go.release(3)
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    socket_holders.recent_holders({1}, 1.0)
    clock[0] += 0.9
    socket_holders.recent_holders({1}, 1.0)
    assert len(proc.scans) == 1
    clock[0] += 0.2
    socket_holders.recent_holders({1}, 1.0)
    assert len(proc.scans) == 2


def test_a_scan_shows_what_was_asked_for_not_long_ago(
    proc: SlowProc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who come by turns share scans too; nobody is told of a socket that was not in it."""
    proc.go.release(4)
    for inode in (1, 2):
        socket_holders.recent_holders({inode}, 60.0)
    assert proc.scans == [{1}, {1, 2}]
    socket_holders.recent_holders({1}, 60.0)
    socket_holders.holders({3})
    assert proc.scans[2] == {1, 2, 3}
    monkeypatch.setattr(socket_holders, "_ASKED_AGAIN", 0.0)
    socket_holders.holders({4})
    assert proc.scans[3] == {4}, "the others are nobody's any more"


def test_a_scan_that_failed_serves_nobody_later(proc: SlowProc) -> None:
    """An error is not remembered as an empty answer."""
    proc.go.release(2)
    proc.error = PermissionError(13, "Permission denied")
    with pytest.raises(PermissionError):
        socket_holders.recent_holders({1}, 60.0)
    proc.error = None
    assert socket_holders.recent_holders({1}, 60.0)[0] == {1: frozenset({(1, 2)})}
