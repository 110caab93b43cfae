"""What cannot be told of a process is said to be unknown, with a sentence, and is no exit."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from deregister_agent.errors import NotifyError, ProbeError
from deregister_agent.host import forwarders, pids
from deregister_agent.host.clock import SystemClock
from deregister_agent.host.find_by_port import PortFinder
from deregister_agent.host.forwarders import SERVICE_MANAGERS, is_one_of
from deregister_agent.host.network import Network
from deregister_agent.host.process_finder import BySystemdUnit, ProbeMark, build
from deregister_agent.host.sockets import listeners
from deregister_agent.model import Announcement, Event, Instance, Presence, Process
from deregister_agent.notifiers import process as ending
from deregister_agent.probes import tcp

CLOCK = SystemClock()
WEB = Instance("web", "web", "127.0.0.1", 1)
PYTHON = str(Path(sys.executable).resolve())
SERVES = """
import os, signal, socket, sys
server = socket.create_server(("127.0.0.1", 0))
if len(sys.argv) > 1 and os.fork() == 0:
    signal.pause()
print(server.getsockname()[1], flush=True)
signal.pause()
"""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as one:
        yield one


def serving(stack: ExitStack, *arguments: str, program: str = PYTHON) -> tuple[int, int]:
    """Start a server; return its pid and port."""
    command = [program, "-c", SERVES, *arguments]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert child.stdout
    stack.enter_context(child.stdout)
    stack.callback(child.wait)
    stack.callback(os.killpg, child.pid, signal.SIGKILL)
    return child.pid, int(child.stdout.readline())


class TestMarks:
    def test_marks_that_take_turns_are_no_exits(self) -> None:
        """Each worker has a mark of its own: none of them exits when another answers."""
        finder = ProbeMark(CLOCK)
        for mark in ("a", "b", "a"):
            finder.heard(mark)
        was = Process(CLOCK.boot_id(), mark="a")
        for mark in ("b", "a", "b", "b", "b"):
            finder.heard(mark)
            presence = finder.look(was)
            assert (presence.exited, presence.running) == (False, was)
            assert "take turns (a, b)" in presence.note

    def test_a_mark_that_is_none_of_theirs_is_the_next_version(self) -> None:
        """Known workers are told from whoever was never heard beside them."""
        finder = ProbeMark(CLOCK)
        for mark in ("a", "b", "c", "a", "d"):
            finder.heard(mark)
        presence = finder.look(Process(CLOCK.boot_id(), mark="b"))
        assert presence.exited
        assert presence.running == Process(CLOCK.boot_id(), mark="d")

    def test_one_restart_after_another(self) -> None:
        """Marks that never come back are processes one after another."""
        finder = ProbeMark(CLOCK)
        finder.heard("a")
        for before, mark in (("a", "b"), ("b", "c")):
            finder.heard(mark)
            assert finder.look(Process(CLOCK.boot_id(), mark=before)).exited


class TestManagers:
    @pytest.mark.parametrize("name", ["circusd", "supervisord", "systemd", "einhorn", "xinetd"])
    def test_who_keeps_a_socket_for_its_child(
        self, stack: ExitStack, tmp_path: Path, name: str
    ) -> None:
        """With no child that has the socket, nobody runs, though the port is open."""
        program = tmp_path / name
        program.symlink_to(PYTHON)
        manager, port = serving(stack, program=str(program))
        presence = PortFinder(port, "127.0.0.1", CLOCK).look(None)
        assert (presence.running, presence.nobody) == (None, False)
        assert f"held open by pid {manager} ({name})" in presence.note

    def test_names_are_compared_as_the_kernel_cuts_them(self) -> None:
        """The beginning of a name counts only where the whole of it is not told."""
        cut = "systemd-socket-"
        assert is_one_of(SERVICE_MANAGERS, {cut}) == "systemd-socket-activate"
        assert is_one_of(SERVICE_MANAGERS, {cut, "systemd-socket-proxyd"}) == ""
        assert is_one_of(SERVICE_MANAGERS, {"init"}) == "init"
        assert is_one_of(SERVICE_MANAGERS, {"initiate"}) == ""


class TestUnits:
    @pytest.mark.parametrize("load", ["not-found", "masked", "bad-setting", "error"])
    def test_a_unit_that_systemd_does_not_know(self, tmp_path: Path, load: str) -> None:
        """It is "inactive" by systemd, and a wrong name: not known, and nobody is not there."""
        systemctl = tmp_path / "systemctl"
        said = f"MainPID=0\\nActiveState=inactive\\nLoadState={load}\\nControlGroup=\\n"
        systemctl.write_text(f"#!/bin/sh\nprintf '{said}'\n")
        systemctl.chmod(0o755)
        options = BySystemdUnit(
            by="systemd_unit", unit="ordrs.service", systemctl=(str(systemctl),)
        )
        finder = build(options, WEB, CLOCK)
        presence = finder.look(None)
        assert (presence.exited, presence.running, presence.nobody) == (False, None, False)
        assert f"unit ordrs.service (it is {load}" in presence.note
        was = Process(CLOCK.boot_id(), ((2**22, 5),), namespace=pids.namespace())
        assert finder.look(was).exited, "of a transient unit nothing is left when it ends"


class TestBlind:
    def test_the_note_says_so_when_the_listener_has_gone_as_well(self) -> None:
        """Without pids, and with nobody on the port, it says what it cannot tell."""
        with socket.create_server(("127.0.0.1", 0)) as one:
            port = one.getsockname()[1]
        was = Process(CLOCK.boot_id(), (), (5,))
        presence = PortFinder(port, "127.0.0.1", CLOCK).look(was)
        assert presence == Presence(exited=False, running=None, note=presence.note)
        assert "cannot see which process listens" in presence.note

    def test_nobody_is_shown_and_an_engine_runs(
        self, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The connections may be elsewhere, until one is seen that was accepted here."""
        with socket.create_server(("127.0.0.1", 0)) as app:
            port = app.getsockname()[1]
            probe = tcp.build(tcp.Options(kind="tcp", port=port), WEB)
            hidden = {one.inode: frozenset[pids.Pid]() for one in listeners(port)}
            monkeypatch.setattr(tcp, "holders", lambda _: hidden)
            monkeypatch.setattr(tcp, "engine_running", lambda: "dockerd")
            for _ in range(2):
                with pytest.raises(ProbeError, match="dockerd runs on this host"):
                    probe.read(0.0)
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            accepted, _ = app.accept()
            stack.enter_context(accepted)
            assert probe.read(0.0).in_flight

    def test_an_engine_is_found_by_its_name(
        self, stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever may keep ports for containers, as far as names are shown to any user."""
        monkeypatch.setattr(forwarders, "_KEEPERS", frozenset({"keeps-for-tests"}))
        assert forwarders.engine_running() == ""
        program = tmp_path / "keeps-for-tests"
        program.symlink_to(PYTHON)
        serving(stack, program=str(program))
        assert forwarders.engine_running() == "keeps-for-tests"

    def test_a_network_that_lost_its_links(self) -> None:
        """All of them: one that comes and goes is not the container's own."""
        before = Network("net:[1]", frozenset({(2, "eth0"), (3, "eth1")}))
        assert before.lost(before) == ""
        assert before.lost(Network("net:[1]", frozenset({(2, "eth0")}))) == ""
        assert "lost its links (eth0, eth1)" in before.lost(Network("net:[1]", frozenset()))
        assert "another network namespace" in before.lost(Network("net:[2]", before.links))
        alone = Network("net:[1]", frozenset())
        assert alone.lost(alone) == ""


class TestNotifier:
    def _end(self, process: Process) -> None:
        notifier = ending.build(ending.Options(kind="process", grace=5.0), WEB)
        event = Event("1", Announcement.DRAINED, WEB, "d", 0.0, process=process)
        notifier.announce(event)

    def test_what_is_not_shown_has_not_exited(
        self, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where /proc hides the process (hidepid), it is neither ended nor called ended."""
        pid, _ = serving(stack)
        found = pids.find(pid)
        assert found is not None
        monkeypatch.setattr(ending, "read_stat", lambda _: None)
        with pytest.raises(NotifyError, match="lives and is not shown"):
            self._end(Process(CLOCK.boot_id(), (found,)))
        descriptor = os.pidfd_open(pid)
        stack.callback(os.close, descriptor)
        assert not select.select([descriptor], [], [], 0)[0]

    def test_it_ends_the_app_alone(self, stack: ExitStack, tmp_path: Path) -> None:
        """Among the recorded ones is an engine: nobody is ended."""
        app, _ = serving(stack)
        program = tmp_path / "docker-proxy"
        program.symlink_to(PYTHON)
        engine, _ = serving(stack, program=str(program))
        both = tuple(found for pid in (app, engine) if (found := pids.find(pid)) is not None)
        with pytest.raises(NotifyError, match="docker-proxy, which runs or serves containers"):
            self._end(Process(CLOCK.boot_id(), both))
        assert len(pids.living(both)) == 2
        self._end(replace(Process(CLOCK.boot_id(), both), pids=both[:1]))
        assert len(pids.living(both)) == 1
