"""
Any registry that a program can speak to: withdraw, restore and read-back are programs.

The read-back tells by its exit status. A script that crashes also exits with 1, so a
"not listed" from a program that complains on standard error is not believed.
"""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from deregister_agent.config.options import RegistryOptions, Secret, Timeout
from deregister_agent.errors import AgentError, RegistryError, excerpt
from deregister_agent.host.programs import ProgramError, Run, environment, output_of
from deregister_agent.model import Instance, Listing, Look, Snapshot
from deregister_agent.ports import Registry

OUTPUT_LIMIT = 4096  # bytes that a program may print
BEFORE = "it was out before the drain"
WAS_OUT = f"{BEFORE}, so it is not for us to list it: do that by hand"

CommandLine = Annotated[tuple[str, ...], Field(min_length=1)]

_NUMBER = re.compile(r"[0-9]{1,9}")


class Options(RegistryOptions):
    """The programs."""

    identity_keys: ClassVar[frozenset[str]] = frozenset({"lists", "folder", "env"})
    withdraw: CommandLine
    """The program that stops work, and its arguments; no shell looks at them."""
    restore: CommandLine
    """The program that lets work go on."""
    lists: CommandLine
    """The program that tells whether it is listed: exit status 0 if it is."""
    withdrawn_status: Annotated[int, Field(ge=1, le=125)] = 10
    """The exit status of ``lists`` that means "not listed"; any other is not known. Not 1, with
    which a ``grep`` ends also when nothing came down its pipe."""
    out_status: Annotated[int, Field(ge=1, le=125)] | None = None
    """The exit status of ``lists`` that means "it is there, and gets no work". With it,
    ``withdrawn_status`` means that it is not there."""
    others: CommandLine | None = None
    """A program that prints how many other instances would still get work."""
    folder: Path | None = None
    """The directory that they run in; the agent's own, unless it is given."""
    env: dict[str, str | Secret] = Field(default_factory=dict)
    """More environment variables: a text, or a table that says where a secret is."""
    timeout: Timeout = 10.0
    """How long one operation may take, in seconds; then its program and all it has started are
    killed."""

    @model_validator(mode="after")
    def _two_statuses(self) -> Self:
        if self.out_status == self.withdrawn_status:
            raise ValueError("out_status and withdrawn_status must differ")
        return self


class CommandRegistry(Registry):
    """One instance in a registry that programs speak to."""

    def __init__(self, options: Options, instance: Instance) -> None:
        self.name = options.label
        self._options, self._instance = options, instance

    def lists(self) -> bool:
        """Run ``lists``, as look() does."""
        return self.look().listed

    def look(self) -> Look:
        """Run ``lists``: 0 is listed, the two other statuses are not, all else RegistryError."""
        with self._doing("look up", self._options.lists) as end:
            return Look(self._listing(end))

    def others(self) -> int | None:
        """Run ``others``, if there is one, and take the number that it prints."""
        command = self._options.others
        if command is None:
            return None
        with self._doing("count the others of", command) as end:
            said = self._run(command, end).decode("ascii", errors="replace").strip()
            if _NUMBER.fullmatch(said) is None:
                raise AgentError(f"it printed {excerpt(said)!r}, not one whole number")
            return int(said)

    def snapshot(self) -> Snapshot | None:
        """Return whether the instance was listed; there is nothing more to know."""
        with self._doing("take a snapshot of", self._options.lists) as end:
            listing = self._listing(end)
            return None if listing is Listing.ABSENT else {"listed": listing is Listing.LISTED}

    def was_out_by(self, snapshot: Snapshot) -> str:
        """Say that it was out before the drain: ``lists`` does not tell by whom."""
        return BEFORE if snapshot.get("listed") is False else ""

    def withdraw(self) -> None:
        """Run ``withdraw``; exit status 0 means that it was done."""
        with self._doing("withdraw", self._options.withdraw) as end:
            self._run(self._options.withdraw, end)

    def restore(self, snapshot: Snapshot | None) -> None:
        """Run ``restore``, unless the instance is listed, or was not before the drain."""
        with self._doing("restore", self._options.restore) as end:
            if self._listing(end) is Listing.LISTED:
                return
            if snapshot is None or snapshot.get("listed") is False:
                raise AgentError(WAS_OUT)
            self._run(self._options.restore, end)

    def _listing(self, end: float) -> Listing:
        options = self._options
        says = {options.withdrawn_status: Listing.ABSENT, options.out_status: Listing.OUT}
        try:
            self._run(options.lists, end)
        except ProgramError as e:
            if e.status is None or e.status not in says:
                raise
            if e.complained:
                raise AgentError(
                    f"{options.lists[0]} says that it is not listed, but complains on "
                    f"standard error, as a script does that crashes: {e}"
                ) from e
            return says[e.status]
        return Listing.LISTED

    def _run(self, command: Sequence[str], end: float) -> bytes:
        variables = environment(self._instance, self._options.env)
        run = Run(command, variables, self._options.folder, OUTPUT_LIMIT)
        return output_of(run, max(0.01, round(end - time.monotonic(), 2)))

    @contextmanager
    def _doing(self, doing: str, command: Sequence[str]) -> Iterator[float]:
        """Yield the end of the time that one operation has."""
        try:
            yield time.monotonic() + self._options.timeout
        except AgentError as e:
            what = f"{doing} {self._instance.name} with {command[0]}"
            raise RegistryError(self.name, what, e) from e


def build(options: Options, instance: Instance) -> CommandRegistry:
    """Return the registry; the programs learn from their environment which instance is meant."""
    return CommandRegistry(options, instance)
