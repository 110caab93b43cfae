"""Log lines: text for a terminal, JSON for everything else, one line per change."""

import errno
import json
import logging
import os
import queue
import select
import threading
from datetime import UTC, datetime
from logging.handlers import QueueHandler
from typing import Any, Literal

from deregister_agent.errors import harmless, harmless_json
from deregister_agent.host import threads

LogFormat = Literal["auto", "text", "json"]

STDERR = 2
MOST_WAITING = 10_000
"""Lines that wait for whoever reads the log; those beyond are lost, and counted."""
LAST_LINES = 1.0
"""Seconds for which the end of the program waits until the last lines are out."""


class JsonLines(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return harmless_json(json.dumps(line, ensure_ascii=False))


class TextLines(logging.Formatter):
    """One line, and the lines of a traceback below it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line; text from elsewhere makes no other of it."""
        record.message = harmless(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """Return a traceback."""
        return "\n".join(map(harmless, super().formatException(ei).split("\n")))


class BackgroundLines(QueueHandler):
    """
    Writes lines on a thread of its own: who logs never waits for who reads the log.

    A reader that is stuck (journald, a pager) would else hold the loop of every instance,
    which logs its decisions. Lines that find no place, or cannot be written, are lost; how
    many, is said before the next line that is written. It writes to a *descriptor*, and not
    to ``sys.stderr``: that has a lock, for which the end of the program would wait.
    Raises NoThread.
    """

    def __init__(self, descriptor: int, most: int = MOST_WAITING) -> None:
        self._waiting: queue.Queue[str] = queue.Queue(most)
        super().__init__(self._waiting)
        self._descriptor = descriptor
        self._counting = threading.Lock()
        self._lost = 0
        threads.start(self._write_all, name="log")

    def prepare(self, record: logging.LogRecord) -> str:
        """Return the line of a record; it is made here, as arguments may change afterwards."""
        return self.format(record)

    def enqueue(self, record: object) -> None:
        """Let the line that prepare() has made be written; never blocks."""
        try:
            self._waiting.put_nowait(str(record))
        except queue.Full:
            self._lose()

    def flush(self) -> None:
        """Wait until all lines are out, for LAST_LINES seconds at most."""
        waiting = self._waiting
        with waiting.all_tasks_done:
            waiting.all_tasks_done.wait_for(lambda: not waiting.unfinished_tasks, LAST_LINES)

    def _lose(self) -> None:
        with self._counting:
            self._lost += 1

    def _write_all(self) -> None:
        while True:
            line = self._waiting.get()
            with self._counting:
                lost, self._lost = self._lost, 0
            said = [self._told(lost)] if lost else []
            try:
                _write(self._descriptor, "".join(f"{one}\n" for one in (*said, line)))
            except OSError:  # a full disk, or nobody at the other end: there may be again
                with self._counting:
                    self._lost += lost + 1
            self._waiting.task_done()

    def _told(self, lost: int) -> str:
        text = "%d lines of this log are lost: they could not be written, or nobody has read it"
        record = logging.LogRecord(__name__, logging.WARNING, "", 0, text, (lost,), None)
        return self.format(record)


def _write(descriptor: int, text: str) -> None:
    """Write all of *text*, for as long as that takes. Raises OSError."""
    rest = text.encode("utf-8", "backslashreplace")
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # somebody who shares the terminal has made it non-blocking
            select.select([], [descriptor], [])


def setup(log_format: LogFormat, level: str) -> None:
    """
    Send the agent's log to standard error; "auto" is text on a terminal and JSON elsewhere.

    Call it before any file is opened for long: standard streams that are closed are
    opened on nothing, or what is opened next would get their numbers, and stray text.
    Raises NoThread.
    """
    _open_closed()
    handler = BackgroundLines(STDERR)
    as_text = log_format == "text" or (log_format == "auto" and os.isatty(STDERR))
    text = TextLines("%(asctime)s %(levelname)-7s %(message)s")
    handler.setFormatter(text if as_text else JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("urllib3", "hypercorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _open_closed() -> None:
    """Open each standard stream that is closed on nothing."""
    for descriptor in (0, 1, STDERR):
        try:
            os.fstat(descriptor)
        except OSError as e:
            if e.errno != errno.EBADF:
                raise
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
