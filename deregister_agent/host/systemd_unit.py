"""What systemd says of a unit: its main process, and who else belongs to it."""

import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from deregister_agent.host import pids
from deregister_agent.host.find_by_pid import PidWord
from deregister_agent.host.forwarders import not_the_app
from deregister_agent.host.pids import Pid
from deregister_agent.host.programs import ProgramError, Run, completed, plain_environment
from deregister_agent.host.relatives import apart_from, in_cgroup

_NAME = re.compile(r"[\w:.\\@-]{1,255}", re.ASCII)  # no pattern, which would stand for many units
_OTHER_KINDS = frozenset(
    {
        *("socket", "target", "slice", "scope", "timer", "path"),
        *("mount", "automount", "swap", "device"),
    }
)


def unit_name(value: str) -> str:
    """
    Return the name of one service (man 5 systemd.unit); the suffix may be left out.

    Raises ValueError in words: of a pattern systemctl would show the last unit that fits, of
    a number a job, and of other kinds of units no main process.
    """
    if value.startswith("-") or value.isdecimal() or not _NAME.fullmatch(value):
        raise ValueError("must be the name of one systemd unit, such as orders.service")
    stem, dot, suffix = value.rpartition(".")
    if dot and suffix in _OTHER_KINDS:
        raise ValueError(
            f"a {suffix} has no main process: name the service, such as {stem}.service"
        )
    if value.removesuffix(".service").endswith("@"):
        template = value.removesuffix(".service")
        raise ValueError(f"is a template: name an instance of it, such as {template}1.service")
    return value


class SystemdUnit:
    """
    What systemd says of a unit (man 5 org.freedesktop.systemd1).

    What ``ExecStop=`` and its like run is in the unit's cgroup, and is not the app: where
    a crash makes systemd run one that waits for a drain, the drain must not wait for it.
    """

    def __init__(self, unit: str, systemctl: Sequence[str], timeout: float) -> None:
        self._unit, self._systemctl, self._timeout = unit, systemctl, timeout
        self._said = PidWord(None, certain=False)
        self._cgroup = ""  # of the unit, while systemd has one for it
        self._unseen = False  # whether the unit's own process was not seen in that cgroup
        self._until = 0.0
        self._one_at_a_time = threading.Lock()

    def ask(self) -> PidWord:
        """Return the unit's main process, as systemd said at most half a second ago."""
        with self._one_at_a_time:
            process = self._said.process
            if time.monotonic() >= self._until or (process and not pids.is_alive(process)):
                self._said = self._ask()
                self._until = time.monotonic() + _CACHED
            return self._said

    def _ask(self) -> PidWord:
        unit, program = self._unit, self._systemctl[0]
        command = (*self._systemctl, "show", "-p", _WANTED, unit)
        try:
            told = completed(Run(command, plain_environment(*_USERS_MANAGER)), self._timeout)
        except ProgramError as e:
            return PidWord(None, certain=False, note=f"{program} says nothing of unit {unit}: {e}")
        lines = told.output.decode("utf-8", "replace").splitlines()
        said = dict(line.split("=", 1) for line in lines if "=" in line)
        pid = said.get("MainPID", "")
        if told.status or not pid.isdecimal():
            return PidWord(
                None, certain=False, note=f"{program} says nothing of unit {unit}: {told.why}"
            )
        if cgroup := said.get("ControlGroup", ""):
            self._cgroup = cgroup
        word, members = _judged(unit, int(pid), said), in_cgroup(self._cgroup)
        if word.process is not None and pids.is_alive(word.process):
            self._unseen = bool(self._cgroup) and word.process not in members
        if self._unseen:
            word = replace(word, note="; ".join(filter(None, (word.note, self._blind()))))
        return _with_members(word, said, members)

    def _blind(self) -> str:
        return (
            f"who else belongs to unit {self._unit} is not seen: its control group "
            f"{self._cgroup} is not shown here, so its processes are known as children alone; "
            "run the agent on the host itself"
        )


_CACHED = 0.5  # seconds
_WANTED = "MainPID,ControlPID,ActiveState,SubState,LoadState,Restart,ControlGroup"
_USERS_MANAGER = ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")  # where systemctl --user finds it
_ENDED = frozenset({"inactive", "failed"})
_EXITED = ("active", "exited")  # with RemainAfterExit, once the unit has no process any more
_STOPPING = "deactivating"
_CONTAINERS = "name the app by a pid file of its own, or by what a probe says of it"


def _judged(unit: str, pid: int, said: Mapping[str, str]) -> PidWord:
    """
    Judge what systemd *said* of a unit whose main process is *pid*, or 0.

    Without a main process, only "inactive", "failed" and "active (exited)" mean that
    nobody is there: "deactivating" may have other processes of the unit at work, "active"
    may be a unit whose main process systemd cannot tell. A unit is "activating" only when
    what was there before has ended.
    """
    load, state = said.get("LoadState", "loaded"), said.get("ActiveState", "")
    if load != "loaded" and not pid and state == "inactive":
        return PidWord(None, certain=False, note=_not_loaded(unit, load), unknown_name=True)
    process = pids.find(pid) if pid else None
    if process is not None and (why := not_the_app(pid)):
        note = f"the main process of unit {unit} is not the app: {why}; {_CONTAINERS}"
        return PidWord(None, certain=False, note=note)
    if process is not None:
        return PidWord(process, certain=True)
    has_ended = state in _ENDED or (state, said.get("SubState")) == _EXITED
    return PidWord(
        None,
        certain=not pid and has_ended,
        note=f"unit {unit} is {state or 'in an unknown state'} and has no main process",
        begins=not pid and state == "activating",
    )


def _with_members(word: PidWord, said: Mapping[str, str], members: frozenset[Pid]) -> PidWord:
    """
    Add to *word* who else of the app is among the *members* of the unit's cgroup.

    Where none of them is but what systemd runs to stop the unit, the app has ended.
    """
    control = said.get("ControlPID", "")
    helper = pids.find(int(control)) if control.isdecimal() and int(control) else None
    others = members if helper is None else apart_from(helper, members)
    if helper in members and not (others or word.process) and said.get("ActiveState") == _STOPPING:
        is_final = said.get("Restart") == "no"
        word = replace(word, certain=is_final, begins=not is_final)
    return replace(word, others=others)


def _not_loaded(unit: str, load: str) -> str:
    if load == "not-found":
        return f"systemd knows no unit {unit} (it is {load}): correct process.unit"
    return (
        f"systemd cannot start unit {unit} (it is {load}; see systemctl status {unit}): mend the "
        "unit, or correct process.unit"
    )
