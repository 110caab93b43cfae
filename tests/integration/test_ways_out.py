"""The ways to drain what a registry does not show, and what was seen before a crash."""

import json
import os
import signal
import socket
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.cli.client import asker
from deregister_agent.demo.stage import free_ports
from tests.apps.receivers import Receiver, receiving
from tests.integration.presence_stage import PROBE, Host, TargetFile, running_host
from tests.loops import eventually

NEVER_SEEN = "urn:deregister-agent:never-seen"
TCP = "[[instance.probe]]\nkind = 'tcp'\n"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with running_host(tmp_path) as made:
        yield made


@pytest.fixture
def vacant(tmp_path: Path) -> Host:
    """Give a host where no app was ever started."""
    return Host(tmp_path)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def hook(host: Host, receiver: Receiver) -> str:
    """Return the table of a notifier that is told of everything."""
    secret = host.root / "secret"
    secret.write_text("whsec_" + "c2VjcmV0" * 4)
    return (
        f"[[instance.notifier]]\nkind = 'webhook'\nurl = '{receiver.url}'\n"
        f"secret = {{{{ file = '{secret}' }}}}\n"  # it is formatted with the port
    )


def announced(receiver: Receiver) -> list[dict[str, Any]]:
    return [json.loads(body)["data"] for _, _, body in receiver.sent]


def test_one_may_vouch_for_a_registry(host: Host, receiver: Receiver) -> None:
    """It is told by whom, and why, to everybody who is told that it may be killed."""
    file = TargetFile(host.root / "shop.json", "a:1", "b:2")
    beside, gone = file.table("target = 'a:1'"), "kind = 'consul'\nurl = 'http://127.0.0.1:1'"
    host.add("a", beside, gone, probe=PROBE + hook(host, receiver))
    note = f"consul: not waited for: vouched for by {asker()} (uid {os.getuid()}) (burnt down)"
    with host.agent():
        assert host.run("drain", "a", "--vouch", "consul").returncode == 2
        unknown = host.run("drain", "a", "--vouch", "konsul", "--reason", "x")
        assert (unknown.returncode, "it has: file, consul" in unknown.stderr) == (2, True)
        listed = host.run("drain", "a", "--vouch", "file", "--reason", "x")
        assert (listed.returncode, "so nobody can vouch" in listed.stderr) == (4, True)
        assert (file.targets(), host.phase("a")) == (["a:1", "b:2"], "serving")
        done = host.run("drain", "a", "--wait", "--vouch", "consul", "--reason", "burnt down")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[-1] == f"a: drained: safe to kill; {note}"
        told = host.get("a", "traffic-drained")
        assert (told.status, note in told.body["notes"]) == (200, True)
        assert note in host.run("status", "a").stdout
        events = {one["kind"]: one["detail"] for one in host.last("a")["events"]}
        assert events["withdrawing"]["vouched"] == ["consul"]
        assert note in events["drained"]["notes"]
        eventually(lambda: receiver.sent, "the platform is told")
    (drained,) = announced(receiver)
    assert (drained["kind"], note in drained["detail"]["notes"]) == ("drained", True)


def test_what_need_not_be_there_is_waited_for_neither_way(host: Host) -> None:
    """It is named when the instance goes and when it comes back, and stays as it is."""
    file = TargetFile(host.root / "shop.json", "a:1", "b:2")
    canary = TargetFile(host.root / "canary.json", "b:2")
    choice = "target = 'a:1'\nname = 'canary'\nabsent = 'withdrawn'"
    host.add("a", file.table("target = 'a:1'"), canary.table(choice))
    with host.agent():
        done = host.run("drain", "a", "--wait")
        assert (done.returncode, file.targets()) == (0, ["b:2"])
        assert "safe to kill; canary: not waited for: it did not have it" in done.stdout
        back = host.run("restore", "a", "--wait")
        assert (back.returncode, back.stderr) == (0, "")
        last = back.stdout.splitlines()[-1]
        assert last == "a: serving: file lists it; canary is not waited for"
        assert host.get("a", "traffic-started").status == 200
    assert (sorted(file.targets()), canary.targets()) == (["a:1", "b:2"], ["b:2"])


def test_what_could_not_be_asked_before_undoes_the_drain(host: Host, receiver: Receiver) -> None:
    """Told too late that it was never there: it is put back, and the last words say why."""
    file = TargetFile(host.root / "shop.json", "a:1", "b:2")
    late = host.root / "late.json"
    table = f"kind = 'file'\npath = '{late}'\nname = 'late'"
    host.add("a", file.table("target = 'a:1'"), table, probe=PROBE + hook(host, receiver))
    with host.agent(), ThreadPoolExecutor(1) as pool:
        drain = pool.submit(host.run, "drain", "a", "--wait", "--on-deadline", "kill")
        eventually(lambda: file.targets() == ["b:2"], "it is withdrawn where it could be asked")
        TargetFile(late, "b:2")
        done = drain.result()
        assert (done.returncode, done.stderr) == (4, "")
        last = done.stdout.splitlines()[-1]
        assert last.startswith("a: NOT drained: refused: late does not show it")
        eventually(lambda: host.phase("a") == "serving", "it is put back")
        assert host.last("a")["outcome"] == "refused"
    assert file.targets() == ["a:1", "b:2"]
    assert {one["kind"] for one in announced(receiver)} <= {"serving"}


def first_deploy(host: Host, receiver: Receiver, quiet: float) -> tuple[int, TargetFile]:
    """Write down an instance on a port where nobody ever listened, and that nobody lists."""
    (port,) = free_ports(1)
    file = TargetFile(host.root / "shop.json", "b:2")
    probe = TCP + hook(host, receiver)
    host.add("a", file.table(), port=port, quiet=quiet, process="", probe=probe)
    return port, file


def test_nobody_is_there_to_be_drained(vacant: Host, receiver: Receiver) -> None:
    """Exit 0 and a word of its own, and nobody is told to kill anything."""
    first_deploy(vacant, receiver, 0.5)
    with vacant.agent():
        assert vacant.run("drain", "a").returncode == 4
        done = vacant.run("drain", "a", "--if-present", "--wait")
        assert (done.returncode, done.stderr) == (0, "")
        last = done.stdout.splitlines()[-1]
        assert last == "a: absent: nobody was there to be drained, and nobody came"
        told = vacant.get("a", "traffic-drained")
        assert (told.status, told.body["drain"]["outcome"]) == (200, "absent")
        assert vacant.last("a")["outcome"] == "absent"
        assert 'outcome="absent"' in vacant.metric("deregister_agent_drains_total")
        assert vacant.metric("deregister_agent_announcements_waiting").endswith(" 0.0")
    assert receiver.sent == []


def test_who_comes_before_that_is_withdrawn(vacant: Host, receiver: Receiver) -> None:
    """An app that listens and registers itself is drained as any other, and is not absent."""
    port, file = first_deploy(vacant, receiver, 60.0)
    with vacant.agent():
        assert vacant.run("drain", "a", "--if-present").returncode == 0
        with socket.create_server(("127.0.0.1", port)):
            file.write("b:2", f"127.0.0.1:{port}")
            eventually(lambda: file.targets() == ["b:2"], "it is withdrawn")
            eventually(lambda: vacant.phase("a") == "draining", "it is drained")
            eventually(
                lambda: vacant.get("a").body["process"]["pids"] == [os.getpid()], "it is seen"
            )
            told = vacant.get("a", "traffic-drained")
            assert (told.status, told.body["drain"]["outcome"]) == (503, None)
            assert vacant.run("restore", "a", "--wait").returncode == 0
    assert {one["kind"] for one in announced(receiver)} <= {"serving"}


def test_a_connection_that_has_just_ended_was_somebodys(vacant: Host, receiver: Receiver) -> None:
    """A supervisor may be about to start the app again: with its port in TIME_WAIT it was there."""
    port, file = first_deploy(vacant, receiver, 0.5)
    with (
        socket.create_server(("127.0.0.1", port)) as listener,
        closing(socket.create_connection(("127.0.0.1", port))) as client,
    ):
        listener.accept()[0].close()  # who closes first waits
        assert client.recv(1) == b""
    with vacant.agent():
        done = vacant.run("drain", "a", "--if-present", "--wait")
        assert (done.returncode, "file does not show it" in done.stderr) == (4, True)
        assert vacant.phase("a") == "serving"
    assert file.targets() == ["b:2"]


def test_what_was_seen_is_known_after_a_crash(host: Host) -> None:
    """Seen and gone goes on to drained; under other options it was not seen."""
    here, moved = (TargetFile(host.root / f"{name}.json", "a:1", "b:2") for name in ("here", "old"))
    elsewhere = TargetFile(host.root / "new.json", "b:2")
    beside = TargetFile(host.root / "beside.json", "a:1", "b:2")
    second = beside.table("target = 'a:1'", "name = 'beside'")
    host.add("kept", here.table("target = 'a:1'"))
    host.add("moved", second, moved.table("target = 'a:1'"))
    with host.agent():
        eventually(lambda: _who_was_seen(host) == {"kept", "moved"}, "both are seen, and of whom")
        assert host.child is not None
        host.child.signal(signal.SIGKILL)
    here.write("b:2")
    moved.write("b:2")
    host.add("moved", second, elsewhere.table("target = 'a:1'"))
    with host.agent():
        done = host.run("drain", "kept", "--wait")
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "kept: drained: safe to kill")
        refused = host.post("moved", "stop-traffic")
        assert (refused.status, refused.body["type"]) == (409, NEVER_SEEN)
        assert beside.targets() == ["a:1", "b:2"]


def _who_was_seen(host: Host) -> set[str]:
    """Return which instances every registry has shown, and of which process, by the journal."""
    rows = "SELECT instance, min(identity != '' AND process IS NOT NULL) FROM registrations"
    with closing(sqlite3.connect(f"file:{host.root}/journal.db?mode=ro", uri=True)) as journal:
        return {name for name, seen in journal.execute(f"{rows} GROUP BY instance") if seen}
