"""
The command line: its commands, their options, and their exit codes.

A command imports what it needs beyond the client when it runs: scripts call ``status``
and ``drain`` again and again, which should not load a server.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from deregister_agent.cli import client, commands
from deregister_agent.cli.follow import ExitCode, Failed
from deregister_agent.errors import AgentError, ConfigError, JournalError, Refused, harmless

CommandBody = Callable[..., int]
"""What a command does; returns its exit code."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The options before the command."""

    config: Path
    url: str | None
    token_file: Path | None
    named: bool  # whether the configuration was named by option or environment

    def client(self, timeout: float = client.TIMEOUT) -> client.AgentClient:
        """Return a client of the agent that the options name. Raises AgentError without one."""
        where = client.address(self.config, self.url, self.token_file, must_exist=self.named)
        return client.AgentClient(where, timeout)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="deregister-agent")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=Path("/etc/deregister-agent/config.toml"),
    envvar="DEREGISTER_CONFIG",
    show_default=True,
    show_envvar=True,
    help="The configuration file.",
)
@click.option(
    "--url",
    envvar="DEREGISTER_URL",
    show_envvar=True,
    help="The agent: http://host:port or unix:/path.  [default: the first `listen` of the file]",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    envvar="DEREGISTER_TOKEN_FILE",
    show_envvar=True,
    help="The file with the agent's token.  [default: `token_file` of the file]",
)
@click.pass_context
def program(context: click.Context, config: Path, url: str | None, token_file: Path | None) -> None:
    """
    Take one running copy of a service out of traffic, and know when it may be killed.

    Exit codes: 0 drained (or done), 2 usage or configuration, 3 expired: NOT drained,
    4 refused by the guard, 5 not asked or cancelled, 6 unfit (doctor), 75 try later,
    130 interrupted.
    """
    named = context.get_parameter_source("config") is not ParameterSource.DEFAULT
    context.obj = Settings(config, url, token_file, named)


def main() -> NoReturn:
    """Run the command line."""
    program.main(prog_name="deregister-agent")


def command(name: str) -> Callable[[CommandBody], click.Command]:
    """Return a decorator that makes a command of a function that returns an exit code."""

    def decorate(body: CommandBody) -> click.Command:
        @functools.wraps(body)
        def run(*args: Any, as_json: bool, **options: Any) -> NoReturn:
            try:
                code = body(*args, as_json=as_json, **options)
            except KeyboardInterrupt:
                code = _failed(Failed(ExitCode.INTERRUPTED, "interrupted"), as_json=as_json)
            except AgentError as e:
                code = _failed(e, as_json=as_json)
            sys.exit(code)

        option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
        return program.command(name)(option(click.pass_obj(run)))

    return decorate


def _failed(error: AgentError, *, as_json: bool) -> ExitCode:
    match error:
        case Failed():
            code = error.code
        case client.Unreachable() | JournalError():
            code = ExitCode.TRY_LATER
        case Refused():
            code = ExitCode.REFUSED
        case _:
            code = ExitCode.USAGE
    if as_json:
        mistakes = {"mistakes": error.mistakes} if isinstance(error, ConfigError) else {}
        commands.print_json({"error": str(error), "exit_code": code, **mistakes})
    else:
        lines = f"deregister-agent: {error}".split("\n")
        click.echo("\n".join(map(harmless, lines)), err=True)
    return code


def _not_empty(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    """Refuse an empty NAME: it comes of a variable that a script has not set."""
    del context, parameter
    if name == "":
        raise click.BadParameter("is empty; leave it out only where there is one instance")
    return name


WAIT = click.option("--wait", is_flag=True, help="Stay until it has ended, and show how it goes.")
STANDALONE = click.option(
    "--standalone", is_flag=True, help="Do it in this process, as no agent is running; waits."
)
REASON = click.option("--reason", default="", help="Why: it stands in the history.")
NAME = click.argument("name", required=False, callback=_not_empty)


@command("drain")
@NAME
@WAIT
@click.option(
    "--deadline",
    type=click.FloatRange(min=0, min_open=True, max=86400),
    help="Seconds for the whole drain.  [default: that of the instance]",
)
@click.option(
    "--on-deadline",
    type=click.Choice(["hold", "restore", "kill"]),
    help="What happens when the deadline passes first.  [default: that of the instance]",
)
@REASON
@click.option("--force", is_flag=True, help="Override the last-instance guard.")
@click.option(
    "--vouch",
    metavar="REGISTRY",
    multiple=True,
    help="Do not wait for the word of this registry in this drain: you know. Needs --reason.",
)
@click.option(
    "--if-present", is_flag=True, help="If nobody is there to be drained, that is an end, too."
)
@STANDALONE
def drain(
    settings: Settings,
    *,
    name: str | None,
    wait: bool,
    standalone: bool,
    as_json: bool,
    **wish: Any,
) -> ExitCode:
    """Take NAME out of traffic. NAME may be left out when there is one instance only."""
    asked = {key: value for key, value in wish.items() if value}
    if standalone:
        from deregister_agent.cli import standalone as alone  # noqa: PLC0415 - loads a whole agent

        return alone.drain(settings.config, name, asked, as_json=as_json)
    return commands.drain(settings.client(), name, asked, wait=wait, as_json=as_json)


@command("restore")
@NAME
@WAIT
@REASON
@click.option(
    "--anyway",
    is_flag=True,
    help="Put back what was lost in service though no readiness check is there to ask.",
)
@STANDALONE
def restore(
    settings: Settings,
    *,
    name: str | None,
    wait: bool,
    standalone: bool,
    as_json: bool,
    **wish: Any,
) -> ExitCode:
    """Put NAME back into traffic, or call a drain off."""
    asked = {key: value for key, value in wish.items() if value}
    if standalone:
        from deregister_agent.cli import standalone as alone  # noqa: PLC0415 - loads a whole agent

        return alone.restore(settings.config, name, asked, as_json=as_json)
    return commands.restore(settings.client(), name, asked, wait=wait, as_json=as_json)


@command("status")
@NAME
def status(settings: Settings, *, name: str | None, as_json: bool) -> ExitCode:
    """Show how NAME stands, or every instance."""
    return commands.status(settings.client(), name, as_json=as_json)


@command("doctor")
@NAME
def doctor(settings: Settings, *, name: str | None, as_json: bool) -> ExitCode:
    """Ask everything once whether a drain of NAME, or of every instance, could prove itself."""
    from deregister_agent.cli import doctor as examination  # noqa: PLC0415 - for this command alone

    agent = settings.client(examination.PATIENCE)
    return examination.doctor(agent, settings.config, name, as_json=as_json)


@command("history")
@NAME
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
def history(settings: Settings, *, name: str | None, limit: int, as_json: bool) -> ExitCode:
    """List the drains of NAME, newest first."""
    return commands.history(settings.client(), name, limit, as_json=as_json)


@command("serve")
def serve(settings: Settings, *, as_json: bool) -> ExitCode:
    """Run the agent. With --json its log is JSON, whatever the configuration says."""
    from deregister_agent.api.serve import serve as serve_api  # noqa: PLC0415 - loads a server
    from deregister_agent.cli import logs  # noqa: PLC0415 - for this command alone
    from deregister_agent.config.load import load_config  # noqa: PLC0415 - loads pydantic
    from deregister_agent.wiring import build_agent  # noqa: PLC0415 - loads a whole agent

    config = load_config(settings.config)
    logs.setup("json" if as_json else config.agent.log_format, config.agent.log_level)
    serve_api(build_agent(config), config.server)
    return ExitCode.DONE


@command("check-config")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of the file instead.")
def check_config(settings: Settings, *, schema: bool, as_json: bool) -> ExitCode:
    """List every mistake in the configuration, and what on this host will hurt; no network."""
    from deregister_agent.config.load import (  # noqa: PLC0415 - loads pydantic
        config_schema,
        load_config,
        refusals,
        warnings,
    )

    if schema:
        commands.print_json(config_schema())
        return ExitCode.DONE
    config = load_config(settings.config)
    if refused := refusals(config):
        raise ConfigError(f"the configuration {settings.config} cannot be used", refused)
    names = [instance.name for instance in config.instances]
    warned = warnings(config)
    if as_json:
        path = str(settings.config)
        commands.print_json(
            {"config": path, "instances": names, "mistakes": [], "warnings": warned}
        )
    else:
        click.echo(f"{settings.config} is good: {', '.join(names)}")
        for warning in warned:
            click.echo(harmless(f"warning: {warning}"))
    return ExitCode.DONE


@command("demo")
def demo(settings: Settings, *, as_json: bool) -> int:
    """Replace apps under load on this machine; ends with 1 if a request was lost."""
    del settings
    from deregister_agent.demo.show import main as show  # noqa: PLC0415 - loads a whole agent

    return show(as_json=as_json)
