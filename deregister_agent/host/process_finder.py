"""How the process under drain is told from its successor: the options, and the finder."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from deregister_agent.config.options import Port, Table, Timeout
from deregister_agent.host.clock import Clock
from deregister_agent.host.find_by_pid import PidFile, PidFinder
from deregister_agent.host.find_by_port import PortFinder
from deregister_agent.host.systemd_unit import SystemdUnit, unit_name
from deregister_agent.model import Instance, Presence, Process
from deregister_agent.ports import ProcessFinder


class ByPort(Table):
    """The app is whoever holds the listening sockets of its port."""

    by: Literal["port"] = "port"
    """``port``: by the port's listening sockets."""
    port: Port | None = None
    """The port to look at, where it is not the instance's own (an app behind a local proxy)."""
    program: str = ""
    """The name of the program that is the app, where that is mostly a proxy of others (nginx,
    haproxy): one that listens there without being named is taken for one."""


class ByPidFile(Table):
    """The app is the process whose pid stands in a file."""

    by: Literal["pid_file"]
    """``pid_file``: by a file that the app or its supervisor writes."""
    file: Path
    """The file: a pid in decimal, and nothing else."""


class BySystemdUnit(Table):
    """The app is the main process of a systemd unit."""

    by: Literal["systemd_unit"]
    """``systemd_unit``: by what systemd says."""
    unit: Annotated[str, AfterValidator(unit_name)]
    """The unit, such as ``orders.service``."""
    systemctl: Annotated[tuple[str, ...], Field(min_length=1)] = ("systemctl",)
    """The command that asks systemd, as a list of arguments; no shell reads it."""
    timeout: Timeout = 2.0
    """The limit of one such command."""


class ByProbe(Table):
    """The app is what a probe says it is: an instance id, a start time."""

    by: Literal["probe"]
    """``probe``: by the ``mark`` of the instance's probes. For an app that cannot be seen here."""


def _by(table: Any) -> Any:
    return table.get("by", "port") if isinstance(table, Mapping) else getattr(table, "by", None)


ProcessOptions = Annotated[
    Annotated[ByPort, Tag("port")]
    | Annotated[ByPidFile, Tag("pid_file")]
    | Annotated[BySystemdUnit, Tag("systemd_unit")]
    | Annotated[ByProbe, Tag("probe")],
    Discriminator(_by),
]
"""``[instance.process]``: how the app's process is told from its successor."""


def build(options: ProcessOptions, instance: Instance, clock: Clock) -> ProcessFinder:
    """Return the finder that *options* ask for. Looks at nothing yet."""
    match options:
        case ByPort():
            port, program = options.port or instance.port, options.program
            return PortFinder(port, instance.address, clock, program=program)
        case ByPidFile():
            return PidFinder(PidFile(options.file), clock, instance.address, instance.port)
        case BySystemdUnit(unit=unit, systemctl=command, timeout=limit):
            source = SystemdUnit(unit, command, limit)
            return PidFinder(source, clock, instance.address, instance.port)
        case ByProbe():
            return ProbeMark(clock)


class ProbeMark:
    """
    The app is what it says of itself to a probe; nothing of it can be seen here.

    Where each worker has a mark of its own, marks take turns. One that comes back after
    another was heard shows that all heard in between live side by side.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._mark = ""
        self._heard: list[str] = []  # every mark, in the order in which each came first
        self._together: frozenset[str] = frozenset()  # marks that take turns
        self._changed = threading.Condition()

    def heard(self, mark: str) -> None:
        """Take in the mark of a reading; an empty one says nothing."""
        with self._changed:
            if mark and mark != self._mark:
                self._mark = mark
                if mark in self._heard:
                    self._together |= frozenset(self._heard[self._heard.index(mark) :])
                else:
                    self._heard = [*self._heard[-_MARKS:], mark]
                self._changed.notify_all()

    def look(self, was: Process | None) -> Presence:
        """Tell whether the app has another mark than *was*, which then has exited."""
        boot, mark = self._clock.boot_id(), self._mark
        running = Process(boot, mark=mark) if mark else None
        if was is not None and was.boot_id != boot:
            return Presence(exited=True, running=running)
        note = "" if mark else "no probe has told yet which process the app is (its mark)"
        if was is not None and {was.mark, mark} <= self._together:
            return Presence(exited=False, running=was, note=self._turns())
        exited = was is not None and bool(was.mark and mark) and mark != was.mark
        return Presence(exited, running, note)

    def _turns(self) -> str:
        marks = ", ".join(sorted(self._together))
        return (
            f"the marks of several processes take turns ({marks}): an exit shows only when none "
            "of them answers any more; give a mark that all workers of one start share"
        )

    def wait_exit(self, was: Process, timeout: float) -> None:
        """Block until another mark than that of *was* is heard, for at most *timeout* seconds."""
        with self._changed:
            same = {"", was.mark}
            self._changed.wait_for(
                lambda: self._mark not in same and self._mark not in self._together, timeout
            )


_MARKS = 64  # marks that are remembered: more workers of one start than that are rare
