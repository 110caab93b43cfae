"""A whole drain of a systemd unit: the real agent beside a real systemd, and a request in hand."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.presence_stage import Host, TargetFile
from tests.integration.process_stage import FORKING, PYTHON
from tests.loops import eventually
from tests.servers.systemd import Systemd, running_systemd

UNIT, PORT = "orders.service", 18000
TCP = "[[instance.probe]]\nkind = 'tcp'\n"
NOTIFIER = "[[instance.notifier]]\nkind = 'process'\n"


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    with running_systemd(tmp_path) as one:
        yield one


class Drained:
    """The unit, the agent's host around it, and a client of the unit's app."""

    def __init__(self, stack: ExitStack, systemd: Systemd, folder: Path) -> None:
        self.systemd, self.sign = systemd, folder / "sign"
        self.host = Host(folder, before=systemd.before)
        stack.callback(self.host.apps.close)
        self.listed = TargetFile(folder / "targets.json", f"127.0.0.1:{PORT}", "b:1")
        (folder / "app.py").write_text(FORKING.format(own_session=True))
        self._stack = stack

    def start(self, *lines: str, probe: str = TCP) -> None:
        """Start the unit, and write down the instance."""
        app = f"{PYTHON} {self.host.root / 'app.py'} {PORT} {self.sign}"
        self.systemd.service(UNIT, app, *lines)
        self.systemd.ctl("start", UNIT)
        table = self.listed.table(f"target = '127.0.0.1:{PORT}'")
        by = f'process = {{ by = "systemd_unit", unit = "{UNIT}" }}'
        self.host.add("app", table, probe=probe, port=PORT, process=by, quiet=0.3)

    def request(self) -> None:
        """Have a child of the app work on a request until the sign."""
        client = self._stack.enter_context(self.systemd.connect(PORT))
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        eventually(lambda: len(self.systemd.members(UNIT)) == 2, "a child has the request")
        self.client = client

    def begin(self) -> None:
        """Stop the traffic, and wait until the instance is out."""
        eventually(lambda: self.host.get("app").body["process"]["pids"], "the app is seen")
        assert self.host.post("app", "stop-traffic").status == 202
        eventually(lambda: self.host.phase("app") == "draining", "it drains")
        assert self.listed.targets() == ["b:1"]

    def is_drained(self) -> bool:
        return self.host.get("app", "traffic-drained").status == 200

    def finish(self) -> None:
        """Let the request end, and the client have its answer."""
        self.sign.touch()
        assert self.client.recv(12) == b"HTTP/1.0 200"


@pytest.fixture
def drained(systemd: Systemd, tmp_path: Path) -> Iterator[Drained]:
    with ExitStack() as stack:
        yield Drained(stack, systemd, tmp_path)


def test_a_unit_is_drained_restarted_and_put_back(drained: Drained) -> None:
    """The successor registers itself at once, and nobody takes it out."""
    drained.start("Restart=always", "RestartSec=100ms")
    drained.request()
    with drained.host.agent():
        drained.begin()
        assert not drained.is_drained()
        drained.finish()
        eventually(drained.is_drained, "it is drained")
        drained.systemd.ctl("restart", UNIT)
        drained.listed.write(f"127.0.0.1:{PORT}", "b:1")
        eventually(lambda: drained.host.phase("app") == "serving", "the successor serves")
        assert f"127.0.0.1:{PORT}" in drained.listed.targets()


@pytest.mark.nightly
def test_a_restart_in_mid_drain_leaves_somebody_behind(drained: Drained) -> None:
    """``systemctl restart`` with a request in hand: the new process is drained as well."""
    drained.start("KillMode=process")
    drained.request()
    with drained.host.agent():
        drained.begin()
        old = drained.systemd.main_pid(UNIT)
        drained.systemd.ctl("restart", UNIT)
        new = drained.systemd.main_pid(UNIT)
        eventually(lambda: drained.host.get("app").body["process"]["pids"] == [new], "the new one")
        assert old != new
        assert not drained.is_drained()
        assert drained.listed.targets() == ["b:1"]
        drained.finish()
        eventually(drained.is_drained, "it is drained")


@pytest.mark.nightly
def test_the_notifier_ends_the_unit_and_systemd_starts_it_again(drained: Drained) -> None:
    """SIGTERM reaches the very process that was drained, and its successor is let alone."""
    drained.start("Restart=always", "RestartSec=100ms", probe=TCP + NOTIFIER)
    with drained.host.agent():
        old = drained.systemd.main_pid(UNIT)
        drained.begin()
        eventually(lambda: drained.host.phase("app") == "gone", "the notifier has ended it")
        eventually(lambda: drained.systemd.main_pid(UNIT) not in {0, old}, "it is started again")
        new = drained.systemd.main_pid(UNIT)
        assert drained.host.post("app", "start-traffic").status == 202
        eventually(lambda: drained.host.phase("app") == "serving", "the successor serves")
        assert drained.systemd.main_pid(UNIT) == new
