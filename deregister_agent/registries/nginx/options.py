"""The keys of an Nginx registry, and the site that they describe."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from deregister_agent.config.options import RegistryOptions, Timeout
from deregister_agent.registries.nginx.conf import ConfPaths
from deregister_agent.registries.nginx.parse import preamble
from deregister_agent.registries.nginx.processes import NginxError
from deregister_agent.registries.nginx.running import RunningNginx
from deregister_agent.registries.nginx.server_address import ServerAddress
from deregister_agent.registries.nginx.site import Site

_PID_FILE = "/run/nginx.pid"  # what the packages of Debian and nginx.org are built with
_WAITS = (
    "a drain waits for every old worker, until its deadline; to have them end in time, set "
    "worker_shutdown_timeout in nginx.conf, longer than the longest request"
)


class Options(RegistryOptions):
    """The keys of an Nginx registry."""

    taken_out: ClassVar[Mapping[str, str]] = {
        "generation": "run an agent beside that Nginx, which sees its workers, and give the "
        'instance a registry of kind "agent", which asks that agent',
        "old_workers": _WAITS,
        "old_workers_then": _WAITS,
    }
    identity_keys: ClassVar[frozenset[str]] = frozenset(
        {"upstream", "context", "server", "config", "root", "file", "prefix"}
    )
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
    obeys: frozenset[str] = frozenset()
    """Directives that the operator vouches for: they leave a server alone that is "down", though
    they are not known to."""
    not_ours: frozenset[str] = frozenset()
    """What leads to the server in Nginx and is to be left there: names of other upstreams, or
    addresses as they are written in "proxy_pass", "map" or "set"."""
    file: Path | None = None
    """A file that holds this one server and is the agent's own; without it, the operator's file."""
    parameters: str = ""
    """What follows the address in that file when the agent makes it, such as "max_fails=3"."""
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


def site_of(options: Options, server: ServerAddress) -> Site:
    """
    Gather what a change needs, from the options and the beginning of the configuration.

    Raises OSError where that cannot be read, and NginxError where it does not say enough.
    """
    # Its links are not followed here: relative includes are looked for beside the link.
    return Site(
        ConfPaths(options.config.absolute(), options.root, options.file),
        options.context,
        options.upstream,
        server,
        owned=options.file,
        may_be_absent=options.absent == "withdrawn",
        running=_running(options),
        test=options.test or _command(options, "-t", "-q"),
        record=_record(options),
        gather=options.gather,
        timeout=options.timeout,
        obeys=options.obeys,
    )


def _record(options: Options) -> Path:
    """Return where this Nginx's record is: in a folder that the agent writes to anyway."""
    folder = options.config.resolve().parent if options.file is None else options.file.parent
    return folder.resolve() / ".deregister-agent-nginx.json"


def _running(options: Options) -> RunningNginx:
    told = preamble(options.config)
    pid_file = options.pid_file or _placed(options, told.get(b"pid", _PID_FILE))
    if pid_file is None:
        raise NginxError("the pid directive is relative: set prefix, or pid_file")
    error_log = options.error_log or _placed(options, told.get(b"error_log", ""))
    return RunningNginx(pid_file, options.reload or _command(options, "-s", "reload"), error_log)


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
