"""Stay with a drain or a restore until it has ended, and say how: the exit codes."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from deregister_agent.cli.client import AgentClient, Answer, Unreachable, path_of
from deregister_agent.cli.progress import View
from deregister_agent.drain import is_restored, is_safe_to_kill
from deregister_agent.errors import AgentError

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
    TRY_LATER = 75  # no agent answers, or it cannot act now (sysexits.h: EX_TEMPFAIL)
    INTERRUPTED = 130  # Ctrl-C: what was asked for goes on


class Failed(AgentError):  # noqa: N818 - how a command ended
    """A command ends here, with this code."""

    def __init__(self, code: ExitCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, slots=True)
class Word:
    """What is known of the instance, and the code to end with; None: not yet."""

    code: ExitCode | None
    report: dict[str, Any]


_DOUBT = "the agent cannot see whether it is still drained"
_ODD = "what answers is not this agent, or not of this version; see --url"

Ask = Callable[[float], Word]
"""Tell how it stands, after at most so many seconds; raises Unreachable when nobody knows."""


def follow(ask: Ask, view: View, patience: float) -> Word:
    """
    Ask until it has ended, and show how it goes.

    An agent that does not answer, as when it is being restarted, is asked again
    until the deadline it last told, or *patience* seconds where it told none,
    are over; Unreachable is raised then. So is one that cannot see whether the
    "drained" of before its restart still holds.
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
        view.show(word.report)
        if word.code is not None:
            return word
        if word.report.get("phase") != "drained":
            left = word.report.get("remaining")
            end = time.monotonic() + (patience if left is None else left) + SLACK
        elif time.monotonic() >= end:  # said before the agent was restarted: it does not know yet
            raise Unreachable("; ".join(word.report.get("blocking") or [_DOUBT]))


def drained(client: AgentClient, name: str) -> Ask:
    """Return what asks the agent whether *name* is drained."""
    return _asking(client, name, "traffic-drained", _is_drained)


def started(client: AgentClient, name: str) -> Ask:
    """Return what asks the agent whether *name* is serving again."""
    return _asking(client, name, "traffic-started", _is_serving)


def _asking(
    client: AgentClient, name: str, question: str, meant: Callable[[Mapping[str, Any]], bool]
) -> Ask:
    def ask(wait: float) -> Word:
        answer = client.get(path_of(name, question), wait)
        match answer.status:
            case 200 if meant(answer.body):
                return Word(ExitCode.DONE, answer.body)
            case 200:  # a proxy, or another service, that says 200 to everything
                raise Failed(ExitCode.USAGE, f"200 without the phase that it stands for: {_ODD}")
            case 504 if "phase" in answer.body:
                return Word(ExitCode.EXPIRED, answer.body)
            case 503 if "phase" in answer.body:
                return Word(None, answer.body)
            case 409:
                report = accepted(client.get(path_of(name)))
                return Word(code_of(report), report)
            case _:
                raise refusal(answer)

    return ask


def _is_drained(report: Mapping[str, Any]) -> bool:
    outcome = (report.get("drain") or {}).get("outcome")
    return is_safe_to_kill(report.get("phase", ""), outcome)


def _is_serving(report: Mapping[str, Any]) -> bool:
    return is_restored(report.get("phase", ""))


def code_of(report: dict[str, Any]) -> ExitCode:
    """Return the code for a drain that ended without being drained or expired."""
    outcome = (report.get("drain") or {}).get("outcome")
    return ExitCode.REFUSED if outcome == "refused" else ExitCode.NOT_ASKED


def accepted(answer: Answer, key: str = "phase") -> dict[str, Any]:
    """Return what the agent said, *key* in it, if it did as asked. Raises Failed, Unreachable."""
    if answer.status >= 300:  # noqa: PLR2004 - not 2xx
        raise refusal(answer)
    if key not in answer.body:
        raise Failed(ExitCode.USAGE, f"{answer.status} without {key!r}: {_ODD}")
    return answer.body


def refusal(answer: Answer) -> AgentError:
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
    listed = accepted(client.get("/v1/instances"), "instances")["instances"]
    names = [report["instance"]["name"] for report in listed]
    if len(names) != 1:
        raise Failed(ExitCode.USAGE, f"which instance? say one of {', '.join(names)}")
    return str(names[0])


def ending(word: Word, *, restore: bool = False) -> str:  # noqa: PLR0911 - a table
    """Return the last line: what has come of it, and what to do next."""
    report = word.report
    name, drain = report["instance"]["name"], report.get("drain") or {}
    outcome, why = drain.get("outcome"), "; ".join(report.get("blocking") or [])
    match word.code:
        case ExitCode.DONE if restore:
            return f"{name}: serving: every registry lists it again"
        case ExitCode.EXPIRED if restore:
            return f"{name}: NOT serving yet, past the restore deadline; still trying. {why}"
        case ExitCode.DONE if outcome == "app-exited":
            return f"{name}: drained: the app has exited by itself with nothing in hand"
        case ExitCode.DONE:
            return f"{name}: drained: safe to kill"
        case ExitCode.EXPIRED:
            policy = drain.get("on_deadline", "hold")
            return f"{name}: NOT drained: the deadline passed first (then: {policy}). {why}"
        case ExitCode.REFUSED:
            return f"{name}: NOT drained: too few others would remain; --force overrides that"
        case _ if restore:
            return f"{name}: nobody asked to restore it, or it was drained again since"
        case _ if outcome == "cancelled":
            return f"{name}: NOT drained: start-traffic came first"
        case _:
            return f"{name}: NOT drained: no drain was asked for"
