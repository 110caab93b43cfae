"""Hooks that pause and resume message consumers, in every process of the app."""

import logging
import os
import threading
from typing import Any, Protocol

from deregister_agent.app.board import DONE, FAILED, HELD, HOOKS, PID, WISH, Board
from deregister_agent.app.hook_call import HookCall
from deregister_agent.app.intake import Intake

POLL = 0.1  # seconds after which a process notices what another was asked

_log = logging.getLogger(__name__)


class Hook(Protocol):
    """Whatever can be called without arguments."""

    def __call__(self) -> Any:
        """Pause, or resume, and return when that is done, or what has to be waited for."""
        ...


class Hooks:
    """
    What the processes of one app were asked for, and which have done it.

    The wish is a number on the board: even is started, odd is stopped. It only
    grows. Each process with hooks has one thread that runs them, one at a time,
    when its own last number differs from the wish in that; so asking twice for
    the same calls nothing twice.

    While it is stopped the app lets connections go, unless whoever has asked for
    that stop says so later: then HELD is the number of the stop. A process with an
    older version of this library leaves that cell alone, and so lets go at once.
    """

    def __init__(self, board: Board, timeout: float) -> None:
        self._board, self._timeout = board, timeout
        self._hooks: dict[bool, list[HookCall]] = {True: [], False: []}
        self._intakes = list[Intake]()
        self._asked = threading.Event()
        self._watcher = 0  # the process that has a thread for them
        board.joiners.add(self)

    def add(self, hook: Hook, *, stop: bool) -> None:
        """Call *hook* on stop, or on start. What it returns is awaited in the current loop."""
        self._hooks[stop].append(HookCall(hook, self._timeout))
        self.watch()

    def add_intake(self) -> Intake:
        """Return an intake that is shut from the moment of a stop until that of a start."""
        intake = Intake(self.shut)
        self._intakes.append(intake)
        self.watch()
        return intake

    def forked(self) -> None:
        """Forget, in a child, who was taking something in its parent."""
        for intake in self._intakes:
            intake.forked()

    def watch(self) -> None:
        """
        Start the thread of this process, if it has hooks and no thread.

        A forked child calls this when it first counts or answers, or has added a hook of its
        own: the hooks of others must not run in a child that computes something, say.
        """
        if self._has_any() and self._watcher != os.getpid():
            self._watcher = os.getpid()
            self._asked = threading.Event()
            self._board.join().cells[HOOKS] = 1
            threading.Thread(target=self._watch, name="work-hooks", daemon=True).start()

    def ask(self, *, stop: bool, hold: bool = False) -> None:
        """
        Wish a stop or a start of every process; a wish that failed somewhere is repeated.

        *hold*: the stop keeps connections until let_go(), or a stop that does not hold.
        """
        self._board.join()
        with self._board.exclusive():
            wish = self._board.cells[WISH]
            if stop != bool(wish % 2):
                wish += 1
            elif any(cells[FAILED] == wish for cells in self._concerned()):
                wish += 2
            # A stop that is repeated takes back nothing; and whoever reads between these two
            # must not see the new wish beside the old word on connections.
            if stop:
                self._board.cells[HELD] = wish if hold and not self.letting_go() else 0
            self._board.cells[WISH] = wish
        self._asked.set()

    def let_go(self) -> bool:
        """Let connections go from now until the start; False, and nothing, unless stopped."""
        with self._board.exclusive():
            if not self._board.cells[WISH] % 2:
                return False
            self._board.cells[HELD] = 0
        return True

    def letting_go(self) -> bool:
        """Tell whether each answer says that its connection ends. Asked for each of them."""
        cells = self._board.cells
        wish = cells[WISH]
        return wish % 2 == 1 and cells[HELD] < wish

    def shut(self) -> bool:
        """Tell whether nobody may take anything now. Whoever asks is a process to be waited for."""
        self.watch()
        return bool(self._board.cells[WISH] % 2)

    def settled(self) -> bool:
        """Tell whether in every process the hooks have returned, or failed."""
        wish = self._board.cells[WISH]
        return all(wish in (cells[DONE], cells[FAILED]) for cells in self._concerned())

    def stopped(self) -> bool:
        """Tell whether every process was asked to stop and has."""
        wish = self._board.cells[WISH]
        return bool(wish % 2) and all(cells[DONE] == wish for cells in self._concerned())

    def trouble(self) -> str | None:
        """Name the processes whose hooks have failed."""
        wish = self._board.cells[WISH]
        pids = [str(cells[PID]) for cells in self._concerned() if cells[FAILED] == wish]
        return f"a hook failed in process {', '.join(pids)}; see the app's log" if pids else None

    def _concerned(self) -> list[memoryview]:
        self._board.join()  # whoever answers is a worker, with the hooks of one
        self._board.reap()
        return [cells for cells in self._board.members() if cells[HOOKS]]

    def _has_any(self) -> bool:
        return bool(self._intakes) or any(self._hooks.values())

    def _watch(self) -> None:
        cells = self._board.slot.cells
        while True:
            wish = self._board.cells[WISH]
            if wish not in (cells[DONE], cells[FAILED]):
                self._follow(wish, cells)
            self._asked.wait(POLL)
            self._asked.clear()

    def _follow(self, wish: int, cells: memoryview) -> None:
        stop = bool(wish % 2)
        try:
            if stop != bool(cells[DONE] % 2) or cells[FAILED] > cells[DONE]:
                for hook in self._hooks[stop]:
                    hook()
            # For each stop: a start before it that no hook has seen has let somebody in.
            for intake in self._intakes if stop else ():
                intake.wait_empty()
        # The app's own code may raise anything, sys.exit() too; the asker is told.
        except BaseException:  # noqa: BLE001 - and the thread must live on for the next wish
            _log.exception("a hook of on_%s failed", "stop" if stop else "start")
            cells[FAILED] = wish
        else:
            cells[DONE] = wish
