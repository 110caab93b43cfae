"""``doctor`` over HTTP: one examination at a time."""

import json
import threading

from flask import Response

from deregister_agent.api import requests
from deregister_agent.api.held_requests import HeldRequests
from deregister_agent.api.problem import try_later
from deregister_agent.engine.agent import Agent
from deregister_agent.engine.instance_loop import InstanceLoop
from deregister_agent.status import plain

TURN = 10.0
"""Seconds that a request waits for the examinations before it to end."""


class Examinations:
    """Examines one instance after the other: each asks all its backends at once."""

    def __init__(self, agent: Agent, held: HeldRequests) -> None:
        self._agent, self._held = agent, held
        self._one_at_a_time = threading.Lock()

    def answer(self, loop: InstanceLoop) -> Response:
        """Examine an instance, and answer 200 with the report whatever it says."""
        requests.query(requests.NoQuery)
        self._held.enter()  # it waits for backends, as a look does
        try:
            if not self._one_at_a_time.acquire(timeout=TURN):
                raise try_later(f"other examinations did not end within {TURN:g} s")
            try:
                report = self._agent.examine(loop.instance.name)
            finally:
                self._one_at_a_time.release()
        finally:
            self._held.leave()
        return Response(json.dumps(report, default=plain), 200, content_type="application/json")
