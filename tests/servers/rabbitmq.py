"""Real RabbitMQ with its management API, as a child process on free ports of loopback."""

import atexit
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from types import TracebackType

from deregister_agent.demo.stage import free_ports
from deregister_agent.net.fetcher import Fetcher, FetchError
from tests.servers import find
from tests.servers.child import Child

SETTINGS = {
    "management.tcp.ip": "127.0.0.1",
    "management.rates_mode": "basic",
    "log.console": "true",
    "log.console.level": "warning",
    "log.file": "false",
}
DOORS = {
    "rabbitmq_stream": "stream.listeners.tcp.1",
    "rabbitmq_mqtt": "mqtt.listeners.tcp.1",
    "rabbitmq_stomp": "stomp.listeners.tcp.1",
}
"""Plugins that listen on a port of their own, and the setting that says on which."""
SAMPLE = 1  # seconds between two samples of the management API
SAMPLES = """\
[{rabbitmq_management, [{sample_retention_policies,
    [{global, [{60, 1}]}, {basic, [{60, 1}]}, {detailed, [{60, 1}]}]}]},
 {rabbitmq_management_agent, [{sample_retention_policies,
    [{global, [{60, 1}]}, {basic, [{60, 1}]}, {detailed, [{60, 1}]}]}]}].
"""


class RabbitMQ(Child):
    """
    One running RabbitMQ; *interval* is how often it collects statistics, in seconds.

    *plugins* of DOORS speak other protocols, on ``doors``; *settings* are lines of its
    configuration.
    """

    def __init__(
        self,
        folder: Path,
        *,
        interval: float = 0.5,
        plugins: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._plugins, self._settings = plugins, SETTINGS | dict(settings or {})
        self.lag = interval + SAMPLE + 1.0  # how late its statistics may be, with time to spare
        self._binaries = Path(find("rabbitmq")[-1]).parent
        (self._home,) = self._binaries.parents[2].glob("rabbitmq/lib/rabbitmq_server-*")
        for attempt in range(3):  # ports that were free may be taken before it opens them
            if self._started(folder / str(attempt), interval):
                return
        raise AssertionError(f"it did not start; its log ends:\n{self.tail()}")

    def _started(self, folder: Path, interval: float) -> bool:
        """Start it with its own files in *folder*; return whether it answers."""
        self.port, self.http, dist, epmd, *doors = free_ports(4 + len(self._plugins))
        self.doors = dict(zip(self._plugins, doors, strict=True))
        self.url = f"http://127.0.0.1:{self.http}"
        self._api = Fetcher(self.url, timeout=5.0, headers=lambda: {"Authorization": GUEST})
        folder.mkdir()
        settings = self._settings | {
            "listeners.tcp.1": f"127.0.0.1:{self.port}",
            "management.tcp.port": str(self.http),
            "collect_statistics_interval": str(int(interval * 1000)),
            **{DOORS[plugin]: f"127.0.0.1:{port}" for plugin, port in self.doors.items()},
        }
        written = "".join(f"{key} = {value}\n" for key, value in settings.items())
        (folder / "rabbitmq.conf").write_text(written)
        (folder / "advanced.config").write_text(SAMPLES)
        (folder / "enabled_plugins").write_text(
            f"[{','.join(('rabbitmq_management', *self._plugins))}].\n"
        )
        environment = self._environment(folder) | {
            "ERL_EPMD_PORT": str(epmd),
            "RABBITMQ_NODENAME": f"rabbit{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(dist),
        }
        epmd_command = [str(self._binaries / "epmd")]
        self._epmd = Child(epmd_command, folder / "epmd", environment=environment)
        super().__init__(self._command(), folder / "log", environment=environment, folder=folder)
        try:
            self.wait_ready(self._answers, limit=60)
        except AssertionError:
            self.close()
            return False
        return True

    def _command(self) -> list[str]:
        (code,) = (self._home / "plugins").glob("rabbit-*/ebin")
        command = [str(self._binaries / "erlexec"), "-noinput", "-boot", "start_sasl", "+W", "w"]
        listen = ["-kernel", "inet_dist_use_interface", "{127,0,0,1}"]
        flags = ["-syslog", "logger", "[]", "-syslog", "syslog_error_logger", "false"]
        return [*command, "+S", "1:1", "-pa", str(code), "-s", "rabbit", "boot", *listen, *flags]

    def _environment(self, folder: Path) -> dict[str, str]:
        """Return what Debian's scripts would set, with every file in *folder*."""
        files = {
            "CONFIG_FILE": "rabbitmq.conf",
            "ADVANCED_CONFIG_FILE": "advanced.config",
            "CONF_ENV_FILE": "rabbitmq-env.conf",
            "ENABLED_PLUGINS_FILE": "enabled_plugins",
            "MNESIA_BASE": "mnesia",
            "LOG_BASE": "logs",
            "PID_FILE": "pid",
            "FEATURE_FLAGS_FILE": "feature_flags",
        }
        return {
            "ROOTDIR": str(self._binaries.parents[1]),
            "BINDIR": str(self._binaries),
            "EMU": "beam",
            "PROGNAME": "erl",
            "PATH": f"{self._binaries}:{os.environ['PATH']}",
            "HOME": str(folder),
            "ERL_LIBS": str(self._home / "plugins"),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "SYS_PREFIX": str(folder),
            "RABBITMQ_HOME": str(self._home),
            "RABBITMQ_BASE": str(folder),
            "RABBITMQ_PLUGINS_DIR": str(self._home / "plugins"),
            "RABBITMQ_LOGS": "-",
            **{f"RABBITMQ_{key}": str(folder / name) for key, name in files.items()},
        }

    def call(self, method: str, target: str, payload: object = None) -> object:
        """Ask the management API, past whatever is under test."""
        answer = self._api.call(method, target, payload=payload)
        assert answer.status < 300, answer.text
        return answer.json() if answer.body else None

    def _answers(self) -> bool:
        """Whether both doors are open: the management API's opens first."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5.0).close()
            return self._api.call("GET", "/api/aliveness-test/%2F").status == 200
        except (FetchError, OSError):
            return False

    def close(self) -> None:
        """End it, and its port mapper."""
        self.kill()
        self._epmd.kill()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it, whatever has happened."""
        self.close()


GUEST = "Basic Z3Vlc3Q6Z3Vlc3Q="  # guest:guest, which works from loopback only
_numbers = count(1)


@cache
def shared() -> RabbitMQ:
    """
    Return a RabbitMQ that all tests of this process share; it ends with the process.

    Let it go on after it was frozen, and do not kill it.
    """
    stack = ExitStack()
    atexit.register(stack.close)
    folder = Path(tempfile.mkdtemp(prefix="rabbitmq-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return stack.enter_context(RabbitMQ(folder))


@contextmanager
def own_host(rabbit: RabbitMQ) -> Iterator[str]:
    """Give a new virtual host, with queues and connections of nobody else."""
    name = f"host-{next(_numbers)}"
    rabbit.call("PUT", f"/api/vhosts/{name}")
    rights = {"configure": ".*", "write": ".*", "read": ".*"}
    rabbit.call("PUT", f"/api/permissions/{name}/guest", rights)
    try:
        yield name
    finally:
        rabbit.call("DELETE", f"/api/vhosts/{name}")
