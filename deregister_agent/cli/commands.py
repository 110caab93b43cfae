"""The commands that talk to a running agent, and what they print."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from deregister_agent.cli.client import AgentClient, path_of
from deregister_agent.cli.follow import (
    Ask,
    ExitCode,
    Failed,
    StatusAndCode,
    accepted,
    drained,
    ending,
    follow,
    only_instance,
    started,
)
from deregister_agent.cli.progress import (
    ProgressView,
    Silent,
    describe,
    painted,
    summary,
    unpainted,
    view_on,
    wants_colour,
)
from deregister_agent.errors import harmless, harmless_json
from deregister_agent.status import DrainList, DrainRecord, JsonModel, Status, StatusList, plain

PATIENCE = 180.0
"""Seconds for which an agent that has told no deadline yet is tried."""


def drain(
    agent: AgentClient, name: str | None, asked: Mapping[str, Any], *, wait: bool, as_json: bool
) -> ExitCode:
    """Ask for a drain in the words of stop-traffic; with *wait*, stay until it has ended."""
    name = name or only_instance(agent)
    begun = accepted(agent.post(path_of(name, "stop-traffic"), asked), Status)
    if not wait:
        return _begun(begun, f"deregister-agent drain {name} --wait", as_json=as_json)
    undo = f"the drain of {name} goes on; to undo it: deregister-agent restore {name}"
    return _stay(drained(agent, name), asked.get("deadline", PATIENCE), undo, as_json=as_json)


def restore(
    agent: AgentClient, name: str | None, asked: Mapping[str, Any], *, wait: bool, as_json: bool
) -> ExitCode:
    """Ask to put an instance back; with *wait*, stay until every registry lists it."""
    name = name or only_instance(agent)
    begun = accepted(agent.post(path_of(name, "start-traffic"), asked), Status)
    if not wait:
        return _begun(begun, f"deregister-agent restore {name} --wait", as_json=as_json)
    undo = f"restoring {name} goes on; to take it out again: deregister-agent drain {name}"
    return _stay(started(agent, name), PATIENCE, undo, as_json=as_json, restore=True)


def status(agent: AgentClient, name: str | None, *, as_json: bool) -> ExitCode:
    """Print the status of one instance, or of all."""
    found: Status | StatusList
    if name:
        found = accepted(agent.get(path_of(name)), Status)
    else:
        found = accepted(agent.get("/v1/instances"), StatusList)
    if as_json:
        print_json(found)
        return ExitCode.DONE
    paint = painted if wants_colour(sys.stdout) else unpainted
    for each in found.instances if isinstance(found, StatusList) else (found,):
        say("\n".join(describe(each, paint)))
    return ExitCode.DONE


def history(agent: AgentClient, name: str | None, limit: int, *, as_json: bool) -> ExitCode:
    """Print the drains of an instance, newest first."""
    name = name or only_instance(agent)
    found = accepted(agent.get(path_of(name, "drains"), limit=limit), DrainList)
    if as_json:
        print_json(found)
    elif not found.drains:
        say(f"{name}: no drain was ever asked for")
    else:
        for record in found.drains:
            say(_drain_line(record))
    return ExitCode.DONE


def print_json(content: JsonModel | Mapping[str, Any]) -> None:
    """Print *content* as a JSON object."""
    say(harmless_json(json.dumps(content, default=plain, indent=2, ensure_ascii=False)))


def say(text: str) -> None:
    """Print *text* now, also into a pipe."""
    print(text, flush=True)  # noqa: T201 - what the command is for


def view_for(*, as_json: bool) -> ProgressView:
    """Return where progress is shown: on standard output, or nowhere if that is for JSON."""
    return Silent() if as_json else view_on(sys.stdout)


def finish(word: StatusAndCode, *, as_json: bool, restore: bool = False) -> ExitCode:
    """Print how the drain or restore has ended, and return the code that says the same."""
    if as_json:
        print_json(word.status)
    else:
        say(harmless(ending(word, restore=restore)))
    return word.code or ExitCode.DONE


def _stay(
    ask: Ask, patience: float, undo: str, *, as_json: bool, restore: bool = False
) -> ExitCode:
    try:
        word = follow(ask, view_for(as_json=as_json), patience)
    except KeyboardInterrupt:
        raise Failed(ExitCode.INTERRUPTED, undo) from None
    return finish(word, as_json=as_json, restore=restore)


def _begun(status: Status, hint: str, *, as_json: bool) -> ExitCode:
    if as_json:
        print_json(status)
    else:
        say(harmless(f"{status.instance.name}: {summary(status)}"))
        say(f"to wait for the end: {hint}")
    return ExitCode.DONE


def _drain_line(record: DrainRecord) -> str:
    end = f"{record.outcome or record.phase} {record.ended or 'under way'}"
    forced = "forced" if record.forced else ""
    parts = [record.started, end, forced, record.id, record.asked_by, record.reason]
    return harmless("  ".join(filter(None, parts)))
