"""A deploy pipeline in small: it replaces instances one after the other, by the HTTP API."""

import http
import time
from collections.abc import Callable
from typing import Any

from deregister_agent.cli.client import AgentAnswer, AgentClient, path_of
from deregister_agent.errors import AgentError

Replace = Callable[[str], None]
"""End the process of the named instance at once, and start its next version."""

WAIT = 30.0  # seconds that the agent may hold an answer
INSTANCE_LIMIT = 120.0  # seconds for one answer to become final


def replace_one(agent: AgentClient, name: str, replace: Replace) -> dict[str, Any]:
    """
    Stop traffic, wait until drained, replace, start traffic, wait until traffic has started.

    Return the drain with its timeline. Raises AgentError when the agent says anything
    but "drained", or cannot put the instance back: then nothing more is replaced.
    """
    _accepted(agent.post(path_of(name, "stop-traffic"), {"reason": "rolling restart"}))
    _final(agent, name, "traffic-drained")
    replace(name)
    _accepted(agent.post(path_of(name, "start-traffic"), {"reason": "new version is up"}))
    _final(agent, name, "traffic-started")
    drain = agent.get(path_of(name)).body["drain"]["id"]
    return agent.get(path_of(name, "drains", drain)).body


def _accepted(answer: AgentAnswer) -> None:
    if answer.status != http.HTTPStatus.ACCEPTED:
        raise AgentError(answer.detail)


def _final(agent: AgentClient, name: str, question: str) -> None:
    """Ask *question* again and again until the answer is 200. Raises AgentError otherwise."""
    end = time.monotonic() + INSTANCE_LIMIT
    while time.monotonic() < end:
        answer = agent.get(path_of(name, question), wait=WAIT)
        if answer.status == http.HTTPStatus.OK:
            return
        if answer.status != http.HTTPStatus.SERVICE_UNAVAILABLE:
            break
    blocking = "; ".join(answer.body.get("blocking", ())) or answer.detail
    raise AgentError(f"{name}: {question} answered {answer.status}: {blocking}")
