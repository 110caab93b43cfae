"""
Files that others write or read.

Reading one never waits: what is no plain file is refused. Changing one shows nobody half
of it, and neither does a crash. Everything here raises OSError with the path in it, and
hides none.
"""

import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

MOST_BYTES = 64 * 1024 * 1024
"""What a file that is read as a whole may hold."""

_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFDIR: "a folder", stat.S_IFSOCK: "a socket"}
_LOCK_POLL = 0.02
_OF_THE_CONTENT = frozenset({"security.ima", "security.evm"})  # hashes: wrong for a new content


def open_plain(path: Path) -> BinaryIO:
    """
    Open the plain file at *path* for reading; a symbolic link is followed.

    To open a FIFO would wait for somebody to write into it, for ever, and a terminal or
    another device may do so too. Raises OSError, for what is no plain file as well.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind == stat.S_IFREG:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    what = _KINDS.get(kind, "a device")
    raise OSError(errno.EINVAL, f"it is {what}, and no plain file", str(path))


def read_plain(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return what the plain file at *path* holds. Raises OSError, also beyond *most* bytes."""
    with open_plain(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it holds more than {most} bytes", str(path))
    return content


def replace_durably(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """
    Give the file at *path* this content: all of it, or none of it, also after a power cut.

    Mode, owner and extended attributes (ACL, SELinux label) stay as they are; a
    symbolic link stays, and what it points to is replaced. A file that is not there
    is created with *mode*, less the umask. A hard link to it keeps the old content, and
    a file that is itself a mount point cannot be replaced (EBUSY). Raises OSError; then
    nothing has changed, unless only the last step, making the new name durable, has failed.
    """
    target = Path(os.path.realpath(path))
    old = _regular(target)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    with _named(temporary):
        _create(temporary, content, target, old, mode)
        try:
            temporary.replace(target)
        except BaseException:
            temporary.unlink()
            raise
        _sync_folder(target.parent)


def remove_durably(path: Path) -> None:
    """Remove the file at *path*, also across a power cut. An absent file is no error."""
    with _named(path):
        path.unlink(missing_ok=True)
        _sync_folder(path.parent)


@contextmanager
def locked(path: Path, timeout: float) -> Iterator[None]:
    """
    Keep every other process and thread that uses this lock away from *path*.

    The lock is flock(2) on ``.<name>.lock`` in the folder of the file that *path*
    leads to. That file is made when needed and never removed: a lock on a file that
    has been removed would lock nobody out. It ends with its owner, however that dies.
    It cannot be taken twice by the same thread, and holds on local file systems only.
    Raises TimeoutError, an OSError, when others hold the lock for *timeout* seconds.
    """
    target = Path(os.path.realpath(path))
    lock = target.with_name(f".{target.name}.lock")
    with _named(lock):
        descriptor = _opened_lock(lock)
    try:
        with _named(lock):
            _acquire(descriptor, lock, timeout)
        yield
    finally:
        os.close(descriptor)


def _regular(target: Path) -> os.stat_result | None:
    """Return the stat of a regular file, None if it is absent. Raises OSError for other kinds."""
    try:
        old = target.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(old.st_mode):
        raise OSError(errno.EINVAL, "cannot replace what is not a regular file", str(target))
    return old


def _create(
    temporary: Path, content: bytes, target: Path, old: os.stat_result | None, mode: int
) -> None:
    """Write all to a new file on the disk, with everything of *old* but its content."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, mode if old is None else 0o600)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(content)
            file.flush()
            if old is not None:
                _inherit(descriptor, target, old)
            os.fsync(descriptor)
    except BaseException:
        temporary.unlink()
        raise


def _inherit(descriptor: int, target: Path, old: os.stat_result) -> None:
    """Copy owner, mode and attributes, in this order: each may reset the one after it."""
    new = os.fstat(descriptor)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
    here = _attributes(descriptor)
    for name, value in _attributes(target).items():
        if here.get(name) != value:  # a label that is right already may be forbidden to set
            os.setxattr(descriptor, name, value)


def _attributes(of: Path | int) -> dict[str, bytes]:
    """Return the extended attributes that are not about the content."""
    try:
        names = os.listxattr(of)
    except OSError as e:
        if e.errno == errno.ENOTSUP:
            return {}
        raise
    return {name: os.getxattr(of, name) for name in names if name not in _OF_THE_CONTENT}


def _sync_folder(folder: Path) -> None:
    """Make the names in *folder* durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _opened_lock(lock: Path) -> int:
    """Open the lock file for reading, which is enough for flock, so that other users can too."""
    with suppress(FileNotFoundError):
        return os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    return os.open(lock, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _acquire(descriptor: int, lock: Path, timeout: float) -> None:
    """Take the lock; flock has no time limit of its own, so it is called again and again."""
    end = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            if time.monotonic() >= end:
                why = f"another process or thread has held this lock for {timeout} s (see fuser)"
                raise TimeoutError(errno.ETIMEDOUT, why, str(lock)) from e
            time.sleep(_LOCK_POLL)
        else:
            return


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Put *path* into an OSError that came from a descriptor and so names no file."""
    try:
        yield
    except OSError as e:
        if e.filename is None or isinstance(e.filename, int):
            raise OSError(e.errno, e.strerror, str(path)) from e
        raise
