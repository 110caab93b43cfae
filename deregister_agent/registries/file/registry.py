"""
A Prometheus ``file_sd`` file, JSON or YAML: a registry that needs no server.

Whoever routes reads the file: Prometheus, a gateway's configuration generator, the
demonstration's load balancer. Format: prometheus.io, "Configuration", file_sd_config.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from deregister_agent.config.options import RegistryOptions, Timeout
from deregister_agent.errors import ConfigError, RegistryError, UnrecognisedError, few
from deregister_agent.host import addresses
from deregister_agent.host.files import locked, replace_durably
from deregister_agent.model import Instance, Snapshot
from deregister_agent.ports import Registry
from deregister_agent.registries.file.look_alikes import look_alikes
from deregister_agent.registries.file.other_targets import other_targets
from deregister_agent.registries.file.shared_file import shared_file
from deregister_agent.registries.file.target_file import FormatError, Syntax, TargetFile
from deregister_agent.registries.file.text_edit import EntryPlace

_LOOKING = "look for"
_SYNTAX: Mapping[str, Syntax] = {".json": "json", ".yml": "yaml", ".yaml": "yaml"}


class Options(RegistryOptions):
    """The keys of a ``file`` registry."""

    identity_keys: ClassVar[frozenset[str]] = frozenset({"path", "target"})
    path: Path
    """The file; its name ends in .json, .yml or .yaml."""
    target: str = ""
    """The instance as the file names it; its address:port when empty."""
    timeout: Timeout = 3.0
    """How long to wait, in seconds, while another program holds the file's lock, or an earlier
    look at the file has not ended."""
    not_ours: tuple[str, ...] = ()
    """Targets, letter for letter, that lead to the instance's address and are not withdrawn with
    it: those of another app, or of another instance of this configuration."""
    labels: dict[str, str] | None = None
    """The labels of the group to put the target into when there is no snapshot."""
    restore_by: Literal["agent", "app"] = "agent"
    """Who lists the instance when there is no snapshot: the agent, by labels, or the app itself."""

    @field_validator("path")
    @classmethod
    def _known_syntax(cls, path: Path) -> Path:
        if path.suffix not in _SYNTAX:
            raise ValueError(f"must end in {', '.join(_SYNTAX)}")
        return path

    def target_of(self, instance: Instance) -> str:
        """Return how the file calls the instance."""
        return self.target or addresses.joined(instance.address, instance.port)

    def withdraws(self, instance: Instance) -> tuple[str, str]:
        """Return the file, and the target."""
        return str(self.path), self.target_of(instance)


class FileRegistry(Registry):
    """One target in one file. Changes are made under the file's lock, and are durable."""

    def __init__(self, options: Options, instance: Instance) -> None:
        self.name = options.label
        self._options, self._path, self._service = options, options.path, instance.service
        self._target = options.target_of(instance)
        self._at = (instance.address, instance.port)
        self._unresolved: tuple[str, ...] = ()  # of the last question for others; for notes()
        self._file = shared_file(options.path, _SYNTAX[options.path.suffix])

    def lists(self) -> bool:
        """Read the file, now. One that is missing or cannot be parsed is unknown: RegistryError."""
        with self._doing(_LOOKING):
            file = self._read()
            if file.holds(self._target):
                return True
            self._refuse_other_spelling(file)
            return False

    def look_alikes(self) -> Sequence[str]:
        """Name targets that may be the instance in another form, or some of those there are."""
        with self._doing("look for what looks like"):
            return look_alikes(self._read(), self._target, self._options.not_ours)

    def other_registrations(self) -> Sequence[str]:
        """
        Name other targets that lead to the instance: in other spellings, by other names.

        What names stand for is asked for half the timeout; notes() then says which are not known.
        """
        options = self._options
        with self._doing("look for what else leads to"):
            file = self._read()
        # The other half is for the file, and for what is made of the answers.
        limit = options.timeout / 2
        found = other_targets(file, self._target, self._at, options.not_ours, limit)
        self._unresolved = tuple(found.unknown)
        return found.sentences

    def notes(self, snapshot: Snapshot | None) -> Sequence[str]:
        """Say which targets could be the instance by a name that stands for nothing here."""
        del snapshot
        note = (
            f"{self.name}: whether anything else in {self._path} leads to {self._target} was "
            "looked for without what is there with its port at names that stand for no address "
            f"here: {few(self._unresolved)}"
        )
        return (note,) if self._unresolved else ()

    def snapshot(self) -> Snapshot | None:
        """Return the labels of each group that has the target, and how it stands in it."""
        with self._doing("take a snapshot of"):
            file = self._read()
            places = [
                {"labels": dict(file.groups[number].labels), "group": number, **place._asdict()}
                for number, place in file.places(self._target)
            ]
        return {"places": places} if places else None

    def withdraw(self) -> None:
        """Take the target out of every group; all else stays as it is."""
        with self._doing("withdraw"), locked(self._path, self._options.timeout):
            before = self._read()
            self._write(before, before.without(self._target))

    def restore(self, snapshot: Snapshot | None) -> None:
        """
        Put the target back to where it was, unless it is listed already.

        The group is found again by its labels; if it has gone, one like it is added.
        """
        with self._doing("restore"):
            places = _places(snapshot) if snapshot is not None else self._places_by_options()
            with locked(self._path, self._options.timeout):
                before = after = self._read()
                if not before.holds(self._target):
                    for labels, number, place in places:
                        after = self._put(after, labels, number, place)
                self._write(before, after)

    def others(self) -> int:
        """
        Count the other targets in the groups of this service.

        Those are the groups that list the target, have the labels of one that does,
        or the labels of the options, or a label ``service`` that names the service.
        If no group is known to be, all other targets of the file count.
        """
        with self._doing("count the others of"):
            groups = self._read().groups
        like = [group.labels for group in groups if self._target in group.targets]
        like += [self._options.labels] if self._options.labels is not None else []
        ours = [
            group
            for group in groups
            if group.labels in like or group.labels.get("service") == self._service
        ]
        return len(
            {target for group in ours or groups for target in group.targets} - {self._target}
        )

    def watch(self, cursor: str | None, timeout: float) -> str:
        """Block until the file has the target and did not, or the other way round."""
        return self._file.watch(self._target, cursor, timeout)

    def _refuse_other_spelling(self, file: TargetFile) -> None:
        """Raise UnrecognisedError if the file has the instance, written in another way."""
        left_out = self._options.not_ours
        spelled = [one for one in file.spellings(self._target) if one not in left_out]
        odd = [key for _, key, inside in file.odd_targets if self._target in inside]
        if spelled:
            target = spelled[0]
            line = f"target = {json.dumps(target)}"
            why = (
                f"it has {target!r}, which is the same address: set target to that ({line}), or "
                f"write not_ours = {json.dumps([*left_out, target])} if it brings it no work"
            )
        elif odd:
            why = f"it has it below {odd[0]!r}, which is not read: write targets there"
        else:
            return
        raise UnrecognisedError(self.name, f"{_LOOKING} {self._target} in {self._path}", why)

    def _put(
        self, file: TargetFile, labels: Mapping[str, str], number: int, place: EntryPlace
    ) -> TargetFile:
        """Return *file* with the target in the group with these labels: in *number*, if it is."""
        alike = [n for n, group in enumerate(file.groups) if group.labels == labels]
        if not alike:
            return file.with_group(self._target, labels)
        found = number if number in alike else alike[0]
        if self._target in file.groups[found].targets:
            return file
        return file.including(self._target, found, place)

    def _places_by_options(self) -> list[tuple[Mapping[str, str], int, EntryPlace]]:
        if self._options.restore_by == "app":
            return []
        if self._options.labels is None:
            raise FormatError(
                "it was not listed when the drain began, so its group is not known; set labels, "
                'or restore_by = "app" if the app lists itself, or add it to the file by hand'
            )
        return [(self._options.labels, 0, EntryPlace(_LAST, ""))]

    def _read(self) -> TargetFile:
        return self._file.look(self._options.timeout)

    def _write(self, before: TargetFile, after: TargetFile) -> None:
        if after.text != before.text:
            replace_durably(self._path, after.text.encode())

    @contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, UnicodeDecodeError, FormatError) as e:
            doing = f"{what} {self._target} in {self._path}"
            raise RegistryError(self.name, doing, e) from e


_LAST = 2**31


def _places(snapshot: Snapshot) -> list[tuple[Mapping[str, str], int, EntryPlace]]:
    """Return what snapshot() has put into *snapshot*."""
    places: Any = snapshot["places"]
    return [
        (place["labels"], place["group"], EntryPlace(*(place[key] for key in EntryPlace._fields)))
        for place in places
    ]


def build(options: Options, instance: Instance) -> FileRegistry:
    """Return the registry for *instance*. Raises ConfigError."""
    target = options.target_of(instance)
    if target in options.not_ours:
        why = f"not_ours: {target!r} is the target of the instance itself"
        raise ConfigError(f"registry {options.label}", [why])
    return FileRegistry(options, instance)
