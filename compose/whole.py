"""The whole stack while it runs, whether in containers or as processes."""

import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlencode

from compose.places import CONTAINERS, NAMES, PROMETHEUS, Place
from compose.rollout import Over
from compose.stack import Stack
from compose.traffic.loads import Sent
from deregister_agent.errors import AgentError
from tests.servers.child import wait_until

AGENTS = CONTAINERS.agents
TROUBLE = re.compile(r"\b(ERROR|CRITICAL)\b|^Traceback ")
WAITING = "deregister_agent_announcements_waiting"


class Whole(ABC):
    """What tests ask of the whole stack, beyond what a rolling deploy needs."""

    place: Place
    stack: Stack
    scraped = 15.0  # seconds until Prometheus must show what is true now

    @abstractmethod
    def ask(self, urls: Sequence[str]) -> list[Any]:
        """Return the JSON at each URL inside of the stack."""

    @abstractmethod
    def load_result(self) -> str:
        """End the load, and return what it wrote."""

    @abstractmethod
    def log(self, service: str) -> str:
        """Return all that a service has written."""

    def end_load(self) -> Over:
        """End the load once its last answer has come; return what it has sent."""
        result = json.loads(self.load_result())
        return Over([Sent(**one) for one in result["sent"]], result["retried"])

    def query(self, *expressions: str) -> list[Sequence[Mapping[str, Any]]]:
        """Ask Prometheus for the value of each now."""
        api = f"{self.place.url('prometheus', PROMETHEUS)}/api/v1/query"
        answers = self.ask([f"{api}?{urlencode({'query': each})}" for each in expressions])
        return [answer["data"]["result"] for answer in answers]

    def wait_serving(self) -> None:
        """Return once every registry lists every instance."""
        for name in NAMES:
            wait_until(partial(self._serves, name), f"{name} is in traffic", limit=60)

    def _serves(self, name: str) -> bool:
        with suppress(AgentError):
            body = self.stack.agent.get(f"/v1/instances/{name}").body
            return body["phase"] == "serving" and all(r["listed"] for r in body["registries"])
        return False

    def trouble(self) -> list[str]:
        """Return what is wrong with the agents: errors in their logs, announcements not taken."""
        found = [
            f"{agent} wrote: {line}"
            for agent in AGENTS
            for line in self.log(agent).splitlines()
            if TROUBLE.search(line)
        ]
        end = time.monotonic() + self.scraped
        while (waiting := self._waiting()) and time.monotonic() < end:
            time.sleep(0.5)
        return [*found, *waiting]

    def _waiting(self) -> list[str]:
        """Return which agents do not say that all announcements were taken."""
        (series,) = self.query(WAITING)
        counts = {each["metric"]["instance"]: each["value"][1] for each in series}
        few = [f"{len(counts)} agents of {len(AGENTS)} show {WAITING}"]
        told = [f"{agent}: {WAITING} is {n}" for agent, n in counts.items() if n != "0"]
        return told + (few if len(counts) != len(AGENTS) else [])
