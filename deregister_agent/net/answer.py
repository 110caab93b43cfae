"""What a server has answered, or why it has not."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import requests

from deregister_agent.errors import AgentError


class FetchError(AgentError):
    """There was no answer, or not one that can be read. A fragment of a sentence: why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said, whatever the status."""

    status: int
    headers: Mapping[str, str]  # names in any case
    body: bytes

    @property
    def text(self) -> str:
        """The body, read as UTF-8; what is not UTF-8 shows as a replacement character."""
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        """Return the body, read as JSON. Raises FetchError if it is something else."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as e:
            kind = self.headers.get("Content-Type", "no content type")
            start = self.text[:60] + ("..." if len(self.text) > 60 else "")  # noqa: PLR2004 - enough to recognise it
            raise FetchError(f"the answer is not JSON but {kind}: {start!r}") from e


def check_head(response: requests.Response) -> None:
    """Raise FetchError unless what follows is the answer's body as it is."""
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise FetchError(f"the answer is encoded as {encoding}, which was not asked for")
    if response.status_code < HTTPStatus.OK:
        raise FetchError(f"its answer is {response.status_code}, which was not asked for")
