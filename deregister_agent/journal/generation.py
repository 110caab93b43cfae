"""
The number of decisions ever made, in a small file of its own beside the journal.

It is written and synced before each decision is, so a journal that is set back to an
older copy has a smaller number than the file, and no decision of it is believed.

One decision ahead is what a crash between the two leaves behind, so a copy that is older
by exactly one decision goes unnoticed. That costs one withdrawal at most: "drained" and
"serving" are never said by the journal alone, but by what is seen after a restart. Nor
is it noticed where the file is set back as well, as with the disk of a whole machine.
"""

import errno
import os
import zlib
from pathlib import Path

from deregister_agent.host.files import replace_durably

_APART = 4096  # bytes: a write that is torn never touches the other slot
_SLOTS = 2  # written in turn, so that the number of before is there if a write is torn
_LENGTH = 30  # of a slot's text: twenty digits, a space, the checksum, the end of the line


class Generation:
    """
    The file, until close(). It never shrinks or grows, so a full disk is no trouble to it.

    Its methods raise OSError. After a failed write it is tried anew at the next.
    """

    def __init__(self, journal: Path) -> None:
        self.path = journal.with_name(journal.name + ".generation")
        self._descriptor: int | None = None

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def read(self) -> int | None:
        """Return the number; None if there is no file. Raises ValueError if it holds none."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            number = _newest(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return number

    def write(self, number: int) -> None:
        """Make *number* durable, in the place of the one of before it."""
        if self._descriptor is None:
            self.make(number)
            return
        try:
            _overwrite(self._descriptor, _text(number), number % _SLOTS * _APART)
        except OSError as e:
            raise OSError(e.errno, e.strerror, str(self.path)) from e

    def make(self, number: int) -> None:
        """Make the file anew, with *number* in it."""
        self.close()
        slots = [b""] * _SLOTS
        slots[number % _SLOTS] = _text(number)
        replace_durably(self.path, b"".join(text.ljust(_APART) for text in slots), mode=0o600)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)


def _text(number: int) -> bytes:
    digits = b"%020d" % number
    return b"%s %08x\n" % (digits, zlib.crc32(digits))


def _overwrite(descriptor: int, text: bytes, at: int) -> None:
    if os.pwrite(descriptor, text, at) != len(text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fdatasync(descriptor)


def _newest(descriptor: int) -> int:
    """Return the number that was written last; one that was torn does not count."""
    texts = [os.pread(descriptor, _LENGTH, slot * _APART) for slot in range(_SLOTS)]
    number = max(_number(text) for text in texts)
    if number < 0:
        raise ValueError("it holds no number")
    return number


def _number(text: bytes) -> int:
    """Return what a slot holds, -1 if that is no number or was torn."""
    digits = text[:20]
    if not digits.isdigit() or text != _text(int(digits)):
        return -1
    return int(digits)
