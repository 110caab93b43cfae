"""Find the app's process by a pid that a pid file or systemd knows."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from deregister_agent.host import pids
from deregister_agent.host.clock import Clock
from deregister_agent.host.files import read_plain
from deregister_agent.host.forwarders import not_the_app
from deregister_agent.host.pids import Pid
from deregister_agent.host.programs import ProgramError, Run, completed, plain_environment
from deregister_agent.host.relatives import Relatives, began_after, in_cgroup, in_words
from deregister_agent.host.vacant_port import who_uses
from deregister_agent.model import Presence, Process


@dataclass(frozen=True, slots=True)
class PidWord:
    """What a source of pids says."""

    process: Pid | None
    certain: bool  # no other process can be the app
    note: str = ""
    unknown_name: bool = False  # the source knows nothing by this name, or no longer
    others: frozenset[Pid] = frozenset()  # who else belongs to it: the rest of a unit


class PidSource(Protocol):
    """A source that knows the app's pid."""

    def ask(self) -> PidWord:
        """Say which process the app is now. Raises nothing."""
        ...


class PidFinder:
    """
    The app is the one pid that a source knows, and its children.

    They are not signalled and do not keep the process from having exited, but who of
    them lives on then is told.
    """

    def __init__(self, source: PidSource, clock: Clock, address: str, port: int) -> None:
        self._source, self._clock = source, clock
        self._address, self._port = address, port
        self._relatives = Relatives()

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
                self._relatives.learn(alive)
                return Presence(exited=False, running=replace(was, pids=tuple(sorted(alive))))
        word = self._source.ask()
        running = None if word.process is None else Process(boot, (word.process,), namespace=here)
        if was is None and word.certain and running is None:
            used = who_uses(self._address, self._port)
            return Presence(exited=False, running=None, note=used or word.note, nobody=not used)
        known = was is not None and (bool(was.pids) or was.boot_id != boot)
        certain = word.certain or (known and word.unknown_name)
        left = self._left(was, word) if was is not None and was.boot_id == boot else ""
        return Presence(known and certain, running if certain else None, word.note, left=left)

    def _left(self, was: Process, word: PidWord) -> str:
        """Say who lives on of *was*, which has exited: its children, and the rest of its unit."""
        new = () if word.process is None else (word.process,)
        found = self._relatives.left(was.pids, new)
        rest = () if word.process is not None else word.others - frozenset(was.pids)
        return in_words({one for one in (*found, *rest) if not began_after(one, was)})

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
            text = read_plain(self._path, _MOST).decode("ascii").strip()
            written = self._path.stat().st_mtime
        except FileNotFoundError:
            return PidWord(None, certain=True, note=f"pid file {self._path} does not exist")
        except (OSError, UnicodeDecodeError) as e:
            return PidWord(None, certain=False, note=f"cannot read pid file {self._path}: {e}")
        if not text.isdecimal() or not 1 <= int(text[:19]) < _NO_PID:
            note = f"pid file {self._path} holds no pid: {text[:40]!r}"
            return PidWord(None, certain=False, note=note)
        return self._judged(int(text), written)

    def _judged(self, pid: int, written: float) -> PidWord:
        """Say who *pid* is, which was *written* down at that time by the wall clock."""
        process = pids.find(pid)
        if why := _of_another_namespace(pid):
            return PidWord(None, certain=False, note=f"pid file {self._path} says {pid}: {why}")
        if process is None:
            return PidWord(
                None,
                certain=True,
                note=f"pid file {self._path} is stale: no process {pid} is running",
            )
        if pids.started(process) > written + _SLACK:
            note = (
                f"pid file {self._path} is stale: process {pid} started after it was written, "
                "so the pid is another program's now"
            )
            return PidWord(None, certain=True, note=note)
        return PidWord(process, certain=True)


def _of_another_namespace(pid: int) -> str:
    """Say why a number must have been written where it meant another process; empty if not."""
    written = "it was written in another pid namespace (a container), where numbers mean others"
    if pid == 1:
        return f"that is init, or the first process of a container: {written}"
    try:
        shown = pids.read_stat(pid)
    except OSError:
        return ""
    if shown is not None and _KERNEL in {pid, shown.parent} and pids.name(_KERNEL) == "kthreadd":
        return f"that is a thread of the kernel: {written}"
    why = not_the_app(pid)
    return f"{why}, and not the app: {written}" if why else ""


_MOST = 4096  # bytes of a pid file
_KERNEL = 2  # the parent of the kernel's threads, on the host itself
_NO_PID = 2**22 + 1  # PID_MAX_LIMIT (linux/threads.h)
_SLACK = 2.0  # seconds: the wall clock may be slewed, and ticks are coarse


class SystemdUnit:
    """What systemd says of a unit (man 5 org.freedesktop.systemd1)."""

    def __init__(self, unit: str, systemctl: Sequence[str], timeout: float) -> None:
        self._unit, self._systemctl, self._timeout = unit, systemctl, timeout
        self._said = PidWord(None, certain=False)
        self._cgroup = ""  # of the unit, while systemd has one for it
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
        wanted = "MainPID,ActiveState,LoadState,ControlGroup"
        command = (*self._systemctl, "show", "-p", wanted, unit)
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
        if cgroup := said.get("ControlGroup", ""):
            self._cgroup = cgroup
        load = said.get("LoadState", "loaded")
        if load != "loaded" and not int(pid) and state == "inactive":
            note = f"systemd knows no unit {unit} (it is {load}): correct process.unit"
            return PidWord(None, certain=False, note=note, unknown_name=True)
        return replace(_of_unit(unit, int(pid), state), others=in_cgroup(self._cgroup))


_CACHED = 0.5  # seconds
_USERS_MANAGER = ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")  # where systemctl --user finds it


_CONTAINERS = "name the app by a pid file of its own, or by what a probe says of it"


def _of_unit(unit: str, pid: int, state: str) -> PidWord:
    """
    Judge what systemd said.

    Without a main process, only "inactive" and "failed" mean that nobody is there:
    "deactivating" may have other processes of the unit at work, "activating" may be
    about to start one, "active" may be a unit whose main process systemd cannot tell.
    """
    process = pids.find(pid) if pid else None
    if process is not None and (why := not_the_app(pid)):
        note = f"the main process of unit {unit} is not the app: {why}; {_CONTAINERS}"
        return PidWord(None, certain=False, note=note)
    if process is not None:
        return PidWord(process, certain=True)
    return PidWord(
        None,
        certain=not pid and state in {"inactive", "failed"},
        note=f"unit {unit} is {state or 'in an unknown state'} and has no main process",
    )
