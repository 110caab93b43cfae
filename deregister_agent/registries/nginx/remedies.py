"""What a tired person can do when the system refuses to change a file."""

import errno
from pathlib import Path

_ROOM = "make room on its disk"
_RIGHT = "let the agent's user write to its folder: files are replaced, and not overwritten"
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EROFS: "mount its folder so that the agent can write to it",
    errno.EACCES: _RIGHT,
    errno.EPERM: _RIGHT,
    errno.EBUSY: "it is a mount of its own and cannot be replaced: mount its folder instead",
}


def with_remedy(error: Exception) -> str:
    """Return what *error* says; an error of the system with the path and what to do about it."""
    if not isinstance(error, OSError) or error.errno not in _REMEDIES:
        return str(error)
    name = str(error.filename2 or error.filename or "")
    # What is written first is a temporary file: people know the one that it is to replace.
    path = Path(name)
    if path.name.startswith(".") and path.suffix == ".tmp":
        path = path.with_name(path.name[1:].rsplit(".", 2)[0])
    return f"{error.strerror}: {path}; {_REMEDIES[error.errno]}"
