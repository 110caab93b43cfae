"""Find the app's process by a pid that a pid file or systemd knows."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from deregister_agent.host import pids
from deregister_agent.host.clock import Clock
from deregister_agent.host.pids import Pid
from deregister_agent.host.programs import ProgramError, Run, completed, plain_environment
from deregister_agent.host.vacant_port import who_uses
from deregister_agent.model import Presence, Process


@dataclass(frozen=True, slots=True)
class PidWord:
    """What a source of pids says."""

    process: Pid | None
    certain: bool  # no other process can be the app
    note: str = ""


class PidSource(Protocol):
    """A source that knows the app's pid."""

    def ask(self) -> PidWord:
        """Say which process the app is now. Raises nothing."""
        ...


class PidFinder:
    """The app is the one pid that a source knows. Its children are not watched."""

    def __init__(self, source: PidSource, clock: Clock, address: str, port: int) -> None:
        self._source, self._clock = source, clock
        self._address, self._port = address, port

    def heard(self, mark: str) -> None:
        """Ignore what the app says of itself."""
        del mark

    def look(self, was: Process | None) -> Presence:
        """Tell whether *was* has exited and who is in its place now."""
        boot, here = self._clock.boot_id(), pids.namespace()
        if was is not None and was.boot_id == boot:
            if pids.elsewhere(was.pids, was.namespace):
                return Presence(exited=False, running=None, note=pids.ELSEWHERE)
            if alive := pids.living(was.pids):
                return Presence(exited=False, running=replace(was, pids=tuple(sorted(alive))))
        word = self._source.ask()
        running = None if word.process is None else Process(boot, (word.process,), namespace=here)
        if was is None and word.certain and running is None:
            used = who_uses(self._address, self._port)
            return Presence(exited=False, running=None, note=used or word.note, nobody=not used)
        known = was is not None and (bool(was.pids) or was.boot_id != boot)
        return Presence(known and word.certain, running if word.certain else None, word.note)

    def wait_exit(self, was: Process, timeout: float) -> None:
        """Block until *was* may have exited, for at most *timeout* seconds."""
        if was.boot_id != self._clock.boot_id():
            return
        if pids.living(was.pids):
            pids.wait(was.pids, timeout)
        else:
            time.sleep(min(timeout, _REST))  # its source may not have noticed yet


_REST = 0.1


class PidFile:
    """A file with a pid in it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ask(self) -> PidWord:
        """Say whose pid stands in the file."""
        try:
            text = self._path.read_text("ascii").strip()
            written = self._path.stat().st_mtime
        except FileNotFoundError:
            return PidWord(None, certain=True, note=f"pid file {self._path} does not exist")
        except (OSError, UnicodeDecodeError) as e:
            return PidWord(None, certain=False, note=f"cannot read pid file {self._path}: {e}")
        if not text.isdecimal() or not 1 <= int(text[:19]) < _NO_PID:
            return PidWord(
                None, certain=False, note=f"pid file {self._path} holds no pid: {text[:40]!r}"
            )
        process = pids.find(int(text))
        if process is None:
            return PidWord(
                None,
                certain=True,
                note=f"pid file {self._path} is stale: no process {text} is running",
            )
        if pids.started(process) > written + _SLACK:
            note = (
                f"pid file {self._path} is stale: process {text} started after it was written, "
                "so the pid is another program's now"
            )
            return PidWord(None, certain=True, note=note)
        return PidWord(process, certain=True)


_NO_PID = 2**22 + 1  # PID_MAX_LIMIT (linux/threads.h)
_SLACK = 2.0  # seconds: the wall clock may be slewed, and ticks are coarse


class SystemdUnit:
    """What systemd says of a unit (man 5 org.freedesktop.systemd1)."""

    def __init__(self, unit: str, systemctl: Sequence[str], timeout: float) -> None:
        self._unit, self._systemctl, self._timeout = unit, systemctl, timeout
        self._said = PidWord(None, certain=False)
        self._until = 0.0
        self._one_at_a_time = threading.Lock()

    def ask(self) -> PidWord:
        """Return the unit's main process, as systemd said at most half a second ago."""
        with self._one_at_a_time:
            process = self._said.process
            if time.monotonic() >= self._until or (process and not pids.is_alive(process)):
                self._said = self._ask()
                self._until = time.monotonic() + _CACHED
            return self._said

    def _ask(self) -> PidWord:
        unit, program = self._unit, self._systemctl[0]
        command = (*self._systemctl, "show", "-p", "MainPID,ActiveState", unit)
        try:
            told = completed(Run(command, plain_environment(*_USERS_MANAGER)), self._timeout)
        except ProgramError as e:
            return PidWord(None, certain=False, note=f"{program} says nothing of unit {unit}: {e}")
        lines = told.output.decode("utf-8", "replace").splitlines()
        said = dict(line.split("=", 1) for line in lines if "=" in line)
        pid, state = said.get("MainPID", ""), said.get("ActiveState", "")
        if told.status or not pid.isdecimal():
            return PidWord(
                None, certain=False, note=f"{program} says nothing of unit {unit}: {told.why}"
            )
        return _of_unit(unit, int(pid), state)


_CACHED = 0.5  # seconds
_USERS_MANAGER = ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")  # where systemctl --user finds it


def _of_unit(unit: str, pid: int, state: str) -> PidWord:
    """
    Judge what systemd said.

    Without a main process, only "inactive" and "failed" mean that nobody is there:
    "deactivating" may have other processes of the unit at work, "activating" may be
    about to start one, "active" may be a unit whose main process systemd cannot tell.
    """
    process = pids.find(pid) if pid else None
    if process is not None:
        return PidWord(process, certain=True)
    return PidWord(
        None,
        certain=not pid and state in {"inactive", "failed"},
        note=f"unit {unit} is {state or 'in an unknown state'} and has no main process",
    )
