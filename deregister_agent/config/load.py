"""The configuration: one TOML file, validated as a whole, every mistake named with its key."""

import json
import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from deregister_agent.config.backends import Backend, ByKind
from deregister_agent.config.cross_checks import cross_checked
from deregister_agent.config.mistakes_in_words import sentences
from deregister_agent.config.options import Port, Seconds, Table
from deregister_agent.config.server_options import ServerOptions
from deregister_agent.errors import AgentError, ConfigError
from deregister_agent.host.process_finder import ByPort, ProcessOptions
from deregister_agent.model import Instance, OnDeadline, Policy, RestoreWhen
from deregister_agent.probes.ready_check import ReadyOptions

_NAME = "[A-Za-z0-9._-]{1,128}"


def _name(value: str) -> str:
    if not re.fullmatch(_NAME, value) or value in {".", ".."}:
        raise ValueError("must be 1 to 128 letters, digits, '.', '_' or '-': it stands in URLs")
    return value


InstanceName = Annotated[
    str, AfterValidator(_name), Field(json_schema_extra={"pattern": f"^{_NAME}$"})
]
Deadline = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
NonEmptyText = Annotated[str, Field(min_length=1)]

_POLICY = Policy()


class AgentOptions(Table):
    """``[agent]``: the process itself."""

    journal: Path = Path("/var/lib/deregister-agent/journal.db")
    """The journal: drains, snapshots and events. Its directory must be on a local disk."""
    log_format: Literal["auto", "text", "json"] = "auto"
    """How a log line is written; ``auto``: text on a terminal, json elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged."""


class InstanceConfig(Table):
    """``[[instance]]``: one running copy of a service, and all that sends it work."""

    name: InstanceName
    """What the API, the command line, logs and metrics call it."""
    service: NonEmptyText
    """The service that it is a copy of."""
    address: NonEmptyText = "127.0.0.1"
    """Where it listens, as the registries know it."""
    port: Port
    """The TCP port on which it listens."""
    deadline: Deadline = _POLICY.deadline
    """How long a drain may take in all; a drain may ask for another one."""
    quiet: Seconds = _POLICY.quiet
    """How long the app must have nothing in flight, without a gap, before it counts as drained."""
    settle: Seconds = _POLICY.settle
    """How long routes that were handed out before may still be used: see the table of consumers."""
    on_deadline: OnDeadline = _POLICY.on_deadline
    """What happens when the deadline passes first: hold, restore or kill."""
    restore: RestoreWhen = _POLICY.restore
    """Who puts it back after the drained process has exited: start-traffic, or the agent."""
    restore_deadline: Deadline = _POLICY.restore_deadline
    """After this, "not restored" is announced; the agent keeps trying."""
    min_others: Annotated[int, Field(ge=0)] = _POLICY.min_others
    """The guard: how many other instances a registry must list for this one to be withdrawn."""
    process: ProcessOptions = ByPort()
    """How the process that is drained is told from its successor."""
    ready: tuple[ReadyOptions, ...] = ()
    """The checks that must all pass before it is listed again."""
    registries: Annotated[
        tuple[Annotated[Backend, ByKind("registries")], ...], Field(alias="registry", min_length=1)
    ]
    """Everything that sends it work."""
    probes: Annotated[
        tuple[Annotated[Backend, ByKind("probes")], ...], Field(alias="probe", min_length=1)
    ]
    """What tells how much it has in hand."""
    notifiers: Annotated[
        tuple[Annotated[Backend, ByKind("notifiers")], ...], Field(alias="notifier")
    ] = ()
    """Who is told."""

    def instance(self) -> Instance:
        """Return the instance itself."""
        return Instance(self.name, self.service, self.address, self.port)

    def policy(self) -> Policy:
        """Return how long to wait and what to do then."""
        return Policy(**{field.name: getattr(self, field.name) for field in fields(Policy)})


class Config(Table):
    """The whole file."""

    agent: AgentOptions = AgentOptions()
    """The process itself."""
    server: ServerOptions = ServerOptions()
    """Where the HTTP API listens, and whom it answers."""
    instances: Annotated[tuple[InstanceConfig, ...], Field(alias="instance", min_length=1)]
    """The instances that this agent looks after."""


def load_config(path: Path) -> Config:
    """
    Read and validate the file at *path*.

    Raises ConfigError with every mistake: the file cannot be read, is not TOML
    (with line and column), or has wrong values (with the key of each).
    """
    where = f"the configuration {path} cannot be used"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(where, [f"cannot read it: {e.strerror}"]) from e
    except UnicodeDecodeError as e:
        raise ConfigError(where, [f"it is not UTF-8: {e}"]) from e
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(where, [f"it is not TOML: {e}"]) from e
    return validated(data, where)


def validated(data: dict[str, Any], where: str) -> Config:
    """Return *data*, the content of the file, as a Config. Raises ConfigError."""
    between = list(cross_checked(data))
    try:
        config = Config.model_validate_json(json.dumps(data, default=str))
    except ValidationError as e:
        raise ConfigError(where, [*sentences(e, Config, data), *between]) from e
    if between:
        raise ConfigError(where, between)
    return config


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema of the whole file, with every built-in backend."""
    return Config.model_json_schema()


def refusals(config: Config) -> list[str]:
    """Build every backend, which touches no network, and return what they refuse."""
    found: list[str] = []
    for instance in config.instances:
        for module, options in (*instance.registries, *instance.probes, *instance.notifiers):
            try:
                needs_ready(module.build(options, instance.instance()), instance)
            except ConfigError as e:
                found += [f"{instance.name}: {options.label}: {mistake}" for mistake in e.mistakes]
    return found


def needs_ready(backend: object, instance: InstanceConfig) -> None:
    """Raise ConfigError if *backend* keeps an instance alive that no check says to be ready."""
    if getattr(backend, "keeps", False) and not instance.ready:
        mistake = (
            "what the agent itself keeps alive would outlive the app, unless a check tells "
            "whether the app is ready; add one [[instance.ready]]"
        )
        raise ConfigError(f"{instance.name}: this registry", [mistake])


def warnings(config: Config) -> list[str]:
    """Return which keys have another name now, and what backends see on this host that hurts."""
    found: list[str] = []
    for instance in config.instances:
        for module, options in (*instance.registries, *instance.probes, *instance.notifiers):
            advise = getattr(module, "warnings", None)
            try:
                said = advise(options, instance.instance()) if advise else ()
            except AgentError as e:
                said = [str(e)]
            warned = (*options.outdated_keys(), *said)
            found += [f"{instance.name}: {options.label}: {warning}" for warning in warned]
    return found
