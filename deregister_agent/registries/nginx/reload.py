"""
Nginx's own commands, and the reload that is believed only when new workers run.

``nginx -t`` and ``nginx -s reload`` both exit with 0 for a configuration that the master
then refuses, so an exit status proves nothing here but failure.
"""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from deregister_agent.host.files import open_plain
from deregister_agent.host.programs import ProgramError, Run, completed, plain_environment
from deregister_agent.registries.nginx.processes import POLL, Master, NginxError, Worker, Workers

_SHOWN = 600  # characters of a command's output that go into an error
_OUTPUT_LIMIT = 1_048_576  # bytes: many thousands of warnings of nginx -t
_LOG_LIMIT = 262_144  # bytes that are read of an error log


def run(command: Sequence[str], timeout: float) -> None:
    """
    Run *command*, without the agent's environment.

    Raises NginxError, with what the command printed, if the command fails or prints
    [emerg] while it claims success, and if it takes longer than *timeout* seconds.
    """
    name = " ".join(command)
    program = Run(command, plain_environment(), output_limit=_OUTPUT_LIMIT, merged=True)
    try:
        done = completed(program, max(timeout, 0.1))
    except ProgramError as e:
        raise NginxError(f"`{name}`: {e}") from e
    said = "; ".join(done.output.decode(errors="replace").split("\n")).strip("; ")
    if done.status or "[emerg]" in said:
        raise NginxError(f"`{name}` failed ({done.status}): {said[-_SHOWN:]}")


class ErrorLog:
    """The lines that the master writes to its error log from now on."""

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
            with open_plain(self._path) as log:
                if os.fstat(log.fileno()).st_ino == self._inode:
                    log.seek(self._offset)
                lines = log.read(_LOG_LIMIT).decode(errors="replace").splitlines()
        except OSError:
            return ""
        mark = f"[emerg] {master}#"
        return next((line for line in lines if mark in line), "")


def reload(master: Master, command: Sequence[str], log: Path | None, until: float) -> Workers:
    """
    Have Nginx load its files again, and return the workers that did.

    The order makes the proof. Once the master was seen idle, no older reload is under
    way; so workers that were not there at that moment can only have loaded what was
    on disk then or later. Raises NginxError, with the line of the error log if there
    is any, when the old workers still serve at *until*.
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
