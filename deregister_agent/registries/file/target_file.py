"""
Find and change one target in the text of a Prometheus ``file_sd`` file.

Pure: text in, text out, and every byte that need not change stays. An edit is made
at positions that a YAML parser gives (for JSON as well, which is YAML but for its
tabs and escapes), and then proved: the new text must parse to exactly what was meant.
Format: prometheus.io, "Configuration", section file_sd_config.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import yaml

from deregister_agent.errors import AgentError
from deregister_agent.host.addresses import host_and_port
from deregister_agent.registries.file.text_edit import EntryPlace, NotExact, Span, WrittenList

Syntax = Literal["json", "yaml"]

_LIKE_TARGETS = {"targets", "target"}

# Every scalar a string: file_sd knows nothing else, and `no` or 10:30 stay what was written.
_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_NOT_YAML = re.compile(r"\\u[0-9a-fA-F]{4}|\\.|[^\x20-\x7e\r\n]")
_PLAINER = "write each group's targets as a plain list, without anchors, aliases or tags"


class FormatError(AgentError):
    """The text is not what file_sd takes, or cannot be changed exactly: a sentence part."""


class Group(NamedTuple):
    """Some targets, and the labels they share."""

    targets: list[str]
    labels: Mapping[str, str]


class TargetFile:
    """The content of one file. Raises FormatError if *text* is not a list of groups."""

    def __init__(self, text: str, syntax: Syntax) -> None:
        self.text, self._syntax = text, syntax
        self._data = _parsed(text, syntax)
        self.groups = [_group(number, group) for number, group in enumerate(self._data)]
        self.targets = frozenset(target for group in self.groups for target in group.targets)

    def holds(self, target: str) -> bool:
        """Tell whether any group has *target*."""
        return target in self.targets

    def spellings(self, target: str) -> Sequence[str]:
        """Return how the file spells the address that *target* names, sorted."""
        here = host_and_port(target)
        return () if here is None else self._spellings.get(here, ())

    @cached_property
    def _spellings(self) -> Mapping[tuple[str, int], list[str]]:
        found: dict[tuple[str, int], list[str]] = {}
        for target in sorted(self.targets):
            if (here := host_and_port(target)) is not None:
                found.setdefault(here, []).append(target)
        return found

    @cached_property
    def odd_targets(self) -> list[tuple[int, str, list[str]]]:
        """
        Return each key that is ``targets`` but for its letter case, its group, and what is in it.

        Prometheus takes it in JSON for what it looks like, as all programs in Go do.
        """
        return [
            (number, key, [str(one) for one in value])
            for number, group in enumerate(self._data)
            for key, value in group.items()
            if key != "targets"
            and key.strip().casefold() in _LIKE_TARGETS
            and isinstance(value, list)
        ]

    def places(self, target: str) -> list[tuple[int, EntryPlace]]:
        """Return the number of each group that has *target*, and the place in that group."""
        return [
            (number, self._place(number, group.targets.index(target)))
            for number, group in enumerate(self.groups)
            if target in group.targets
        ]

    def without(self, target: str) -> "TargetFile":
        """Return the file without *target*. A group that had no other target stays, empty."""
        after = self
        while after.holds(target):
            after = after._without_first(target)
        return after

    def including(self, target: str, number: int, place: EntryPlace) -> "TargetFile":
        """Return the file with *target* in a group: at *place*, or as near as there is."""
        targets = self.groups[number].targets
        at = min(place.position, len(targets))
        wanted = self._changed(number, [*targets[:at], target, *targets[at:]])
        try:
            texts = list(self._list(number).including(target, place._replace(position=at)))
        except NotExact as e:
            raise FormatError(f"it cannot be changed exactly: {e}; {_PLAINER}") from e
        return self._proved(texts, wanted)

    def with_group(self, target: str, labels: Mapping[str, str]) -> "TargetFile":
        """Return the file with one more group, at its end."""
        group = {"targets": [target], "labels": dict(labels)}
        return self._proved([self._groups().appended(group)], [*self._data, group])

    def _place(self, number: int, position: int) -> EntryPlace:
        try:
            return self._list(number).place(position)
        except NotExact:
            return EntryPlace(position, "")  # without() will say what is wrong

    def _without_first(self, target: str) -> "TargetFile":
        number = next(n for n, group in enumerate(self.groups) if target in group.targets)
        targets = self.groups[number].targets
        at = targets.index(target)
        try:
            text = self._list(number).without(at)
        except NotExact as e:
            raise FormatError(f"it cannot be changed exactly: {e}; {_PLAINER}") from e
        return self._proved([text], self._changed(number, targets[:at] + targets[at + 1 :]))

    def _changed(self, number: int, targets: list[str]) -> list[Any]:
        """Return the data with other targets in one group."""
        group = {**self._data[number], "targets": targets}
        return [*self._data[:number], group, *self._data[number + 1 :]]

    def _proved(self, texts: Iterable[str], wanted: list[Any]) -> "TargetFile":
        """Return the first text that says what is *wanted*, and nothing else."""
        for text in texts:
            try:
                after = TargetFile(text, self._syntax)
            except FormatError:
                continue
            if after._data == wanted:
                return after
        raise FormatError(f"it cannot be changed exactly; {_PLAINER}")

    def _groups(self) -> WrittenList:
        """Return how the list of groups is written."""
        return _written(self.text, self._tree(), colon=0)

    def _list(self, number: int) -> WrittenList:
        """Return how the targets of a group are written."""
        for key, value in reversed(self._tree().value[number].value):
            if key.value == "targets" and isinstance(value, yaml.SequenceNode):
                colon = self.text.index(":", key.end_mark.index) + 1
                return _written(self.text, value, colon)
        raise FormatError(f"group {number} has no list of targets; write targets: [] into it")

    def _tree(self) -> Any:
        plain = _NOT_YAML.sub(_as_yaml, self.text) if self._syntax == "json" else self.text
        try:
            return yaml.compose(plain, Loader=_Loader)
        except yaml.YAMLError as e:
            raise FormatError(f"it cannot be changed exactly: {_one_line(e)}") from e


def _as_yaml(found: re.Match[str]) -> str:
    """Replace what JSON allows and YAML does not by as many letters: positions stay."""
    return " " if found[0] == "\t" else "x" * len(found[0])


def _written(text: str, node: Any, colon: int) -> WrittenList:
    span, *entries = (Span(n.start_mark.index, n.end_mark.index) for n in (node, *node.value))
    bracketed = text[span.start] == "["
    return WrittenList(text, span, tuple(entries), bracketed, node.start_mark.column, colon)


def _parsed(text: str, syntax: Syntax) -> list[Any]:
    """Return the groups as plain data; an empty text may be a file that is just being written."""
    try:
        # _Loader makes strings only, whatever the tags.
        data = json.loads(text) if syntax == "json" else yaml.load(text, _Loader)  # noqa: S506
    except (ValueError, RecursionError, yaml.YAMLError) as e:
        raise FormatError(f"it is no {syntax.upper()}: {_one_line(e)}") from e
    if not isinstance(data, list):
        raise FormatError("it is not a list of groups; one without any is []")
    return data


def _group(number: int, group: Any) -> Group:
    if not isinstance(group, dict):
        raise FormatError(f"group {number} is no mapping with targets and labels")
    if "<<" in group:
        raise FormatError(f"group {number} has a merge key (<<), which file_sd does not need")
    targets, labels = group.get("targets") or [], group.get("labels") or {}
    if not isinstance(targets, list) or not all(isinstance(t, str) for t in targets):
        raise FormatError(f"the targets of group {number} are not a list of strings")
    if not isinstance(labels, dict) or not all(isinstance(v, str) for v in labels.values()):
        raise FormatError(f"the labels of group {number} are not strings by name")
    return Group(targets, labels)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
