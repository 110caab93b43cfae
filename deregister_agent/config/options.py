"""How a table of the configuration is described: strict, frozen, nothing unknown in it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from deregister_agent.errors import AgentError, hide_secret
from deregister_agent.host.files import read_plain
from deregister_agent.model import Announcement, Instance

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

    renamed_keys: ClassVar[Mapping[str, str]] = {}
    """Keys of the version before, which are still read, and what each is called now."""
    _outdated: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def label(self) -> str:
        """The name to be known by."""
        return self.name or self.kind

    @classmethod
    def read_table(cls, table: Mapping[str, Any]) -> Self:
        """Validate *table*, in which keys may have the names of the version before."""
        outdated = {
            old: new
            for old, new in cls.renamed_keys.items()
            if old in table and old not in cls.model_fields and new not in table
        }
        today = {outdated.get(key, key): value for key, value in table.items()}
        return cls.model_validate_json(json.dumps(today), context=outdated)

    def model_post_init(self, context: Any, /) -> None:
        """Remember which keys had an old name."""
        self._outdated |= context or {}

    def outdated_keys(self) -> list[str]:
        """Return for each key that had an old name the line to write instead."""
        said = self.model_dump(mode="json", include=set(self._outdated.values()))
        return [
            f"{old} is called {new} now; write {new} = {json.dumps(said[new])}"
            for old, new in self._outdated.items()
        ]


class ClientTlsOptions(BackendOptions):
    """The keys of every backend that may call a server by TLS."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"key": "certificate_key"}
    ca: Path | None = None
    """A file with the CAs to trust for TLS; the system's unless given."""
    certificate: Path | None = None
    """The client certificate, for a server that asks for one."""
    certificate_key: Path | None = None
    """The key of that certificate, if it is not in the same file."""

    @property
    def tls_files(self) -> tuple[Path | None, Path | None, Path | None]:
        """The three, as a Fetcher takes them."""
        return self.ca, self.certificate, self.certificate_key


class RegistryOptions(BackendOptions):
    """The keys that every registry takes."""

    identity_keys: ClassVar[frozenset[str]]
    """The keys that say where and as what the instance is looked for, and nothing else. What was
    seen under other values of them proves nothing. Without it, all keys count."""
    absent: Literal["refuse", "withdrawn"] = "refuse"
    """What it means that the registry does not show the instance and has not before: a mistake,
    and stop-traffic is refused; or that it is by choice not there, and not waited for."""

    def withdraws(self, instance: Instance) -> tuple[str, str] | None:
        """
        Return where what is withdrawn stands, and what ``not_ours`` calls it there.

        Another registry of the instance does not take it for somebody else's. None where
        there is no such option, or no such name before anybody has looked.
        """
        del instance
        return None


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
                value = read_plain(Path(source)).decode().strip()
            except (OSError, UnicodeDecodeError) as e:
                raise AgentError(f"cannot read the secret in {source}: {e}") from e
        if not value:
            raise AgentError(f"the secret in {source} is empty")
        hide_secret(value)
        return value
