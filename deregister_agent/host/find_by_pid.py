"""Find the app's process by a pid that a pid file or systemd knows."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from deregister_agent.host import pids
from deregister_agent.host.clock import Clock
from deregister_agent.host.files import read_plain
from deregister_agent.host.forwarders import not_the_app
from deregister_agent.host.pids import Pid
from deregister_agent.host.relatives import Relatives, began_after, in_words
from deregister_agent.host.vacant_port import who_uses
from deregister_agent.model import Presence, Process


@dataclass(frozen=True, slots=True)
class PidWord:
    """What a source of pids says."""

    process: Pid | None
    certain: bool  # no other process can be the app
    note: str = ""
    unknown_name: bool = False  # the source knows nothing by this name, or no longer
    begins: bool = False  # whoever was there has ended, and the source starts another soon
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
            return self._nobody(word)
        known = was is not None and (bool(was.pids) or was.boot_id != boot)
        announced = was is not None and was.closed > 0
        certain = word.certain or (known and word.unknown_name) or (announced and word.begins)
        left = self._left(was, word) if was is not None and was.boot_id == boot else ""
        return Presence(known and certain, running if certain else None, word.note, left=left)

    def _nobody(self, word: PidWord) -> Presence:
        """Tell whether nobody at all is there, where none was seen and the source has none."""
        if word.others:
            note = f"{word.note}; of it there still runs {in_words(word.others)}"
            return Presence(exited=False, running=None, note=note)
        used = who_uses(self._address, self._port)
        return Presence(exited=False, running=None, note=used or word.note, nobody=not used)

    def _left(self, was: Process, word: PidWord) -> str:
        """Say who lives on of *was*, which has exited: its children, and the rest of its unit."""
        new = () if word.process is None else (word.process,)
        found = self._relatives.left(was.pids, new)
        rest = {one for one in word.others if all(one[1] < start for _, start in new)}
        every = {*found, *rest} - {*was.pids, *new}
        return in_words({one for one in every if not began_after(one, was)})

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
