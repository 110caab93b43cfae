"""Follow a drain or a restore until its end, and return the exit code for that end."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from deregister_agent.cli.client import AgentAnswer, AgentClient, Unreachable, path_of
from deregister_agent.cli.progress import ProgressView
from deregister_agent.drain import is_restored, is_safe_to_kill
from deregister_agent.errors import AgentError
from deregister_agent.model import OnDeadline, Outcome, Phase
from deregister_agent.status import Status, StatusList, read

SLICE = 1.0
"""Seconds that one question is held; the view is renewed as often."""
PAUSE = 0.5
"""Seconds between two attempts to reach an agent that is being restarted."""
SLACK = 10.0
"""Seconds beyond the deadline after which an agent that does not answer is given up."""


class ExitCode(IntEnum):
    """What a command ends with. Only DONE means that the instance may be killed."""

    DONE = 0  # drained; for restore: serving; for the others: done
    USAGE = 2  # the command line, the configuration or the token is wrong
    EXPIRED = 3  # the deadline passed first
    REFUSED = 4  # the guard: too few other instances
    NOT_ASKED = 5  # nobody asked, or it was cancelled
    UNFIT = 6  # doctor: a drain could not prove itself
    TRY_LATER = 75  # no agent answers, or it cannot act now (sysexits.h: EX_TEMPFAIL)
    INTERRUPTED = 130  # Ctrl-C: what was asked for goes on


class Failed(AgentError):  # noqa: N818 - how a command ended
    """A command ends here, with this code."""

    def __init__(self, code: ExitCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, slots=True)
class StatusAndCode:
    """The status of an instance, and the code to end with; None: not yet."""

    code: ExitCode | None
    status: Status


_AnyModel = TypeVar("_AnyModel")

_DOUBT = "the agent cannot see whether that still holds"
_ODD = "what answers is not this agent, or not of this version; see --url"

Ask = Callable[[float], StatusAndCode]
"""Return the status, after at most so many seconds. Raises Unreachable when nobody knows it."""


def follow(ask: Ask, view: ProgressView, patience: float) -> StatusAndCode:
    """
    Ask until a drain or restore has ended, and show its progress.

    An agent that does not answer, as while it restarts, is asked again until the
    deadline that it last told, or *patience* seconds where it told none, are over;
    then Unreachable is raised. The same holds for an agent that cannot see whether
    the "drained" of before its restart still holds.
    """
    end = time.monotonic() + patience + SLACK
    while True:
        try:
            word = ask(SLICE)
        except Unreachable as e:
            if time.monotonic() >= end:
                raise
            view.say(f"{e}; will try again for {max(0.0, end - time.monotonic()):.0f} s")
            time.sleep(PAUSE)
            continue
        view.show(word.status)
        if word.code is not None:
            return word
        if word.status.phase not in {Phase.DRAINED, Phase.SERVING}:
            left = word.status.remaining
            end = time.monotonic() + (patience if left is None else left) + SLACK
        elif time.monotonic() >= end:  # it stands in the journal, and has not been seen since
            raise Unreachable(word.status.what_blocks or _DOUBT)


def drained(client: AgentClient, name: str) -> Ask:
    """Return the question to the agent whether *name* is drained."""
    return _asking(client, name, "traffic-drained", _is_drained)


def started(client: AgentClient, name: str) -> Ask:
    """Return the question to the agent whether *name* is serving again."""
    return _asking(client, name, "traffic-started", _is_serving)


def _asking(client: AgentClient, name: str, question: str, meant: Callable[[Status], bool]) -> Ask:
    def ask(wait: float) -> StatusAndCode:
        answer = client.get(path_of(name, question), wait)
        match answer.status:
            case 200 if "phase" in answer.body and meant(status := _read(answer, Status)):
                return StatusAndCode(ExitCode.DONE, status)
            case 200:  # a proxy, or another service, that says 200 to everything
                raise Failed(ExitCode.USAGE, f"200 without the phase that it stands for: {_ODD}")
            case 504 if "phase" in answer.body:
                return StatusAndCode(ExitCode.EXPIRED, _read(answer, Status))
            case 503 if "phase" in answer.body:
                return StatusAndCode(None, _read(answer, Status))
            case 409:
                status = accepted(client.get(path_of(name)), Status)
                if status.phase is Phase.GONE and meant(status):  # killed before it was asked
                    return StatusAndCode(ExitCode.DONE, status)
                refused = status.outcome is Outcome.REFUSED
                return StatusAndCode(ExitCode.REFUSED if refused else ExitCode.NOT_ASKED, status)
            case _:
                raise refusal(answer)

    return ask


def _is_drained(status: Status) -> bool:
    return is_safe_to_kill(status.phase, status.outcome)


def _is_serving(status: Status) -> bool:
    return is_restored(status.phase)


def accepted(answer: AgentAnswer, model: type[_AnyModel]) -> _AnyModel:
    """Return what the agent said as a *model*, if it did as asked. Raises Failed, Unreachable."""
    if answer.status >= 300:  # noqa: PLR2004 - not 2xx
        raise refusal(answer)
    return _read(answer, model)


def _read(answer: AgentAnswer, model: type[_AnyModel]) -> _AnyModel:
    try:
        return read(model, answer.body)
    except AgentError as e:
        raise Failed(ExitCode.USAGE, f"HTTP {answer.status} with {e}: {_ODD}") from e


def refusal(answer: AgentAnswer) -> AgentError:
    """Return the error that stands for an answer other than success."""
    match answer.status:
        case 401 | 403:
            return Failed(
                ExitCode.USAGE, f"the agent refuses: {answer.detail}; see --token-file and --url"
            )
        case 409:
            return Failed(ExitCode.REFUSED, answer.detail)
        case status if status >= 500:  # noqa: PLR2004 - 5xx
            return Unreachable(f"the agent cannot answer now: {answer.detail}")
        case _:
            return Failed(ExitCode.USAGE, answer.detail)


def only_instance(client: AgentClient) -> str:
    """Return the name of the agent's one instance. Raises Failed, naming them, if it has more."""
    names = [
        status.instance.name
        for status in accepted(client.get("/v1/instances"), StatusList).instances
    ]
    if len(names) != 1:
        raise Failed(ExitCode.USAGE, f"which instance? say one of {', '.join(names)}")
    return names[0]


def ending(word: StatusAndCode, *, restore: bool = False) -> str:
    """Return the last line: how it has ended, what to do next, and what else one should know."""
    how = _restored(word) if restore else _drained(word)
    return "; ".join([f"{word.status.instance.name}: {how}", *word.status.notes])


def _restored(word: StatusAndCode) -> str:
    status = word.status
    match word.code:
        case ExitCode.DONE:
            return f"serving: {_listed(status)}"
        case ExitCode.EXPIRED:
            return f"NOT serving yet, past the restore deadline; still trying. {status.what_blocks}"
        case _ if status.phase is Phase.SERVING and status.blocking:
            return f"NOT listed everywhere, and not for this agent to end: {status.what_blocks}"
        case _:
            return "nobody asked to restore it, or it was drained again since"


def _listed(status: Status) -> str:
    left = [one.name for one in status.registries if not one.listed]
    if not left:
        return "every registry lists it again"
    has = ", ".join(one.name for one in status.registries if one.listed) or "no registry"
    return f"{has} lists it; {', '.join(left)} is not waited for"


def _drained(word: StatusAndCode) -> str:  # noqa: PLR0911 - a table
    status = word.status
    match word.code:
        case ExitCode.DONE if status.outcome is Outcome.ABSENT:
            return "absent: nobody was there to be drained, and nobody came"
        case ExitCode.DONE if status.outcome is Outcome.APP_EXITED:
            return "drained: the app has exited by itself with nothing in hand"
        case ExitCode.DONE:
            return "drained: safe to kill"
        case ExitCode.EXPIRED:
            policy = status.drain.on_deadline if status.drain else OnDeadline.HOLD
            return f"NOT drained: the deadline passed first (then: {policy}). {status.what_blocks}"
        case ExitCode.REFUSED:
            why = (status.drain.refusal if status.drain else "") or "the agent does not say why"
            return f"NOT drained: refused: {why.removeprefix(f'{status.instance.name}: ')}"
        case _ if status.outcome is Outcome.CANCELLED:
            return "NOT drained: start-traffic came first"
        case _:
            return "NOT drained: no drain was asked for"
