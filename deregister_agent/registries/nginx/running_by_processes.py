"""How it is known what Nginx runs: by its processes, or over HTTP where they cannot be seen."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deregister_agent.registries.nginx.conf import Conf
from deregister_agent.registries.nginx.foreign_workers import with_relatives
from deregister_agent.registries.nginx.processes import POLL, ControlError, Master, Worker, Workers
from deregister_agent.registries.nginx.reload import reload
from deregister_agent.registries.nginx.seen import check_seen

_DOUBT = 0.015  # seconds: file times are up to one timer tick (0.01 at most) behind


@dataclass(frozen=True, slots=True)
class Seen:
    """What accepts clients, and what only finishes what it has, as far as that can be seen."""

    ids: frozenset[str]  # the names of what accepts clients
    began: float | None = None  # when the last of that started, by CLOCK_BOOTTIME
    retiring: tuple[Worker, ...] = ()


class Running(Protocol):
    """The configuration that is in use, which need not be the one on disk."""

    def check(self, conf: Conf, edited: Iterable[Path]) -> None:
        """Raise ControlError if it could never be proved that these files are loaded."""
        ...

    def seen(self, until: float) -> Seen:
        """Tell what accepts clients now, no reload being under way. Raises ControlError."""
        ...

    def alive(self) -> frozenset[str] | None:
        """Name what still exists, retired or not; None where that cannot be seen."""
        ...

    def loaded_after(self, ids: frozenset[str], changed: float, *, strictly: bool) -> bool:
        """
        Tell whether these began after *changed* (wall clock), going by time alone.

        *strictly*: beyond doubt; otherwise only that they did not clearly begin before.
        """
        ...

    def reload(self, until: float) -> frozenset[str]:
        """Load what is on disk, and name what runs it. Raises ControlError if it does not."""
        ...


@dataclass(frozen=True, slots=True)
class ByProcesses:
    """An Nginx whose processes can be seen."""

    pid_file: Path
    command: tuple[str, ...]
    error_log: Path | None

    def check(self, conf: Conf, edited: Iterable[Path]) -> None:
        """Refuse files that are not those that Nginx reads, as far as that can be seen."""
        check_seen(Master(self.pid_file), conf.layout, edited)

    def seen(self, until: float) -> Seen:
        """Name all workers, those of masters before it included."""
        workers = self._workers(until)
        ids = frozenset(worker.id for worker in workers.active)
        began = max(worker.started for worker in workers.active)
        return Seen(ids, began, workers.retiring)

    def _workers(self, until: float) -> Workers:
        master = Master(self.pid_file)
        while True:
            master.wait_idle(until)
            workers = master.workers()
            if workers.active and not workers.unnamed:
                return with_relatives(master, workers)
            if time.monotonic() >= until:
                raise ControlError(f"nginx (master {master.pid}) has no workers")
            time.sleep(POLL)

    def alive(self) -> frozenset[str]:
        """Name all workers."""
        return Master(self.pid_file).workers().ids

    def loaded_after(self, ids: frozenset[str], changed: float, *, strictly: bool) -> bool:
        """
        Tell whether these workers started after *changed*.

        Good for changes by others, which reload after they have written. A reload that
        had read the old file when the new one came, or a step of the wall clock, would
        deceive it; for its own changes the agent goes by its record instead.
        """
        boot = changed - (time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))
        seen = Master(self.pid_file).workers()
        starts = [w.started for w in (*seen.active, *seen.retiring) if w.id in ids]
        after = boot + (_DOUBT if strictly else -_DOUBT)
        return len(starts) == len(ids) and all(start > after for start in starts)

    def reload(self, until: float) -> frozenset[str]:
        """Reload, and name the new workers."""
        now = reload(Master(self.pid_file), self.command, self.error_log, until)
        return frozenset(worker.id for worker in now.active)
