"""
A real systemd as pid 1: Debian's, in namespaces of its own above the root of this machine.

It has a cgroup tree, a network, processes and ``/run`` of its own, knows only the units that
a test writes, and ends with all of its processes when its first process is killed. The root
is this machine's, so the Python of the tests runs in it. Needs root.
"""

import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests import guard
from tests.servers.apt import FetchFailed, fetch
from tests.servers.child import Child, wait_until
from tests.servers.netns import CLONE_NEWNET
from tests.servers.table import Server

_LIBRARIES = (
    *("acl1", "apparmor1", "audit1", "blkid1", "cap-ng0", "cap2", "crypt1", "cryptsetup12"),
    *("fdisk1", "gcrypt20", "gpg-error0", "ip4tc2", "kmod2", "lz4-1", "lzma5", "mount1", "pam0g"),
    *("pcre2-8-0", "p11-kit0", "seccomp2", "selinux1", "ssl3", "systemd-shared", "systemd0"),
    "zstd1",
)
SYSTEMD = Server(
    "systemd-252",
    "bookworm",
    (*(f"lib{name}" for name in _LIBRARIES), "systemd"),
    "lib/systemd/systemd",
    "systemd 252",
)
UNIFIED = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
TARGETS = ("sysinit", "basic", "shutdown", "sockets", "slices", "ready")
_START = """
set -eu
mount --make-rprivate /
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none /run
mount -t tmpfs none /etc/systemd
mount -t tmpfs none /var/lib/systemd
mount --bind "$1" /lib/systemd
mount -t proc none /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
exec env -i container=other PATH="$PATH" LD_LIBRARY_PATH="$2" SYSTEMD_UNIT_PATH="$3" \
  SYSTEMD_LOG_TARGET=console "$1/systemd" --system --unit=ready.target \
  --default-standard-output=null
"""
"""
What sets the stage. ``/proc/sys`` is for reading only, as in every container: systemd would
raise limits of the whole machine.
"""


class Systemd:
    """A running systemd, seen from this machine. *programs* is a folder with its systemctl."""

    def __init__(self, pid: int, units: Path, programs: Path, libraries: str) -> None:
        self.pid, self._units, self._programs = pid, units, programs
        self.libraries = libraries  # where the programs of this systemd find them

    @property
    def before(self) -> tuple[str, ...]:
        """What to put before a command to run it beside systemd, with its systemctl on PATH."""
        path = f"PATH={self._programs}:{os.environ['PATH']}"
        spaces = ("--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup")
        return ("nsenter", f"--target={self.pid}", *spaces, "env", path)

    def unit(self, name: str, text: str) -> None:
        """Write a unit, or write it anew, and have systemd read it."""
        (self._units / name).write_text(text)
        self.ctl("daemon-reload")

    def mask(self, name: str) -> None:
        """Mask a unit as ``systemctl mask`` does: systemd reads an empty one in its place."""
        (self._units / name).unlink()
        (self._units / name).symlink_to("/dev/null")
        self.ctl("daemon-reload")

    def service(self, name: str, command: str, *lines: str, head: str = "") -> None:
        """Write a service that runs *command*; *lines* are more of its section."""
        service = "\n".join([f"ExecStart={command}", *lines])
        self.unit(name, f"[Unit]\n{head}\nStartLimitIntervalSec=0\n[Service]\n{service}\n")

    def ctl(self, *arguments: str, check: bool = True) -> str:
        """Return what systemctl printed. Raises AssertionError unless it succeeds."""
        done = self.run("systemctl", *arguments)
        assert not (check and done.returncode), f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command beside systemd, to its end."""
        return subprocess.run(
            [*self.before, *command], capture_output=True, text=True, timeout=60, check=False
        )

    def show(self, unit: str, what: str) -> str:
        """Return one property of a unit."""
        return self.ctl("show", "--value", "--property", what, unit)

    def main_pid(self, unit: str) -> int:
        """Return the main process of a unit as systemd counts it; 0 if there is none."""
        return int(self.show(unit, "MainPID"))

    def members(self, unit: str) -> list[int]:
        """Return who is in the cgroup of a unit, as systemd counts them."""
        cgroup = self.show(unit, "ControlGroup")
        if not cgroup:
            return []
        folder = f"/sys/fs/cgroup{cgroup}"
        found = self.run("find", folder, "-name", "cgroup.procs", "-exec", "cat", "{}", "+")
        return [int(pid) for pid in found.stdout.split()]

    def kill(self, pid: int) -> None:
        """Kill one process, as systemd counts them."""
        self.run("kill", "-KILL", str(pid))

    def connect(self, port: int) -> socket.socket:
        """Return a connection to a port of systemd's network."""
        made: list[socket.socket] = []

        def connect() -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            with Path(f"/proc/{self.pid}/ns/net").open("rb") as network:
                assert libc.setns(network.fileno(), CLONE_NEWNET) == 0, ctypes.get_errno()
            with suppress(ConnectionError):
                made.append(socket.create_connection(("127.0.0.1", port), 60))

        def connects() -> bool:
            thread = threading.Thread(target=connect)  # it ends in that network
            thread.start()
            thread.join()
            return bool(made)

        wait_until(connects, f"somebody listens on port {port}", limit=60.0)
        return made[-1]


@contextmanager
def running_systemd(folder: Path) -> Iterator[Systemd]:
    """Start systemd with its units in *folder*; skip the test, loudly, where that cannot be."""
    if os.geteuid():
        pytest.skip(f"a systemd of its own needs root, and this is user {os.geteuid()}")
    try:
        tree = fetch(SYSTEMD)
    except FetchFailed as e:
        pytest.skip(f"Debian's systemd cannot be fetched: {e}")
    with ExitStack() as stack:
        cgroup = _cgroup(stack)
        units = _units(folder)
        libraries = ":".join(sorted({str(path.parent) for path in tree.glob("**/lib*.so*")}))
        programs = _programs(folder, tree, libraries)
        spaces = ("--cgroup", "--mount", "--net", "--ipc", "--uts", "--pid")
        enter = f'echo $$ > {cgroup}/cgroup.procs; exec setpriv --pdeathsig KILL unshare "$@"'
        start = ("sh", "-c", _START, "sh", f"{tree}/lib/systemd", libraries, str(units))
        command = ("sh", "-c", enter, "sh", *spaces, "--fork", "--kill-child", *start)
        child = stack.enter_context(Child(command, folder / "systemd.log"))
        child.wait_ready(lambda: _first_child(child.pid), limit=60.0)
        systemd = Systemd(_first_child(child.pid), units, programs, libraries)
        child.wait_ready(
            lambda: systemd.ctl("is-active", "ready.target", check=False) == "active", limit=60.0
        )
        stack.callback(child.kill)
        yield systemd


def _first_child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else 0


def _units(folder: Path) -> Path:
    """Return a new folder of units, with the targets that every unit needs."""
    units = folder / "units"
    units.mkdir()
    for target in TARGETS:
        (units / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    return units


def _programs(folder: Path, tree: Path, libraries: str) -> Path:
    """Return a folder with the commands that belong to this systemd."""
    programs = folder / "programs"
    programs.mkdir()
    for name, program in (("systemctl", "bin/systemctl"), ("systemd-run", "usr/bin/systemd-run")):
        script = f'#!/bin/sh\nexport LD_LIBRARY_PATH={libraries}\nexec {tree}/{program} "$@"\n'
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    return programs


def _cgroup(stack: ExitStack) -> Path:
    """Make a cgroup in which everything of this systemd is; it ends with the block."""
    root = next((one for one in UNIFIED if (one / "cgroup.controllers").is_file()), None)
    missing = [name for name in ("nsenter", "setpriv", "unshare") if shutil.which(name) is None]
    if root is None or missing:
        pytest.skip(f"no systemd here: {', '.join(missing) or 'no cgroups of version 2'}")
    cgroup = root / f"deregister-systemd-{os.getpid()}"
    try:
        cgroup.mkdir()
    except OSError as e:
        pytest.skip(f"no systemd here: no cgroup can be made: {e}")
    ends = f"find {cgroup} -depth -type d -exec rmdir {{}} +"
    stack.enter_context(guard.undone_by(ends))
    stack.callback(
        wait_until,
        lambda: not subprocess.run(["sh", "-c", ends], capture_output=True, check=False).returncode,
        "the cgroups are empty",
    )
    return cgroup
