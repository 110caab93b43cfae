"""
The board: what every process of one app has in hand, in memory that they share.

Each process writes only its own slot: how much work of each kind it has started
and finished. Both only ever grow, and whoever reads takes all the finished ones
first and all the started ones after. So a sum of zero means that there was a
moment between the two at which no process had anything in hand, even if work
wandered from one to another meanwhile.
"""

import itertools
import logging
import mmap
import os
import secrets
import time
import weakref
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import getpid
from pathlib import Path
from typing import Protocol

from deregister_agent.app import memory
from deregister_agent.app.keeper import keeper, mark
from deregister_agent.app.locks import RLock

KINDS = ("requests", "tasks", "messages", "websockets")
"""The kinds of work that are told apart."""

SLOTS = 512  # processes at one time; more make the answer "unknown", never wrong
WIDTH = 16  # cells of eight bytes in a slot; the first place is the header's
SIZE = (SLOTS + 1) * WIDTH * 8
LAYOUT = 0x776F726B0001  # "work", version 1

# Cells of the header.
MAGIC, MARK, WISH, BROKEN, USED, KEEPER, KEEPER_BORN, HELD = range(8)
# Cells of a slot.
PID, BORN, HOOKS, DONE, FAILED = range(5)
STARTED, FINISHED = 5, 5 + len(KINDS)
PROGRAM = FINISHED + len(KINDS)

_log = logging.getLogger(__name__)


class Joiner(Protocol):
    """What is told when a process counts or answers for the first time."""

    def watch(self) -> None:
        """Do what such a process has to."""
        ...


class Slot:
    """The cells of one process. A forked child sees by ``pid`` that the slot is its parent's."""

    __slots__ = ("cells", "index", "lock", "pid")

    def __init__(self, cells: memoryview, index: int) -> None:
        self.cells, self.index, self.pid = cells, index, getpid()
        # Reentrant: the collector may end a forgotten ticket while this thread holds it.
        self.lock = RLock()


class Ticket:
    """One piece of work that has started. ``end`` may be called again, and from any thread."""

    __slots__ = ("_finished", "_open", "_slot")

    def __init__(self, slot: Slot, finished: int) -> None:
        self._slot, self._finished, self._open = slot, finished, 1

    def end(self, *_: object) -> None:
        """Count the work as finished, once; only the process that began the work does so."""
        slot = self._slot
        if slot.pid == getpid():
            with slot.lock:
                slot.cells[self._finished] += self._open
                self._open = 0


@dataclass(frozen=True, slots=True)
class WorkTally:
    """What all processes together have in hand, have ever started, and who they are."""

    in_flight: dict[str, int]
    started: int
    pids: list[int]
    sound: bool = True  # in no process more was finished than started


class Board:
    """
    Shared memory with one slot for each process: anonymous, or in a file.

    Anonymous memory is shared with the children forked later; a file with every
    process that names it. A slot is given up only when its process has exited:
    the kernel has dropped the lock it held, and no such process is to be seen.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._fd = memory.anonymous(SIZE) if path is None else memory.in_file(path, SIZE)
        self._inode = os.fstat(self._fd).st_ino
        self._guard = RLock()
        self.cells = memoryview(mmap.mmap(self._fd, SIZE)).cast("q")
        self._keeper = keeper()
        with self.exclusive():
            self._prepare()
        self.creator = getpid()
        self.joiners: weakref.WeakSet[Joiner] = weakref.WeakSet()
        self.slot = self._kept = self._claim()

    def begin(self, kind: int) -> Ticket:
        """Count one more piece of work of KINDS[kind]. The caller must end the ticket."""
        slot = self.slot
        if slot.pid != getpid():  # forked by a server that runs no hooks, such as uWSGI
            slot = self.join()
        with slot.lock:
            slot.cells[STARTED + kind] += 1
        return Ticket(slot, FINISHED + kind)

    def join(self) -> Slot:
        """Make this process, if it was just forked, one that counts; its parent's work is not."""
        with self._guard:
            if self.slot.pid == getpid():
                return self.slot
            if self._kept.pid != getpid():
                self._kept = self._claim()
            self.slot = self._kept
        for joiner in list(self.joiners):
            joiner.watch()
        return self.slot

    def forked(self) -> None:
        """
        Keep a place after a fork, whatever locks the parent's other threads were holding.

        Others know the child by it. Whether it is a worker is seen when it counts or
        answers: it may be about to run another program, or to compute something.
        """
        self._guard = RLock()
        if self._kept.pid != getpid():
            self._kept = self._claim()

    def tally(self) -> WorkTally:
        """Read all slots: first what is finished, then what was started (see above)."""
        self.join()
        self.reap()
        finished = [self._counts(i, FINISHED) for i in range(self.cells[USED])]
        started = [self._counts(i, STARTED) for i in range(self.cells[USED])]
        finished += [[0] * len(KINDS)] * (len(started) - len(finished))
        totals = [sum(column) for column in zip([0] * len(KINDS), *started, strict=True)]
        done = [sum(column) for column in zip([0] * len(KINDS), *finished, strict=True)]
        in_flight = {k: s - f for k, s, f in zip(KINDS, totals, done, strict=True)}
        slots = zip(started, finished, strict=True)
        sound = all(s >= f for slot in slots for s, f in zip(*slot, strict=True))
        pids = dict.fromkeys(cells[PID] for cells in self.members())
        return WorkTally(in_flight, sum(totals), list(pids), sound)

    def members(self) -> Iterator[memoryview]:
        """Yield the cells of every slot that has a process; call reap() first."""
        for index in range(self.cells[USED]):
            cells = self._slot_cells(index)
            if cells[PID]:
                yield cells

    def reap(self) -> None:
        """Write off what processes had in hand that have exited since."""
        with self._guard:
            for index in range(self.cells[USED]):
                cells = self._slot_cells(index)
                if not cells[PID] or memory.is_own(cells[PID], cells[PROGRAM]):
                    continue
                mine = index in (self.slot.index, self._kept.index)
                if not mine and memory.take(self._fd, index + 1):
                    if cells[PID] and memory.exited(cells[PID], cells[BORN]):
                        _write_off(cells)
                    memory.release(self._fd, index + 1)

    @property
    def mark(self) -> str:
        """Return the id of this run of the app; when it changes, all of it had exited."""
        return f"{self.cells[MARK] & 0xFFFFFFFFFFFFFFFF:016x}"

    @property
    def broken(self) -> bool:
        """Whether some process could not join, so that its work is unknown."""
        return bool(self.cells[BROKEN])

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other threads, processes and interpreters from changing the header."""
        with self._guard:
            memory.wait(self._fd, 0)
            memory.wait_for_interpreters(self._fd)
            try:
                yield
            finally:
                memory.release_interpreters(self._fd)
                memory.release(self._fd, 0)

    def _prepare(self) -> None:
        """Begin a new run of the app, unless a process of the current run is still there."""
        if self.cells[MAGIC] not in (0, LAYOUT):
            raise ValueError(f"{self.path} is not a work file of this version; remove it")
        self.cells[MAGIC] = LAYOUT
        self.slot = self._kept = Slot(self.cells, -1)  # none yet: reap() must not spare any
        self.reap()
        kept = self._is_kept()
        if not any(self.members()) and not kept:
            self.cells[MARK] = self._new_mark()
            self.cells[WISH] = self.cells[BROKEN] = self.cells[HELD] = 0

    def _is_kept(self) -> bool:
        """Tell whether the last run goes on: all its workers have exited, not their master."""
        last = self.cells[KEEPER], self.cells[KEEPER_BORN]
        self.cells[KEEPER], self.cells[KEEPER_BORN] = self._keeper
        return last == self._keeper and last[0] != getpid()

    def _new_mark(self) -> int:
        """Return a mark: by its master and number for a lone worker without a file, else random."""
        if self.path is not None or self._keeper[0] == getpid():
            return int.from_bytes(secrets.token_bytes(8), "big", signed=True)
        # The next worker begins above what this one can have counted: the sum must not fall.
        first = self._slot_cells(0)
        first[STARTED] = first[FINISHED] = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
        return mark(self._keeper, next(_numbers))

    def _claim(self) -> Slot:
        """Take a free slot. Without one the board is broken: unknown, not zero."""
        try:
            if os.fstat(self._fd).st_ino == self._inode:
                with self.exclusive():
                    self.reap()
                    for index in range(SLOTS):
                        cells = self._slot_cells(index)
                        if not cells[PID] and memory.take(self._fd, index + 1):
                            return self._occupy(cells, index)
            reason = f"more than {SLOTS} processes, or its file was closed"
        except OSError as e:
            reason = str(e)
        self.cells[BROKEN] = 1
        _log.error(
            "cannot count the work of process %d (%s); unknown from now on", getpid(), reason
        )
        return Slot(memoryview(array("q", bytes(WIDTH * 8))), -1)

    def _occupy(self, cells: memoryview, index: int) -> Slot:
        cells[HOOKS] = cells[DONE] = cells[FAILED] = 0
        cells[BORN], cells[PROGRAM] = memory.born(getpid()), memory.execution()
        self.cells[USED] = max(self.cells[USED], index + 1)
        cells[PID] = getpid()
        return Slot(cells, index)

    def _slot_cells(self, index: int) -> memoryview:
        return self.cells[(index + 1) * WIDTH : (index + 2) * WIDTH]

    def _counts(self, index: int, first: int) -> list[int]:
        at = (index + 1) * WIDTH + first
        return self.cells[at : at + len(KINDS)].tolist()


def _write_off(cells: memoryview) -> None:
    """Free a slot. Its counters stay: they may only grow, and the total must not fall."""
    for kind in range(len(KINDS)):
        cells[FINISHED + kind] = cells[STARTED + kind]
    cells[PID] = 0


_numbers = itertools.count()  # of the boards without a file: which one of its app a board is
_files: dict[tuple[int, int], Board] = {}
_opening = RLock()


def open_board(path: Path | None) -> Board:
    """Return the board of a file, one for each file and interpreter, or a new anonymous one."""
    if path is None:
        board = Board()
        weakref.finalize(board, os.close, board._fd)  # noqa: SLF001 - this module's own
        return board
    # Never closed: closing any descriptor of a file drops the locks on it (man 2 fcntl).
    with _opening:
        known = _files.get(_identity(path))
        if known is not None:
            return known
        board = Board(path.resolve())
        return _files.setdefault(_identity(path), board)


def _identity(path: Path) -> tuple[int, int]:
    """Return which file *path* leads to, by whatever name; (0, 0) if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_dev, found.st_ino
