"""What speaks against an announcement is found without one."""

import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from deregister_agent.demo.stage import free_ports
from deregister_agent.errors import NotifyError
from deregister_agent.host.peers import kept_peers
from deregister_agent.model import Process
from deregister_agent.notifiers import command, process, ready_file, webhook
from tests.apps.receivers import ORDERS, descriptors, identity, receiving, wait_for


def _webhook(url: str, **more: object) -> webhook.Webhook:
    options = {"kind": "webhook", "url": url, "secret": {"env": "HOOK"}} | more
    return webhook.build(webhook.Options.model_validate(options), ORDERS)


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "sesame")


def test_a_webhook_is_connected_to_and_sent_nothing() -> None:
    """The receiver sees no request, and no connection is left open."""
    with receiving() as receiver:
        before = descriptors("socket")
        assert "takes connections" in _webhook(receiver.url).examine(None)
        wait_for(lambda: len(descriptors("socket")) <= len(before), "both ends are closed")
        assert receiver.sent == []


def test_what_keeps_a_webhook_from_being_told_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens, no TLS is spoken there, a secret cannot be read: each in words."""
    (nobody,) = free_ports(1)
    with pytest.raises(NotifyError, match="refused"):
        _webhook(f"http://127.0.0.1:{nobody}/hook").examine(None)
    with receiving() as receiver:
        with pytest.raises(NotifyError, match="TLS failed"):
            _webhook(receiver.url.replace("http:", "https:"), timeout=5.0).examine(None)
        unread = _webhook(receiver.url, headers={"authorization": {"env": "MISSING"}})
        with pytest.raises(NotifyError, match="MISSING"):
            unread.examine(None)
        monkeypatch.setenv("HOOK", "whsec_?")
        with pytest.raises(NotifyError, match="base64") as caught:
            _webhook(receiver.url).examine(None)
        assert "whsec_?" not in str(caught.value)


def test_a_webhook_behind_a_unix_socket_is_reached(tmp_path: Path) -> None:
    """The socket's file is connected to as well."""
    path = tmp_path / "hook.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        url = f"http+unix://{str(path).replace('/', '%2F')}/hook"
        assert "takes connections" in _webhook(url).examine(None)
    path.unlink()
    with pytest.raises(NotifyError, match="No such file"):
        _webhook(url).examine(None)


def test_a_ready_file_needs_its_folder(tmp_path: Path) -> None:
    """The folder of each file must be there; nothing is made."""

    def notifier(**paths: Path) -> ready_file.ReadyFile:
        options = ready_file.Options.model_validate({"kind": "ready_file"} | paths)
        return ready_file.build(options, ORDERS)

    assert str(tmp_path / "ready") in notifier(path=tmp_path / "ready").examine(None)
    with pytest.raises(NotifyError, match="is not there"):
        notifier(path=tmp_path / "no" / "ready").examine(None)
    with pytest.raises(NotifyError, match="is not there"):
        notifier(path=tmp_path / "ready", expired_path=tmp_path / "no" / "expired").examine(None)
    (tmp_path / "folder").mkdir()
    with pytest.raises(NotifyError, match="a folder stands in its place"):
        notifier(path=tmp_path / "folder").examine(None)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_command_must_be_there_and_is_not_run(tmp_path: Path) -> None:
    """By its path or by PATH; one that may not be run is none; its secrets can be read."""

    def examine(*line: str, **more: object) -> str:
        options = {"kind": "command", "command": line} | more
        return command.build(command.Options.model_validate(options), ORDERS).examine(None)

    program = tmp_path / "tell"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/told\n")
    with pytest.raises(NotifyError, match="no such program"):
        examine(str(program))
    program.chmod(0o755)
    assert str(program) in examine(str(program))
    assert "/sh could be run" in examine("sh")
    with pytest.raises(NotifyError, match="no such program"):
        examine("surely-nothing-is-called-so")
    with pytest.raises(NotifyError, match="MISSING"):
        examine("sh", env={"TOKEN": {"env": "MISSING"}})
    assert not (tmp_path / "told").exists()


def test_a_process_must_be_seen_and_gets_no_signal() -> None:
    """Not known, init, the agent itself, or gone since: each is said; who lives goes on living."""
    end = process.build(process.Options(kind="process"), ORDERS)
    with subprocess.Popen(["sleep", "600"]) as child:
        running = identity(child.pid)
        assert f"pid {child.pid}" in end.examine(running)
        assert child.poll() is None
        child.kill()
    with pytest.raises(NotifyError, match="No such process"):
        end.examine(running)
    for who in (None, Process("boot"), identity(1), identity(os.getpid())):
        with pytest.raises(NotifyError, match="cannot end the process"):
            end.examine(who)


CONNECT = (
    "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); input()"
)


def test_connections_of_others_are_counted_and_own_ones_are_not() -> None:
    """Those that the agent keeps to the app would keep it busy in no drain."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert kept_peers(port) == []
        with (
            socket.create_connection(("127.0.0.1", port)),
            closing(listener.accept()[0]),
            subprocess.Popen(
                [sys.executable, "-c", CONNECT, str(port)], stdin=subprocess.PIPE
            ) as child,
            closing(listener.accept()[0]),
        ):
            (peer,) = kept_peers(port)
            assert (peer.address, peer.connections, peer.used) == ("127.0.0.1", 1, False)
            assert peer.program.startswith("python")
            child.communicate(b"\n")
