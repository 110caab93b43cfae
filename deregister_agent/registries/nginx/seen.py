"""
Make sure that Nginx reads the very files that the agent edits.

In a container it may not. A file that is mounted there by itself stays what it was when
the agent replaces it: Nginx then loads the old one, again and again, without a word.
"""

import re
from collections.abc import Iterable
from os.path import samestat
from pathlib import Path

from deregister_agent.registries.nginx.conf import Layout
from deregister_agent.registries.nginx.processes import ControlError, Master

_CONFIG = re.compile(r" -c ?(/\S+)")


def check_seen(master: Master, layout: Layout, edited: Iterable[Path]) -> None:
    """
    Raise ControlError if Nginx has another file where one of these is.

    What cannot be seen, because the agent is another user or Nginx has it at another
    path, is let pass.
    """
    for path in edited:
        inside = path
        if path.is_relative_to(layout.root):
            inside = path.relative_to(layout.root)
        if _differ(_view(master, inside), path):
            raise ControlError(
                f"nginx (master {master.pid}) reads another {path} than this one: where it is "
                "mounted by itself into a container, mount its folder instead"
            )
    if (given := _CONFIG.search(master.title)) and _differ(_view(master, given[1]), layout.main):
        raise ControlError(
            f"nginx (master {master.pid}) was started with {given[1]} and not with {layout.main}: "
            "set config, or pid_file, to what belongs together"
        )


def _view(master: Master, path: Path | str) -> Path:
    """Return the path by which what that process has at *path* can be reached (man 5 proc)."""
    return Path(f"/proc/{master.pid}/root", str(path).lstrip("/"))


def _differ(theirs: Path, ours: Path) -> bool:
    """Tell whether these are two files, and not one that somebody replaced between two looks."""
    try:
        while True:
            before, there, after = ours.stat(), theirs.stat(), ours.stat()
            if (before.st_ino, before.st_ctime_ns) == (after.st_ino, after.st_ctime_ns):
                return not samestat(before, there)
    except OSError:
        return False
