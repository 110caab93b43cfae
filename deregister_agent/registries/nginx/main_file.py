"""
Which configuration file a master was started with, whatever its command line says.

``-c`` is relative to the prefix, the prefix of ``-p`` to the folder where the master was
started, and what is not given was set when the program was built (ngx_process_options()).
"""

import os
import re
from pathlib import Path

from deregister_agent.registries.nginx.processes import Master
from deregister_agent.registries.nginx.titles import options_of

_BUILT_WITH = re.compile(rb"configure arguments:([^\0\n]*)")
_OPTION = re.compile(rb"""--(prefix|conf-path)=(?:'([^']*)'|"([^"]*)"|(\S*))""")
_DEFAULTS = {"prefix": "/usr/local/nginx", "conf-path": "conf/nginx.conf"}  # auto/options


def main_file(master: Master) -> tuple[str, Path]:
    """
    Return the main file's path as Nginx has it, and the path by which it is reached from here.

    Raises OSError where this user may not see that, and ValueError for a program that does
    not say how it was built.
    """
    options = options_of(master.command)
    named, prefix = options.get("c", ""), options.get("p", "")
    if not named.startswith("/") and not (named and prefix):
        built = _built_with(Path(f"/proc/{master.pid}/exe"))
        named, prefix = named or built["conf-path"], prefix or built["prefix"]
    path = named if named.startswith("/") else f"{prefix.rstrip('/') or '/'}/{named}"
    if path.startswith("/"):
        return path, seen_by(master, path)
    folder = Path(f"/proc/{master.pid}/cwd")
    return f"{folder.readlink()}/{path}", folder / path


def seen_by(master: Master, path: Path | str) -> Path:
    """Return the path by which the file that the master has at *path* is reached (man 5 proc)."""
    return Path(f"/proc/{master.pid}/root", str(path).lstrip("/"))


def _built_with(program: Path) -> dict[str, str]:
    """
    Return prefix and path of the configuration, as ``nginx -V`` would print them.

    The program is read, and not run: that of a container need not run here, nor should it.
    """
    said = _BUILT_WITH.search(program.read_bytes())
    if said is None:
        raise ValueError(f"{program} does not say how it was built")
    return _DEFAULTS | {
        option[1].decode(): os.fsdecode(option[2] or option[3] or option[4] or b"")
        for option in _OPTION.finditer(said[1])
    }
