"""
End the drained process: SIGTERM, and SIGKILL for what is still there after a while.

For hosts where nothing else would: no systemd, no Kubernetes. Only ever the very
process that was drained: each one is held by a pidfd (man 2 pidfd_open, Linux 5.3)
and its start time compared after that, so a signal cannot reach a successor that
was given the same number.
"""

import errno
import os
import select
import selectors
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, field_validator

from deregister_agent.config.options import NotifierOptions
from deregister_agent.errors import NotifyError
from deregister_agent.host.clock import SystemClock
from deregister_agent.host.forwarders import not_to_be_ended
from deregister_agent.host.pids import read_stat
from deregister_agent.model import Announcement, Event, Instance, Process
from deregister_agent.ports import Notifier

_MAY_KILL = (Announcement.DRAINED, Announcement.FORCED)
_UNKNOWN = (
    "it is not known which process the app is; configure a pid file or a systemd unit for the "
    "instance, or let the agent see the app's processes (same user or root, same pid namespace)"
)
_AFTER_KILL = 5.0  # a killed process that is still there then hangs in the kernel


class Options(NotifierOptions):
    """The keys of a ``process`` notifier."""

    announces: tuple[Announcement, ...] = _MAY_KILL
    """Which announcements end the process: "drained", "forced", or both."""
    grace: Annotated[float, Field(ge=0, le=600)] = 10.0
    """How long the process may take to exit after SIGTERM, in seconds; then comes SIGKILL."""

    @field_validator("announces")
    @classmethod
    def _only_safe_ones(cls, announces: tuple[Announcement, ...]) -> tuple[Announcement, ...]:
        if not set(announces) <= set(_MAY_KILL):
            raise ValueError('only "drained" and "forced" may end a process')
        return announces


@dataclass(frozen=True, slots=True)
class _Held:
    """A drained process that has not exited. While the pidfd is open, nobody else gets the pid."""

    pid: int
    parent: int
    descriptor: int

    def fileno(self) -> int:
        """Return the pidfd, which becomes readable when the process has exited."""
        return self.descriptor

    def close(self) -> None:
        """Close the pidfd."""
        os.close(self.descriptor)


class ProcessEnd(Notifier):
    """Ends the drained process and waits until it has exited."""

    def __init__(self, options: Options) -> None:
        self.name = options.label
        self.announces = frozenset(options.announces)
        self._grace = options.grace
        self._boot_id = SystemClock().boot_id()

    def announce(self, event: Event) -> None:
        """Return once every drained process has exited; for those that have already, at once."""
        pids = self._drained(event)
        try:
            with _held(pids) as held:
                left = self._ended(held)
        except OSError as e:
            hint = "; run the agent as the app's user, or as root" if _denied(e) else ""
            raise self._refused(event, f"{e}{hint}") from e
        if left:
            raise self._refused(event, f"{_named(left)} still there after SIGKILL")

    def examine(self, running: Process | None) -> str:
        """Look whether the app's processes are seen, and may be signalled; signals none."""
        pids = [pid for pid, _ in running.pids] if running is not None else []
        doing = "end the process of the app"
        if why := _untouchable(pids) if pids else _UNKNOWN:
            raise NotifyError(self.name, doing, why)
        try:
            for pid in pids:
                os.kill(pid, 0)
        except OSError as e:
            hint = "; run the agent as the app's user, or as root" if _denied(e) else ""
            raise NotifyError(self.name, doing, f"{e}{hint}") from e
        return f"pid {', '.join(str(pid) for pid in pids)} could be ended; no signal was sent"

    def _drained(self, event: Event) -> Mapping[int, int]:
        """Return which pids to end, with their start times. Raises NotifyError if not known."""
        if event.kind not in _MAY_KILL:
            raise self._refused(event, f'"{event.kind}" does not mean that it may be killed')
        process = event.process
        if process is not None and process.boot_id != self._boot_id:
            return {}  # the host was booted since: all of them have exited
        if process is None or not process.pids:
            raise self._refused(event, _UNKNOWN)
        pids = dict(process.pids)
        if why := _untouchable(pids):
            raise self._refused(event, why)
        return pids

    def _ended(self, held: list[_Held]) -> list[_Held]:
        """Ask the parents to exit, kill who does not; return who is left then."""
        pids = {process.pid for process in held}
        for process in held:
            if process.parent not in pids:  # a pre-fork parent ends its own workers
                _signal(process, signal.SIGTERM)
        left = _still_there(held, self._grace)
        for process in left:
            _signal(process, signal.SIGKILL)
        return _still_there(left, _AFTER_KILL)

    def _refused(self, event: Event, why: str) -> NotifyError:
        return NotifyError(self.name, f"end the process of {event.instance}", why)


@contextmanager
def _held(pids: Mapping[int, int]) -> Iterator[list[_Held]]:
    """Hold each of *pids* that is still the process with this start time."""
    with ExitStack() as stack:
        held = []
        for pid, start in pids.items():
            process = _hold(pid, start)
            if process is not None:
                held.append(stack.enter_context(closing(process)))
        yield held


def _hold(pid: int, start: int) -> _Held | None:
    """
    Return a hold on *pid*; None if no process of this pid and start time is running.

    First the pidfd, then the start time: the start time read is that of the process held.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        shown = read_stat(pid)
    except BaseException:
        os.close(descriptor)
        raise
    if shown is None and not _has_exited(descriptor):
        os.close(descriptor)
        raise PermissionError(errno.EPERM, f"pid {pid} lives and is not shown (hidepid?)")
    if shown is None or shown.start != start:
        os.close(descriptor)
        return None
    return _Held(pid, shown.parent, descriptor)


def _has_exited(descriptor: int) -> bool:
    """Tell whether the process of a pidfd has exited."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _signal(process: _Held, number: signal.Signals) -> None:
    """Send a signal, unless the process has exited meanwhile."""
    try:
        signal.pidfd_send_signal(process.descriptor, number)
    except ProcessLookupError:
        return
    except PermissionError as e:
        raise PermissionError(
            e.errno, f"not allowed to send {number.name} to pid {process.pid}"
        ) from e


def _still_there(held: list[_Held], timeout: float) -> list[_Held]:
    """Wait until all have exited, for at most *timeout* seconds; return those that have not."""
    end = time.monotonic() + timeout
    left = list(held)
    with selectors.DefaultSelector() as selector:
        for process in held:
            selector.register(process, selectors.EVENT_READ)
        while left:
            wait = max(0.0, end - time.monotonic())
            exited = selector.select(wait)
            for key, _ in exited:
                selector.unregister(key.fileobj)
                left = [process for process in left if process.descriptor != key.fd]
            if not exited and wait == 0:
                break
    return left


def _untouchable(pids: Iterable[int]) -> str:
    """Return which of *pids* must not be ended, in words; empty if all may."""
    for pid in sorted(pids):
        if pid <= 1 or pid == os.getpid():
            return f"pid {pid} is init or the agent itself"
        if why := not_to_be_ended(pid):
            return f"{why}: it is not the app, and was not ended"
    return ""


def _denied(error: OSError) -> bool:
    return isinstance(error, PermissionError)


def _named(left: list[_Held]) -> str:
    pids = ", ".join(str(process.pid) for process in left)
    return f"pid {pids} is" if len(left) == 1 else f"pids {pids} are"


def build(options: Options, instance: Instance) -> ProcessEnd:
    """Return the notifier; every event says which process was drained."""
    del instance
    return ProcessEnd(options)
