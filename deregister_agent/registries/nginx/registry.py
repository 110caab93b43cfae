"""Nginx on this host: mark one server of an upstream down, reload, and see the old workers off."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from deregister_agent.config.options import BackendOptions, Seconds, Table, Timeout
from deregister_agent.errors import AgentError, ConfigError, RegistryError
from deregister_agent.model import Instance, Snapshot, Straggler
from deregister_agent.ports import Registry
from deregister_agent.registries.nginx.address import Address
from deregister_agent.registries.nginx.advice import advice
from deregister_agent.registries.nginx.change import carry_out, look
from deregister_agent.registries.nginx.conf import Layout, Server
from deregister_agent.registries.nginx.old_workers import Patience, named, unseen
from deregister_agent.registries.nginx.parse import preamble
from deregister_agent.registries.nginx.processes import ControlError
from deregister_agent.registries.nginx.remedies import said
from deregister_agent.registries.nginx.running_by_http import ByGeneration
from deregister_agent.registries.nginx.running_by_processes import ByProcesses
from deregister_agent.registries.nginx.site import Site, Wish
from deregister_agent.registries.nginx.watch import next_change

_PID_FILE = "/run/nginx.pid"  # what the packages of Debian and nginx.org are built with


class Generation(Table):
    """How to learn over HTTP what Nginx runs, where its processes cannot be seen."""

    url: Annotated[str, Field(pattern=r"^http(s|\+unix)?://")]
    """A location that returns $deregister_agent_generation."""
    file: Path
    """The file that sets it. The agent rewrites it; include it before every upstream."""


class Options(BackendOptions):
    """The keys of an Nginx registry."""

    upstream: str
    """The upstream that lists the instance."""
    context: Literal["http", "stream"] = "http"
    """Where that upstream stands."""
    server: str = ""
    """The server as Nginx has it; the instance's address and port unless given."""
    config: Path = Path("/etc/nginx/nginx.conf")
    """Nginx's main configuration file."""
    root: Path = Path("/")
    """Where absolute paths in it start, if Nginx sees another file system (a container)."""
    file: Path | None = None
    """A file that holds this one server and is the agent's own; without it, the operator's file."""
    parameters: str = ""
    """What follows the address in that file when the agent makes it, such as "max_fails=3"."""
    absent: Literal["refuse", "withdrawn"] = "refuse"
    """What it means that the operator's upstream has no such server: a mistake, or withdrawn."""
    prefix: Path | None = None
    """Nginx's prefix, for relative paths of pid file and error log."""
    pid_file: Path | None = None
    """The pid file; found in the configuration unless given."""
    error_log: Path | None = None
    """The error log, to say why a reload was refused; found in the configuration unless given."""
    test: tuple[str, ...] = ()
    """The command that tests the configuration; nginx -t unless given."""
    reload: tuple[str, ...] = ()
    """The command that asks for a reload; nginx -s reload unless given."""
    timeout: Timeout = 20.0
    """Limit of one call, the reload included."""
    gather: Annotated[float, Field(ge=0, le=1)] = 0.1
    """How long to wait for changes to other instances, so that all cost one reload."""
    old_workers: Seconds = 60.0
    """How long to wait for workers from before the change before old_workers_then applies."""
    old_workers_then: Literal["wait", "count-as-withdrawn"] = "wait"
    """Whether to wait on then, until the drain's deadline, or to go on without them."""
    generation: Generation | None = None
    """Ask over HTTP instead of looking at processes."""

    @model_validator(mode="after")
    def _time_must_do(self) -> Self:
        if self.generation is not None and self.old_workers_then == "wait":
            raise ValueError(
                "with generation, old workers cannot be seen and only time can be waited for: "
                'set old_workers_then = "count-as-withdrawn", and old_workers to what is safe'
            )
        return self


class NginxUpstream(Registry):
    """One server of one upstream."""

    def __init__(self, options: Options, instance: Instance) -> None:
        self.name = options.label
        self._options = options
        self._server = Address(options.server or _spelled(instance))
        self._instance = instance

    def lists(self) -> bool:
        """Look at the files and at what the running workers have loaded of them."""
        with self._doing("tell whether it is listed"):
            return look(self._site(), self._until()).listed

    def stragglers(self) -> Sequence[Straggler]:
        """Name the workers from before the change that have not exited, waited for or not."""
        return self.look()[1]

    def look(self) -> tuple[bool, Sequence[Straggler]]:
        """Answer both from one look at the files and the workers: it costs half as much."""
        with self._doing("look it up"):
            site, until, options = self._site(), self._until(), self._options
            found = look(site, until)
            gives_up = options.old_workers_then == "count-as-withdrawn"
            patience = Patience(options.old_workers, gives_up)
            if not isinstance(site.running, ByProcesses):
                return found.listed, unseen(found.known, site.key, patience)
            seen = found.seen or site.running.seen(until)
            return found.listed, named(site, found, seen, patience, self._instance)

    def snapshot(self) -> Snapshot | None:
        """Tell which of the server's directives were down before."""
        with self._doing("take a snapshot"):
            site = self._site()
            servers = site.servers(site.read())
            return {"down": [server.down for server in servers]} if servers else None

    def withdraw(self) -> None:
        """Mark it down, and return when only workers that know so accept clients."""
        with self._doing("withdraw it"):
            carry_out(self._site(), Wish(down=True))

    def restore(self, snapshot: Snapshot | None) -> None:
        """Take away what withdraw() wrote, and no other's ``down``."""
        with self._doing("restore it"):
            site = self._site()
            servers = site.servers(site.read())
            if servers or site.owned is not None:
                carry_out(site, self._wish(servers, snapshot))
            elif snapshot is not None:
                raise ControlError(
                    f"upstream {site.upstream} has lost its server {site.server.text} since: "
                    "somebody has removed it, and may add it again"
                )

    def others(self) -> int:
        """Count the other servers of the upstream that are neither down nor backup."""
        with self._doing("count the others"):
            site = self._site()
            conf = site.read()
            site.servers(conf)
            block = conf.upstreams[site.context, site.upstream]
            up = {s.address for s in block.servers if not (s.down or s.backup)}
            return sum(1 for address in up if not self._server.is_named(address))

    def watch(self, cursor: str | None, timeout: float) -> str | None:
        """Block until files or workers are others, an old worker's exit being told at once."""
        with self._doing("watch it"):
            site = self._site()
            if not isinstance(site.running, ByProcesses):
                return None
            return next_change(site, site.running.pid_file, cursor, timeout)

    def _wish(self, servers: Sequence[Server], snapshot: Snapshot | None) -> Wish:
        """Work out which directives to bring up again."""
        if not servers:
            parameters = f" {self._options.parameters}" if self._options.parameters else ""
            line = f"server {self._server.text}{parameters};\n"
            return Wish(down=False, create=(_HEADER + line).encode())
        was = snapshot.get("down") if snapshot is not None else []
        if not isinstance(was, list) or not any(was):
            return Wish(down=False)
        if len(was) != len(servers):
            raise ControlError(
                f"upstream {self._options.upstream} now has {len(servers)} directives for "
                f"{self._server.text}, not {len(was)}, and some were down before: bring up by hand "
                "those that should be"
            )
        return Wish(tuple(i for i, down in enumerate(was) if not down), down=False)

    def _site(self) -> Site:
        """Gather what a change needs, from the options and the configuration."""
        options = self._options
        kept = options.generation
        volatile = None if kept is None else kept.file.resolve()
        # Its links are not followed here: relative includes are looked for beside the link.
        layout = Layout(options.config.absolute(), options.root, options.file, volatile)
        return Site(
            layout,
            options.context,
            options.upstream,
            self._server,
            owned=options.file,
            may_be_absent=options.absent == "withdrawn",
            running=_running(options),
            test=options.test or _command(options, "-t", "-q"),
            record=_record(options),
            gather=options.gather,
            timeout=options.timeout,
        )

    def _until(self) -> float:
        return time.monotonic() + self._options.timeout

    @contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        """Turn every trouble into one error that says who was doing what."""
        try:
            yield
        except (AgentError, OSError) as e:
            raise RegistryError(self.name, f"{what} ({self._instance})", said(e)) from e


_HEADER = "# Kept by deregister-agent.\n"


def build(options: Options, instance: Instance) -> NginxUpstream:
    """Make the registry. Raises ConfigError."""
    if options.file is not None and options.file.resolve() == options.config.resolve():
        raise ConfigError(options.label, ["file: the main configuration cannot be the agent's own"])
    return NginxUpstream(options, instance)


def warnings(options: Options, instance: Instance) -> Sequence[str]:
    """Say what in the real configuration will hurt. Raises RegistryError if it cannot be read."""
    registry = build(options, instance)
    with registry._doing("read the configuration"):  # noqa: SLF001 - of the same module
        site = registry._site()  # noqa: SLF001
        return advice(site)


def _spelled(instance: Instance) -> str:
    address = f"[{instance.address}]" if ":" in instance.address else instance.address
    return f"{address}:{instance.port}"


def _record(options: Options) -> Path:
    """Return where this Nginx's record is: in a folder that the agent writes to anyway."""
    folder = options.config.resolve().parent if options.file is None else options.file.parent
    return folder.resolve() / ".deregister-agent-nginx.json"


def _running(options: Options) -> ByProcesses | ByGeneration:
    command = options.reload or _command(options, "-s", "reload")
    if options.generation is not None:
        kept = options.generation
        return ByGeneration(kept.url, kept.file, command, min(options.timeout, 3.0))
    said = preamble(options.config)
    pid_file = options.pid_file or _placed(options, said.get(b"pid", _PID_FILE))
    if pid_file is None:
        raise ControlError("the pid directive is relative: set prefix, or pid_file")
    error_log = options.error_log or _placed(options, said.get(b"error_log", ""))
    return ByProcesses(pid_file, command, error_log)


def _placed(options: Options, name: str) -> Path | None:
    """Return the file that a path in the configuration means; None if it is none, or unknown."""
    if not name or name == "stderr" or name.startswith(("syslog:", "memory:")):
        return None
    if name.startswith("/"):
        return options.root / name.lstrip("/")
    return options.prefix / name if options.prefix is not None else None


def _command(options: Options, *arguments: str) -> tuple[str, ...]:
    """Return a command line for the nginx in the search path."""
    prefix = () if options.prefix is None else ("-p", str(options.prefix))
    return ("nginx", *prefix, "-c", str(options.config), *arguments)
