"""Whether the app is ready to take traffic: an HTTP status, seen several times in a row."""

from typing import Annotated

from pydantic import Field

from deregister_agent.errors import AgentError, ProbeError
from deregister_agent.fetch import Fetcher
from deregister_agent.options import Table, Timeout


class ReadyOptions(Table):
    """One ``[[instance.ready]]`` table."""

    url: str
    """Asked with GET; redirects are not followed."""
    status: Annotated[int, Field(ge=100, le=599)] = 200
    """The HTTP status that means ready."""
    passes: Annotated[int, Field(ge=1)] = 1
    """How many times in a row it must pass."""
    every: Annotated[float, Field(gt=0, le=60)] = 0.5
    """Seconds between two checks."""
    timeout: Timeout = 2.0
    """The limit of one check."""


class ReadyCheck:
    """One readiness check of the app."""

    def __init__(self, options: ReadyOptions) -> None:
        self._options = options
        self._fetcher = Fetcher(options.url, timeout=options.timeout)
        self.name = options.url
        self.passes, self.every = options.passes, options.every

    def ask(self) -> None:
        """Check once. Returning means that it passed; raises ProbeError otherwise."""
        try:
            answer = self._fetcher.call("GET", "")
        except AgentError as e:
            raise ProbeError(self.name, "see whether the app is ready", e) from e
        if answer.status != self._options.status:
            raise ProbeError(
                self.name,
                "call the app ready",
                f"it answered {answer.status}, not {self._options.status}",
            )
