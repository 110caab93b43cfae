"""drain and restore --standalone: a whole agent in one command, with another package's backends."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

LIMIT = 30.0

BACKENDS = '''
from pathlib import Path

from deregister_agent.errors import NotifyError
from deregister_agent.model import Reading
from deregister_agent.config.options import BackendOptions, NotifierOptions
from deregister_agent.ports import Registry


class ListOptions(BackendOptions):
    path: Path
    others: int = 2


class ListFile(Registry):
    """A file with one name per line."""

    def __init__(self, options, instance):
        self.name, self._options, self._instance = options.label, options, instance.name

    def _names(self):
        return self._options.path.read_text().split()

    def lists(self):
        return self._instance in self._names()

    def snapshot(self):
        return {"name": self._instance} if self.lists() else None

    def withdraw(self):
        rest = [name for name in self._names() if name != self._instance]
        self._options.path.write_text("\\n".join(rest))

    def restore(self, snapshot):
        if not self.lists():
            self._options.path.write_text("\\n".join([*self._names(), self._instance]))

    def others(self):
        return self._options.others


class HandOptions(BackendOptions):
    path: Path


class Hand:
    """A file with a number."""

    def __init__(self, options, instance):
        self.name, self._path = options.label, options.path

    def read(self, wait):
        return Reading({"requests": int(self._path.read_text())})


class ToldOptions(NotifierOptions):
    path: Path


class Told:
    """Writes each announcement into a file; takes each at the second try only."""

    def __init__(self, options, instance):
        self.name, self.announces = options.label, frozenset(options.announces)
        self._path, self._tried = options.path, set()

    def announce(self, event):
        if event.id not in self._tried:
            self._tried.add(event.id)
            raise NotifyError(self.name, "take it", "busy")
        with self._path.open("a") as out:
            out.write(f"{event.kind}\\n")
'''


@dataclass
class Host:
    """What stands around one standalone drain."""

    root: Path

    @property
    def listed(self) -> list[str]:
        return (self.root / "list").read_text().split()

    @property
    def told(self) -> list[str]:
        told = self.root / "told"
        return told.read_text().split() if told.exists() else []

    def has_in_hand(self, count: int) -> None:
        new = self.root / "hand.new"
        new.write_text(str(count))
        new.replace(self.root / "hand")

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "deregister_agent", *arguments],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(self.root / "site"),
                "DEREGISTER_CONFIG": str(self.root / "config.toml"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with self.popen(*arguments) as process:
            try:
                out, error = process.communicate(timeout=LIMIT)
            finally:
                process.kill()
        return subprocess.CompletedProcess(arguments, process.returncode, out, error)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    info = tmp_path / "site" / "t_alone-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: t-alone\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[deregister_agent.registries]\nt_list = t_list\n"
        "[deregister_agent.probes]\nt_hand = t_hand\n"
        "[deregister_agent.notifiers]\nt_told = t_told\n"
    )
    (tmp_path / "site" / "t_all.py").write_text(BACKENDS)
    for name, made in (("list", "ListFile"), ("hand", "Hand"), ("told", "Told")):
        options = f"{name.capitalize()}Options"
        (tmp_path / "site" / f"t_{name}.py").write_text(
            f"from t_all import {options} as Options, {made} as build\n"
        )
    (tmp_path / "list").write_text("orders-1\norders-2\n")
    with socket.create_server(("127.0.0.1", 0)) as app:
        (tmp_path / "config.toml").write_text(
            CONFIG.format(root=tmp_path, port=app.getsockname()[1])
        )
        host = Host(tmp_path)
        host.has_in_hand(0)
        yield host


CONFIG = """
[agent]
journal = "{root}/journal.db"
[[instance]]
name = "orders-1"
service = "orders"
port = {port}
quiet = 0.1
[[instance.registry]]
kind = "t_list"
path = "{root}/list"
[[instance.probe]]
kind = "t_hand"
path = "{root}/hand"
[[instance.notifier]]
kind = "t_told"
path = "{root}/told"
"""


def eventually(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def test_a_standalone_drain_ends_drained_and_told(host: Host) -> None:
    """It is out, who is told took it, at a second try if need be, and the code says so."""
    done = host.run("drain", "--standalone")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "orders-1: drained: safe to kill"
    assert host.listed == ["orders-2"]
    assert host.told == ["drained"]


def test_a_standalone_restore_puts_it_back(host: Host) -> None:
    """What a standalone drain took out, a standalone restore lists again."""
    assert host.run("drain", "orders-1", "--standalone").returncode == 0
    done = host.run("restore", "orders-1", "--standalone", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["phase"] == "serving"
    assert host.listed == ["orders-2", "orders-1"]


def test_a_busy_app_is_not_drained(host: Host) -> None:
    """Past the deadline the code is 3 and the platform is told that it expired."""
    host.has_in_hand(3)
    done = host.run("drain", "--standalone", "--deadline", "0.5")
    assert done.returncode == 3
    assert "NOT drained" in done.stdout.splitlines()[-1]
    assert host.told == ["expired"]


def test_ctrl_c_leaves_it_and_the_same_command_goes_on(host: Host) -> None:
    """130 and how to go on or undo; the drain is the same one when the command comes again."""
    host.has_in_hand(1)
    with host.popen("drain", "--standalone") as process:
        try:
            eventually(lambda: host.listed == ["orders-2"], "it was never withdrawn")
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "deregister-agent restore orders-1 --standalone" in error
    assert "deregister-agent serve" in error
    assert host.listed == ["orders-2"]
    host.has_in_hand(0)
    assert host.run("drain", "--standalone").returncode == 0
    with sqlite3.connect(host.root / "journal.db") as journal:
        assert len(set(journal.execute("SELECT DISTINCT drain FROM events"))) == 1
    journal.close()


def test_a_running_agent_has_the_journal(host: Host) -> None:
    """While one agent has the journal, a second one refuses and says what to leave out."""
    host.has_in_hand(1)
    with host.popen("drain", "--standalone") as process:
        try:
            eventually(lambda: host.listed == ["orders-2"], "it was never withdrawn")
            second = host.run("drain", "--standalone")
        finally:
            process.kill()
            process.communicate()
    assert second.returncode == 75
    assert "If an agent is running, leave out --standalone" in second.stderr


def test_the_guard_counts_here_too(host: Host) -> None:
    """The last instance stays in; --force takes it out."""
    config = host.root / "config.toml"
    config.write_text(config.read_text().replace('"t_list"', '"t_list"\nothers = 0'))
    refused = host.run("drain", "--standalone")
    assert refused.returncode == 4
    assert "t_list lists 0 other instance(s)" in refused.stderr
    assert host.listed == ["orders-1", "orders-2"]
    assert host.run("drain", "--standalone", "--force").returncode == 0


def test_the_name_must_be_one_of_the_configuration(host: Host) -> None:
    """Another name is 2, and the known ones are said."""
    done = host.run("drain", "orders-9", "--standalone")
    assert done.returncode == 2
    assert "say one of orders-1" in done.stderr


def test_drained_of_long_ago_is_not_believed(host: Host) -> None:
    """What has registered itself since, while no agent was there, is withdrawn anew."""
    assert host.run("drain", "--standalone").returncode == 0
    (host.root / "list").write_text("orders-1\norders-2\n")
    host.has_in_hand(1)
    with host.popen("drain", "--standalone") as process:
        try:
            eventually(lambda: host.listed == ["orders-2"], "it was not withdrawn again")
            assert process.poll() is None
            host.has_in_hand(0)
            out, _ = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    assert process.returncode == 0
    assert out.splitlines()[-1] == "orders-1: drained: safe to kill"
    assert host.told == ["drained", "taken-back", "drained"]


def test_a_process_that_was_replaced_is_drained_in_a_drain_of_its_own(host: Host) -> None:
    """The "drained" of the process before it is no word on this one, however soon it is asked."""
    config = host.root / "config.toml"
    pid_file = host.root / "pid"
    config.write_text(
        config.read_text().replace(
            "quiet = 0.1", f'quiet = 0.1\nprocess = {{ by = "pid_file", file = "{pid_file}" }}'
        )
    )
    with subprocess.Popen(["sleep", "600"]) as old, subprocess.Popen(["sleep", "600"]) as new:
        try:
            pid_file.write_text(f"{old.pid}\n")
            assert host.run("drain", "--standalone").returncode == 0
            old.kill()
            old.wait()
            pid_file.write_text(f"{new.pid}\n")
            (host.root / "list").write_text("orders-1\norders-2\n")
            assert host.run("drain", "--standalone").returncode == 0
        finally:
            old.kill()
            new.kill()
    assert host.listed == ["orders-2"]
    with sqlite3.connect(host.root / "journal.db") as journal:
        assert len(set(journal.execute("SELECT DISTINCT drain FROM events"))) == 2
    journal.close()


def test_a_last_drain_that_cannot_be_seen_to_hold_is_tried_later(host: Host) -> None:
    """Neither drained nor anything else is said while no registry answers; it does not last."""
    assert host.run("drain", "--standalone").returncode == 0
    (host.root / "list").unlink()
    (host.root / "list").mkdir()  # it cannot be read
    done = host.run("drain", "--standalone", "--json")
    assert done.returncode == 75
    assert "still holds" in json.loads(done.stdout)["error"]
