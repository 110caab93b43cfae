"""
The running Nginx: its workers, and whether it reads the files that the agent edits.

In a container it may not. A file that is mounted there by itself stays as it was when the
agent replaces the file: Nginx then loads the old text, again and again, without a word.
"""

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from os.path import samestat
from pathlib import Path

from deregister_agent.registries.nginx.conf import ConfPaths
from deregister_agent.registries.nginx.foreign_workers import with_foreign
from deregister_agent.registries.nginx.main_file import main_file, seen_by
from deregister_agent.registries.nginx.processes import POLL, Master, NginxError, Workers
from deregister_agent.registries.nginx.reload import reload

_DOUBT = 0.015  # seconds: file times are up to one timer tick (0.01 at most) behind


@dataclass(frozen=True, slots=True)
class RunningNginx:
    """The Nginx that a pid file names, whose configuration need not be the one on disk."""

    pid_file: Path
    command: tuple[str, ...]  # asks for a reload
    error_log: Path | None

    def check(self, paths: ConfPaths, edited: Iterable[Path]) -> None:
        """
        Raise NginxError if Nginx has another file in the place of an edited or the main file.

        Files that cannot be seen, because the agent is another user or Nginx has them at
        another path, are let pass.
        """
        master = Master(self.pid_file)
        for path in edited:
            inside = path.relative_to(paths.root) if path.is_relative_to(paths.root) else path
            if _differ(seen_by(master, inside), path):
                raise NginxError(
                    f"nginx (master {master.pid}) reads another {path} than this one: where it is "
                    "mounted by itself into a container, mount its folder instead"
                )
        with suppress(OSError, ValueError):
            self._check_main(master, paths.main)

    def doubt(self, main: Path) -> str:
        """
        Say why Nginx may have been started with another file than *main*; empty if it was not.

        Raises NginxError where Nginx is not running.
        """
        master = Master(self.pid_file)
        try:
            self._check_main(master, main)
        except OSError as e:
            why = f"{e.filename}: {e.strerror}"
        except ValueError as e:
            why = str(e)
        except NginxError as e:
            return str(e)
        else:
            return ""
        return (
            f"it cannot be seen which file nginx (master {master.pid}) was started with ({why}): "
            f"make sure that it is {main}"
        )

    def _check_main(self, master: Master, main: Path) -> None:
        named, reached = main_file(master)
        if _differ(reached, main):
            raise NginxError(
                f"nginx (master {master.pid}) was started with {named} and not with "
                f"{main}: set config, or pid_file, to what belongs together"
            )

    def workers(self, until: float) -> Workers:
        """
        Return all workers, those of masters before this one included, with no reload under way.

        Raises NginxError when there are none at *until*, or another master's workers serve too.
        """
        master = Master(self.pid_file)
        while True:
            master.wait_idle(until)
            workers = master.workers()
            if workers.active and not workers.unnamed:
                return with_foreign(master, workers)
            if time.monotonic() >= until:
                raise NginxError(f"nginx (master {master.pid}) has no workers")
            time.sleep(POLL)

    def alive(self) -> frozenset[str]:
        """Return the ids of all the master's workers, retiring or not."""
        return Master(self.pid_file).workers().ids

    def loaded_after(self, ids: frozenset[str], changed: float, *, strictly: bool) -> bool:
        """
        Tell whether these workers began after *changed* (wall clock), going by time alone.

        *strictly*: beyond doubt; otherwise only that they did not clearly begin before.
        Good for changes by others, which reload after they have written. A reload that
        had read the old file when the new file came, or a step of the wall clock, would
        deceive this test; for its own changes the agent goes by its record instead.
        """
        boot = changed - (time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))
        seen = Master(self.pid_file).workers()
        starts = [w.started for w in (*seen.active, *seen.retiring) if w.id in ids]
        after = boot + (_DOUBT if strictly else -_DOUBT)
        return len(starts) == len(ids) and all(start > after for start in starts)

    def reload(self, until: float) -> frozenset[str]:
        """Load what is on disk, and return the ids of the new workers. Raises NginxError."""
        return reload(Master(self.pid_file), self.command, self.error_log, until).active_ids


def _differ(theirs: Path, ours: Path) -> bool:
    """Tell whether these are two files, and not one that somebody replaced between two looks."""
    try:
        while True:
            before, there, after = ours.stat(), theirs.stat(), ours.stat()
            if (before.st_ino, before.st_ctime_ns) == (after.st_ino, after.st_ctime_ns):
                return not samestat(before, there)
    except OSError:
        return False
