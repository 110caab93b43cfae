"""How a table of the configuration is described: strict, frozen, nothing unknown in it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deregister_agent.errors import AgentError
from deregister_agent.model import Announcement

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A duration."""
Timeout = Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)]
"""The limit of one call, in seconds."""
Port = Annotated[int, Field(ge=1, le=65535)]


class Table(BaseModel):
    """One table of the configuration. Field descriptions are its reference documentation."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


class BackendOptions(Table):
    """The keys that every backend takes."""

    taken_out: ClassVar[Mapping[str, str]] = {}
    """Keys of former versions, and what to do instead of each."""
    kind: str
    """Which backend this is: the name of its file."""
    name: str = ""
    """What status, logs and metrics call it; the kind, unless one instance has two of a kind."""

    @property
    def label(self) -> str:
        """The name to be known by."""
        return self.name or self.kind


class NotifierOptions(BackendOptions):
    """The keys that every notifier takes."""

    announces: tuple[Announcement, ...] = tuple(Announcement)
    """Which announcements it is told."""


class Secret(Table):
    """A secret, kept out of the configuration itself: in a file or in the environment."""

    file: Path | None = None
    """Read from this file at each use, so that it can be renewed; white space around it is cut."""
    env: str | None = None
    """Read from this environment variable."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.file is None) == (self.env is None):
            raise ValueError("give either file or env")
        return self

    def read(self) -> str:
        """Return the secret. Raises AgentError, which names the source and never the value."""
        if self.env is not None:
            value = os.environ.get(self.env, "").strip()
            source = f"environment variable {self.env}"
        else:
            source = str(self.file)
            try:
                value = Path(source).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as e:
                raise AgentError(f"cannot read the secret in {source}: {e}") from e
        if not value:
            raise AgentError(f"the secret in {source} is empty")
        return value
