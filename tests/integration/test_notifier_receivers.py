"""Notifiers with receivers that hang, refuse, flood, ignore signals or are somebody else."""

import base64
import hashlib
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.config.options import Secret
from deregister_agent.errors import ConfigError, NotifyError
from deregister_agent.host.clock import SystemClock
from deregister_agent.model import Announcement, Process
from deregister_agent.notifiers import command, process, ready_file, webhook
from tests.apps.receivers import (
    ORDERS,
    Receiver,
    descriptors,
    event,
    identity,
    receiving,
    started,
    wait_for,
)

RAW = "a secret as somebody typed it"
KEY = b"not a real secret, but long"
WHSEC = "whsec_" + base64.b64encode(KEY).decode()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


@pytest.fixture
def secret(tmp_path: Path) -> Secret:
    (tmp_path / "secret").write_text(WHSEC)
    return Secret(file=tmp_path / "secret")


def hook(url: str, secret: Secret, **options: Any) -> webhook.Webhook:
    return webhook.build(webhook.Options(kind="webhook", url=url, secret=secret, **options), ORDERS)


class TestWebhook:
    def test_signature_and_payload(self, receiver: Receiver, secret: Secret) -> None:
        """The receiver can check id, time and body as the Standard Webhooks specification says."""
        hook(receiver.url, secret).announce(event())
        ((path, headers, body),) = receiver.sent
        signed = headers["webhook-id"].encode() + b"." + headers["webhook-timestamp"].encode()
        digest = hmac.digest(KEY, signed + b"." + body, hashlib.sha256)
        assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 120
        assert (path, headers["webhook-id"]) == ("/hooks?team=orders", "evt-1")
        assert (headers["content-type"], headers["user-agent"]) == (
            "application/json",
            "deregister-agent",
        )
        assert json.loads(body) == {
            "type": "drain.drained",
            "timestamp": "2026-11-21T03:45:00.250Z",
            "data": {
                "id": "evt-1",
                "kind": "drained",
                "drain": "drain-1",
                "instance": {
                    "name": "orders-1",
                    "service": "orders",
                    "address": "127.0.0.1",
                    "port": 8080,
                },
                "pids": [],
                "detail": {"reason": "deploy 4711", "took": 3.5},
            },
        }

    def test_a_known_signature(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The published example of the specification's reference libraries comes out the same."""
        key = webhook._key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        signed = b'msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}'
        assert webhook._signature(key, signed) == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

    def test_several_secrets_sign(
        self, receiver: Receiver, secret: Secret, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While a secret is being changed, the receiver may check with either."""
        monkeypatch.setenv("NEXT_SECRET", RAW)
        hook(receiver.url, secret, further_secrets=(Secret(env="NEXT_SECRET"),)).announce(event())
        ((_, headers, body),) = receiver.sent
        signed = f"evt-1.{headers['webhook-timestamp']}.".encode() + body
        expected = [
            "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
            for key in (KEY, RAW.encode())
        ]
        assert headers["webhook-signature"].split(" ") == expected

    def test_headers_may_be_secrets(self, receiver: Receiver, secret: Secret) -> None:
        """Further headers are sent, those from files as well."""
        hook(receiver.url, secret, headers={"X-Team": "orders", "X-Key": secret}).announce(event())
        ((_, headers, _),) = receiver.sent
        assert (headers["x-team"], headers["x-key"]) == ("orders", WHSEC)

    @pytest.mark.parametrize("status", [302, 400, 401, 410, 500, 503])
    def test_anything_but_2xx_is_refused(
        self, receiver: Receiver, secret: Secret, status: int
    ) -> None:
        """The error has the status and what was said, neither path nor secret; once is one POST."""
        receiver.status, receiver.answer = status, b"because\nof this " + b"x" * 5000
        with pytest.raises(NotifyError, match=f"HTTP {status}.*because of this") as caught:
            hook(receiver.url, secret).announce(event())
        assert "team=orders" not in str(caught.value)
        assert WHSEC not in str(caught.value)
        assert len(str(caught.value)) < 500
        assert len(receiver.sent) == 1

    def test_a_receiver_that_hangs(self, secret: Secret) -> None:
        """A receiver that takes the connection and says nothing ends with the timeout."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
            with pytest.raises(NotifyError, match=r"no answer within 0\.2 s"):
                hook(url, secret, timeout=0.2).announce(event())

    def test_nobody_there(self, secret: Secret) -> None:
        """A closed port is refused at once, with the host named."""
        with socket.create_server(("127.0.0.1", 0)) as gone:
            url = f"http://127.0.0.1:{gone.getsockname()[1]}/"
        with pytest.raises(NotifyError, match="refused"):
            hook(url, secret).announce(event())

    @pytest.mark.parametrize("value", ["", "whsec_", "whsec_***"])
    def test_an_unusable_secret_sends_nothing(
        self, receiver: Receiver, secret: Secret, value: str
    ) -> None:
        """Without a key nothing goes out unsigned, and the value stays out of the error."""
        assert secret.file is not None
        secret.file.write_text(value)
        with pytest.raises(NotifyError, match="secret") as caught:
            hook(receiver.url, secret).announce(event())
        assert "***" not in str(caught.value)
        assert receiver.sent == []

    @pytest.mark.parametrize(
        "wrong",
        [
            {"url": "localhost/x"},
            {"url": "http://me:pw@localhost/"},
            {"url": "http://localhost/#x"},
            {"headers": {"Webhook-Id": "x"}},
            {"headers": {"Content-Type": "x"}},
            {"certificate": Path("x.pem")},
        ],
    )
    def test_mistakes_of_the_configuration(self, secret: Secret, wrong: dict[str, Any]) -> None:
        """What cannot work is refused before the first announcement."""
        with pytest.raises(ValueError, match="Value error"):
            hook(**{"url": "http://localhost/", "secret": secret, **wrong})

    def test_a_scheme_that_is_not_http(self, secret: Secret) -> None:
        """A URL that cannot be called is refused when the notifier is made, by its name."""
        with pytest.raises(ConfigError, match="webhook of orders-1"):
            hook("ftp://localhost/x", secret)


def script(text: str, **options: Any) -> command.CommandNotifier:
    argv = ("/bin/sh", "-c", text)
    return command.build(command.Options(kind="command", command=argv, **options), ORDERS)


class TestCommand:
    def test_event_on_standard_input_and_in_the_environment(
        self, tmp_path: Path, secret: Secret, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The program gets the event twice, what is configured, and nothing of the agent's own."""
        monkeypatch.setenv("CONSUL_TOKEN", "mine")
        known = event(process=identity(os.getpid()))
        script(
            f"cat > {tmp_path}/in; env > {tmp_path}/env", env={"COLOUR": "red", "KEY": secret}
        ).announce(known)
        told = json.loads((tmp_path / "in").read_text())
        assert (told["type"], told["data"]["pids"]) == ("drain.drained", [os.getpid()])
        lines = (tmp_path / "env").read_text().splitlines()
        variables = dict(line.split("=", 1) for line in lines)
        expected = {
            "DEREGISTER_EVENT": "drained",
            "DEREGISTER_ID": "evt-1",
            "DEREGISTER_DRAIN": "drain-1",
            "DEREGISTER_TIME": "2026-11-21T03:45:00.250Z",
            "DEREGISTER_INSTANCE": "orders-1",
            "DEREGISTER_SERVICE": "orders",
            "DEREGISTER_ADDRESS": "127.0.0.1",
            "DEREGISTER_PORT": "8080",
            "DEREGISTER_PIDS": str(os.getpid()),
            "COLOUR": "red",
            "KEY": WHSEC,
        }
        assert expected.items() <= variables.items()
        assert set(variables) - set(expected) <= {"PATH", "HOME", "LANG", "PWD", "SHLVL", "_"}

    def test_no_shell_looks_at_the_arguments(self, tmp_path: Path) -> None:
        """Arguments reach the program as they are."""
        argv = (sys.executable, "-c", "import sys; sys.exit(sys.argv[1] != '$(id); *')", "$(id); *")
        command.build(command.Options(kind="command", command=argv), ORDERS).announce(event())

    def test_failure_has_status_and_last_words(self) -> None:
        """The error ends with the last line of standard error."""
        with pytest.raises(NotifyError, match=r"exit status 3: no such stage$"):
            script("echo first >&2; echo no such stage >&2; exit 3").announce(event())

    def test_killed_by_a_signal(self) -> None:
        """A program that is killed has not taken it."""
        with pytest.raises(NotifyError, match="killed by signal 9"):
            script("kill -9 $$").announce(event())

    def test_not_there(self) -> None:
        """A program that does not exist is named."""
        options = command.Options(kind="command", command=("/nonexistent/tell",))
        with pytest.raises(NotifyError, match=r"/nonexistent/tell.*No such file"):
            command.build(options, ORDERS).announce(event())

    def test_huge_output_is_neither_kept_nor_in_the_way(self) -> None:
        """Megabytes on both outputs end in one short line."""
        flood = "head -c 20000000 /dev/zero | tr '\\0' x"
        with pytest.raises(NotifyError, match=r"xxx$") as caught:
            script(f"{flood}; {flood} >&2; exit 1", timeout=30).announce(event())
        assert len(str(caught.value)) < 600

    def test_a_program_that_reads_nothing(self) -> None:
        """A large event holds up neither a program that does not read it, nor its end."""
        large = event()
        object.__setattr__(large, "detail", {"why": "x" * 1_000_000})
        script("exec head -c 200000 /dev/zero >&2").announce(large)
        with pytest.raises(NotifyError, match=r"no end within 1 s"):
            script("exec sleep 600", timeout=1.0).announce(large)

    def test_one_that_hangs_is_killed_with_all_it_started(self, tmp_path: Path) -> None:
        """When the time is over, the program and its children are gone, deaf ones as well."""
        text = (
            f"trap '' TERM; sleep 600 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/self; wait"
        )
        with pytest.raises(NotifyError, match=r"no end within 1 s"):
            script(text, timeout=1.0).announce(event())
        for name in ("child", "self"):
            pid = int((tmp_path / name).read_text())
            wait_for(lambda pid=pid: not alive(pid), f"{name} {pid} is gone")  # type: ignore[misc]

    def test_what_it_leaves_running_is_not_waited_for(self, tmp_path: Path) -> None:
        """A child in the background that keeps standard error open does not hold it up."""
        begun = time.monotonic()
        try:
            script(f"sleep 600 & echo $! > {tmp_path}/child", timeout=50).announce(event())
            assert time.monotonic() - begun < 50
        finally:
            os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)

    def test_no_descriptor_is_left(self) -> None:
        """Whatever the end, nothing stays open."""
        kinds = ("pipe:", "pidfd", "memfd:event")
        before = descriptors(*kinds)
        script("exit 0").announce(event())
        for text in ("exit 1", "sleep 600"):
            with pytest.raises(NotifyError):
                script(text, timeout=0.3).announce(event())
        assert descriptors(*kinds) == before


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


class TestReadyFile:
    def build(self, folder: Path, **options: Any) -> ready_file.ReadyFile:
        paths = {"path": folder / "ready", "expired_path": folder / "expired"}
        return ready_file.build(
            ready_file.Options(kind="ready_file", **{**paths, **options}), ORDERS
        )

    @pytest.mark.parametrize(
        ("kinds", "there"),
        [
            (["drained"], {"ready"}),
            (["expired"], {"expired"}),
            (["expired", "forced"], {"ready"}),
            (["drained", "taken-back"], set()),
            (["drained", "taken-back", "expired"], {"expired"}),
            (["drained", "expired"], {"expired"}),
            (["expired", "serving"], set()),
            (["drained", "serving"], set()),
            (["drained", "not-restored"], {"ready"}),
        ],
    )
    def test_drained_and_expired_are_different_files(
        self, tmp_path: Path, kinds: list[str], there: set[str]
    ) -> None:
        """At most one file is there, and the last announcement says which."""
        notifier = self.build(tmp_path)
        for kind in kinds:
            notifier.announce(event(Announcement(kind)))
        assert {file.name for file in tmp_path.iterdir()} == there

    def test_the_file_holds_the_event(self, tmp_path: Path) -> None:
        """Who finds the file can see which drain it is about."""
        self.build(tmp_path).announce(event())
        assert json.loads((tmp_path / "ready").read_text())["data"]["drain"] == "drain-1"

    def test_expired_alone_writes_nothing_without_a_path(self, tmp_path: Path) -> None:
        """Without expired_path, giving up leaves no file at all."""
        notifier = self.build(tmp_path, expired_path=None)
        notifier.announce(event())
        notifier.announce(event(Announcement.EXPIRED))
        assert list(tmp_path.iterdir()) == []

    def test_one_path_for_both_is_refused(self, tmp_path: Path) -> None:
        """Drained and expired cannot be told by one file."""
        with pytest.raises(ValueError, match="must differ"):
            self.build(tmp_path, expired_path=tmp_path / "ready")

    def test_it_must_learn_when_to_remove_the_file(self, tmp_path: Path) -> None:
        """Without "taken-back" and "serving" the file would outlive its truth."""
        with pytest.raises(ValueError, match="taken-back"):
            self.build(tmp_path, announces=(Announcement.DRAINED,))


Spawn = Callable[[str], "subprocess.Popen[bytes]"]

DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(flush=True)
time.sleep(600)
"""
POLITE = "import time; print(flush=True); time.sleep(600)"
# A parent with two workers: it ends them itself, and writes down who got SIGTERM.
PREFORK = """
import os, signal, sys, time
def told(*_):
    os.write(2, f"{os.getpid()}\\n".encode()); os._exit(0)
workers = []
signal.signal(signal.SIGTERM, told)
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
    workers.append(pid)
def stop(*_):
    os.write(2, f"{os.getpid()}\\n".encode())
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
print(*workers, flush=True)
time.sleep(600)
"""


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start Python programs that print a line when they are ready; end them after the test."""
    children: list[subprocess.Popen[bytes]] = []

    def start(text: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-c", text],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


def line(child: "subprocess.Popen[bytes]") -> str:
    assert child.stdout is not None
    return child.stdout.readline().decode()


def end(process_: Process | None, grace: float = 10.0, **more: Any) -> None:
    notifier = process.build(process.Options(kind="process", grace=grace), ORDERS)
    notifier.announce(event(process=process_, **more))


class TestProcess:
    def test_sigterm_is_enough_for_most(self, spawn: Spawn) -> None:
        """A process that exits on SIGTERM is not killed."""
        child = spawn(POLITE)
        line(child)
        end(identity(child.pid), grace=60)
        assert child.wait() == -signal.SIGTERM

    def test_sigkill_for_the_deaf(self, spawn: Spawn) -> None:
        """A process that ignores SIGTERM is killed when the grace is over."""
        child = spawn(DEAF)
        line(child)
        end(identity(child.pid), grace=0.2)
        assert child.wait() == -signal.SIGKILL

    def test_a_parent_ends_its_own_workers(self, spawn: Spawn) -> None:
        """Of a pre-fork app only the parent gets SIGTERM; all are gone when it returns."""
        parent = spawn(PREFORK)
        workers = [int(pid) for pid in line(parent).split()]
        end(identity(*workers, parent.pid), grace=60)
        assert parent.stderr is not None
        assert parent.stderr.read() == f"{parent.pid}\n".encode()
        assert [alive(pid) for pid in workers] == [False, False]

    def test_workers_that_outlive_the_parent_are_killed(self, spawn: Spawn) -> None:
        """After the grace every process of the set goes, not the parent alone."""
        parent = spawn(PREFORK.replace("os.kill(pid, signal.SIGKILL)", "os._exit(0)"))
        workers = [int(pid) for pid in line(parent).split()]
        end(identity(parent.pid, *workers), grace=0.3)
        for pid in workers:
            wait_for(lambda pid=pid: not alive(pid), f"worker {pid} is gone")  # type: ignore[misc]

    def test_another_process_with_the_same_pid_is_left_alone(self, spawn: Spawn) -> None:
        """A start time that differs means that the drained process has exited: nothing is sent."""
        child = spawn(POLITE)
        line(child)
        boot = SystemClock().boot_id()
        end(Process(boot, ((child.pid, started(child.pid) - 1),)), grace=0)
        assert child.poll() is None

    def test_another_boot_means_gone(self, spawn: Spawn) -> None:
        """Pids of a former boot are never signalled."""
        child = spawn(POLITE)
        line(child)
        end(Process("another boot", ((child.pid, started(child.pid)),)), grace=0)
        assert child.poll() is None

    def test_already_gone_is_taken(self, spawn: Spawn) -> None:
        """A process that has exited, reaped or not, needs no end."""
        child, other = spawn("print(flush=True)"), spawn(POLITE)
        line(other)
        known = identity(child.pid, other.pid)
        wait_for(lambda: not alive(child.pid), "the child has exited")
        end(known, grace=60)
        assert other.wait() == -signal.SIGTERM
        began = time.monotonic()
        end(known, grace=60)  # the one is a zombie, the other reaped
        child.wait()
        end(known, grace=60)
        assert time.monotonic() - began < 60

    def test_unknown_process_says_what_to_configure(self) -> None:
        """Without pids nothing is guessed."""
        for unknown in (None, Process(SystemClock().boot_id(), sockets=(123,))):
            with pytest.raises(NotifyError, match="pid file or a systemd unit"):
                end(unknown)

    def test_never_init_and_never_itself(self, spawn: Spawn) -> None:
        """A set with pid 1 or the agent in it is refused before anybody is signalled."""
        child = spawn(POLITE)
        line(child)
        for forbidden in (1, os.getpid()):
            with pytest.raises(NotifyError, match=f"pid {forbidden} is"):
                end(identity(child.pid, forbidden), grace=0)
        assert child.poll() is None

    def test_only_drained_and_forced_end_a_process(self, spawn: Spawn) -> None:
        """No other announcement may be chosen, or ends anything if it comes all the same."""
        child = spawn(POLITE)
        line(child)
        with pytest.raises(NotifyError, match="expired"):
            end(identity(child.pid), kind=Announcement.EXPIRED)
        with pytest.raises(ValueError, match="only"):
            process.Options(kind="process", announces=(Announcement.EXPIRED,))
        assert child.poll() is None

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
    def test_without_the_right_to_signal(self, spawn: Spawn, tmp_path: Path) -> None:
        """A refusal of the kernel is an error that says what to do."""
        child = spawn(POLITE)
        line(child)
        result: list[BaseException] = []

        def as_nobody() -> None:
            # Capabilities and ids are those of the thread: the rest of the test stays root.
            setresuid_of_this_thread(65534)
            try:
                end(identity(child.pid), grace=0)
            except NotifyError as e:
                result.append(e)

        thread = threading.Thread(target=as_nobody)
        thread.start()
        thread.join()
        assert "not allowed to send SIGTERM" in str(result[0])
        assert "as root" in str(result[0])
        assert child.poll() is None


def setresuid_of_this_thread(uid: int) -> None:
    """Call the kernel itself: glibc's function would change every thread (man 2 setresuid)."""
    import ctypes  # noqa: PLC0415 - only this test needs it

    number = {"x86_64": 117, "aarch64": 147}[os.uname().machine]
    assert ctypes.CDLL(None).syscall(number, uid, uid, uid) == 0
