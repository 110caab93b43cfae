"""
Run Nginx's own commands, and believe a reload only when new workers run.

``nginx -t`` and ``nginx -s reload`` both answer 0 for a configuration that the master
then refuses, so no exit status counts here as proof of anything but failure.
"""

import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from deregister_agent.registries.nginx.processes import POLL, Master, NginxError, Worker, Workers

_LONGEST = 600  # characters of a command's output that go into an error
_LOG_LIMIT = 262_144


def run(command: Sequence[str], timeout: float) -> str:
    """
    Run *command*, and return what it printed.

    Raises NginxError, with that text, if it fails, takes longer than *timeout*
    seconds, or prints [emerg] while it claims success.
    """
    name = " ".join(command)
    try:
        done = subprocess.run(  # noqa: S603 - an argument list from the configuration, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=max(timeout, 0.1),
            check=False,
        )
    except subprocess.TimeoutExpired as e:
        raise NginxError(f"`{name}` was not done within {timeout:.1f} s") from e
    except OSError as e:
        raise NginxError(f"`{name}` cannot be run: {e.strerror}") from e
    said = "; ".join(done.stdout.decode(errors="replace").split("\n")).strip("; ")
    if done.returncode or "[emerg]" in said:
        raise NginxError(f"`{name}` failed ({done.returncode}): {said[-_LONGEST:]}")
    return said


class ErrorLog:
    """What the master writes to its error log from now on."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._offset, self._inode = path, 0, 0
        with suppress(OSError):
            if path is not None:
                seen = path.stat()
                self._offset, self._inode = seen.st_size, seen.st_ino

    def refusal(self, master: int) -> str:
        """Return the first [emerg] line of this master, or nothing."""
        if self._path is None:
            return ""
        try:
            with self._path.open("rb") as log:
                if os.fstat(log.fileno()).st_ino == self._inode:
                    log.seek(self._offset)
                lines = log.read(_LOG_LIMIT).decode(errors="replace").splitlines()
        except OSError:
            return ""
        mark = f"[emerg] {master}#"
        return next((line for line in lines if mark in line), "")


def reload(master: Master, command: Sequence[str], log: Path | None, until: float) -> Workers:
    """
    Have Nginx load its files anew, and return the workers that did.

    The order makes the proof. Once the master was seen idle, no older reload is under
    way; so workers that were not there at that moment can only have loaded what was
    on disk then or later. Raises NginxError, with the line of the error log where
    there is one, if the old workers stay (*until*, of time.monotonic()).
    """
    master.wait_idle(until)
    before = master.workers().ids
    since = ErrorLog(log)
    run(command, until - time.monotonic())
    while True:
        idle, now = master.idle(), master.workers()
        refusal = since.refusal(master.pid)
        old = [worker for worker in now.active if worker.id in before]
        if now.active and not old and not now.unnamed and idle and not refusal:
            return now
        if refusal and idle and old:
            raise NginxError(f"nginx kept its old workers: {refusal}")
        if time.monotonic() >= until:
            raise NginxError(_stuck(master, old, refusal, log))
        time.sleep(POLL)


def _stuck(master: Master, old: Sequence[Worker], refusal: str, log: Path | None) -> str:
    """Say what is known of a reload that has not happened."""
    if refusal:
        return f"nginx kept its old workers: {refusal}"
    if old:
        pids = ", ".join(str(worker.pid) for worker in old)
        where = f"see {log}" if log else "name its error_log to learn why"
        return f"nginx (master {master.pid}) still runs its old workers ({pids}); {where}"
    return f"nginx (master {master.pid}) has not come to rest after the reload"
