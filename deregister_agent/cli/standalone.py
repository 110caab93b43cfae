"""Drain or restore without a running agent: the same agent, for as long as one command runs."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deregister_agent.cli import logs
from deregister_agent.cli.client import asker
from deregister_agent.cli.commands import finish, view_for
from deregister_agent.cli.follow import ExitCode, Failed, StatusAndCode, follow, refusal_told
from deregister_agent.cli.progress import ProgressView
from deregister_agent.config.load import load_config
from deregister_agent.drain import is_restored, is_safe_to_kill
from deregister_agent.engine.agent import Agent
from deregister_agent.engine.instance_loop import InstanceLoop
from deregister_agent.errors import JournalError
from deregister_agent.model import (
    UNFINISHED,
    Announcement,
    Drain,
    OnDeadline,
    Outcome,
    Phase,
    StopRequest,
)
from deregister_agent.wiring import build_agent

RECALL = 10.0
"""Seconds to see whether what the journal says of the last drain still holds."""
ANNOUNCING = 30.0
"""Seconds that announcements get at the end, before the command leaves them to the next agent."""

_SERVED = {True: ExitCode.DONE, False: ExitCode.NOT_ASKED, None: None}
_LOOK = 0.1  # seconds between two looks at what is still to be announced


def drain(path: Path, name: str | None, asked: Mapping[str, Any], *, as_json: bool) -> ExitCode:
    """
    Drain an instance of the configuration at *path*, as *asked* in the words of stop-traffic.

    Stays until it has ended. Raises ConfigError, Refused, Failed, or JournalError:
    an agent is running and has the journal.
    """
    policy = asked.get("on_deadline")
    request = StopRequest(
        deadline=asked.get("deadline"),
        on_deadline=OnDeadline(policy) if policy else None,
        reason=asked.get("reason", ""),
        force=asked.get("force", False),
        asked_by=_asker(),
        vouch=tuple(asked.get("vouch", ())),
        if_present=asked.get("if_present", False),
    )
    with _alone(path, name) as (agent, loop), _detached(loop.instance.name):
        _recall(loop)
        loop.stop_traffic(request)

        def code(drain: Drain) -> ExitCode | None:
            doubted = drain.phase is Phase.DRAINED and not loop.stands_by(Announcement.DRAINED)
            return None if doubted else drain_code(drain)

        word = _stay(agent, loop, code, as_json=as_json)
    return finish(word, as_json=as_json)


def restore(path: Path, name: str | None, asked: Mapping[str, Any], *, as_json: bool) -> ExitCode:
    """Put an instance back, and stay until every registry lists it or its time is over."""
    with _alone(path, name) as (agent, loop), _detached(loop.instance.name):
        anyway = bool(asked.get("anyway"))
        loop.start_traffic(asked.get("reason", ""), _asker(), anyway=anyway)
        since = loop.ask_if_serving(RECALL)

        def code(drain: Drain) -> ExitCode | None:
            served = restore_code(drain)
            if served is not ExitCode.DONE:
                return served
            return _SERVED[loop.is_served(since)]

        word = _stay(agent, loop, code, as_json=as_json)
    return finish(word, as_json=as_json, restore=True)


def drain_code(drain: Drain) -> ExitCode | None:
    """Return what traffic-drained would answer, as an exit code; None: not yet."""
    if drain.outcome is Outcome.EXPIRED:
        return ExitCode.EXPIRED
    if is_safe_to_kill(drain.phase, drain.outcome):
        return ExitCode.DONE
    if drain.phase in UNFINISHED:
        return None
    return ExitCode.REFUSED if drain.outcome is Outcome.REFUSED else ExitCode.NOT_ASKED


def restore_code(drain: Drain) -> ExitCode | None:
    """Return what traffic-started would answer, as an exit code; None: not yet."""
    if is_restored(drain.phase):
        return ExitCode.DONE
    if drain.phase is Phase.RESTORING:
        return ExitCode.EXPIRED if drain.overdue else None
    return ExitCode.NOT_ASKED


def _asker() -> str:
    return f"{asker()} (standalone)"


@contextmanager
def _alone(path: Path, name: str | None) -> Iterator[tuple[Agent, InstanceLoop]]:
    """Run the agent of the configuration in this process, for one instance of it."""
    config = load_config(path)
    chosen = [one for one in config.instances if name in {None, one.name}]
    if len(chosen) != 1:
        known = ", ".join(one.name for one in config.instances)
        raise Failed(ExitCode.USAGE, f"which instance? say one of {known}")
    logs.setup("text", "error")  # what a warning would say, the view shows
    try:
        agent = build_agent(config.model_copy(update={"instances": tuple(chosen)}))
    except JournalError as e:
        raise JournalError(f"{e}. If an agent is running, leave out --standalone") from e
    agent.start()
    try:
        yield agent, agent.instances[chosen[0].name]
    finally:
        agent.stop()


@contextmanager
def _detached(name: str) -> Iterator[None]:
    """Say, when a person leaves, how things stand now."""
    try:
        yield
    except KeyboardInterrupt:
        raise Failed(
            ExitCode.INTERRUPTED,
            f"{name} stays as it is now, and nobody guards it. The same command, or "
            f"`deregister-agent serve`, goes on from the journal; to put it back: "
            f"deregister-agent restore {name} --standalone",
        ) from None


def _recall(loop: InstanceLoop) -> None:
    """Wait until a "drained" of an earlier run is seen to hold, or not to. Raises Failed."""
    loop.wait(lambda _: loop.is_recalled, RECALL)
    if not loop.is_recalled:
        why = "; ".join(str(one) for one in [*loop.status().blocking, *_errors(loop)])
        raise Failed(
            ExitCode.TRY_LATER,
            f"it cannot be told whether the last drain of {loop.instance.name} still holds: {why}",
        )


def _errors(loop: InstanceLoop) -> Iterator[object]:
    yield from (view.look_error for view in loop.known.registries if view.look_error is not None)


def _stay(
    agent: Agent, loop: InstanceLoop, code: Callable[[Drain], ExitCode | None], *, as_json: bool
) -> StatusAndCode:
    def ask(wait: float) -> StatusAndCode:
        drain = loop.wait(lambda drain: code(drain) is not None, wait)
        return StatusAndCode(code(drain), loop.status(), _why_refused(agent, drain))

    view = view_for(as_json=as_json)
    word = follow(ask, view, patience=0.0)
    _announce(agent, loop.instance.name, view)
    return word


def _why_refused(agent: Agent, drain: Drain) -> str:
    if drain.outcome is not Outcome.REFUSED:
        return ""
    _, events = agent.journal.drain(drain.instance, drain.id) or (None, [])
    return refusal_told(event.detail for event in events)


def _announce(agent: Agent, name: str, view: ProgressView) -> None:
    """Give the announcements time to be taken; what is not waits in the journal."""
    end = time.monotonic() + ANNOUNCING
    while left := agent.unannounced(name):
        waiting = ", ".join(f"{one.event.kind} to {one.notifier}" for one in left)
        if time.monotonic() >= end:
            view.say(f"not announced yet: {waiting}; the next agent on this journal goes on trying")
            return
        view.say(f"announcing {waiting}")
        time.sleep(_LOOK)
