"""
The text that Prometheus reads: the samples, and selectors that say which samples count.

Both forms: text 0.0.4 and OpenMetrics 1.0. Each line is exactly a sample or a comment, or
the text is refused. Why not ``prometheus_client.parser``: docs/decisions, number 11.
"""

import math
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

from deregister_agent.errors import excerpt

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*+"
_QUOTED = r'"(?>(?:[^"\\]|\\.)*)"'
_LINE = re.compile(
    rf'(?P<name>{_NAME})?[ \t]*+(?:\{{(?P<labels>(?>(?:[^"}}]|{_QUOTED})*))\}})?[ \t]*+'
    r"(?P<value>[+-]?(?:[0-9.]+(?:[eE][+-]?[0-9]+)?|Inf|NaN))"
    r"(?P<stamp>[ \t]+-?[0-9.]+)?[ \t]*+(?:#[ \t]*\{.*)?",
    re.IGNORECASE | re.ASCII,
)
_ITEM = re.compile(
    rf"[ \t]*(?:(?P<key>{_NAME})|(?P<quoted>{_QUOTED}))[ \t]*"
    rf"(?:(?P<how>=~|!~|!=|=)[ \t]*(?P<text>{_QUOTED})[ \t]*)?(?:,|$)"
)
_SELECTOR = re.compile(rf"(?P<name>{_NAME})(?:\{{(?P<labels>.*)\}})?")
_ESCAPED = re.compile(r"\\(.)")
_ODD_ESCAPE = re.compile(r'(?<!\\)(?:\\\\)*\\[^\\"n]')  # PromQL refuses most of them too
_EXACT = 2**53  # below it a float shows every whole number


class NotMetricsError(ValueError):
    """The text is not what Prometheus could read. A fragment of a sentence: why."""


@dataclass(frozen=True, slots=True)
class Matcher:
    """What one label must be; a missing label is the empty text."""

    label: str
    how: str
    text: str
    pattern: re.Pattern[str] | None = None

    def fits(self, labels: Mapping[str, str]) -> bool:
        """Whether *labels* are as the matcher wants."""
        found = labels.get(self.label, "")
        same = found == self.text if self.pattern is None else self.pattern.fullmatch(found)
        return bool(same) is self.how.startswith("=")


@dataclass(frozen=True, slots=True)
class Selector:
    """Which samples count: ``name{label="value", other=~"pattern"}``, as in PromQL."""

    name: str
    matchers: tuple[Matcher, ...] = ()
    text: str = field(default="", compare=False)

    @classmethod
    def of(cls, text: str) -> "Selector":
        """Read a selector. Raises ValueError with what is wrong."""
        whole = _SELECTOR.fullmatch(text.strip())
        if whole is None:
            raise ValueError(f'{text!r} is no metric; write name or name{{label="value"}}')
        matchers = []
        for item in _items(whole["labels"] or ""):
            if item["key"] is None or item["text"] is None:
                raise ValueError(f'{text!r}: a label is written label="value"')
            if odd := _ODD_ESCAPE.search(item["text"]):
                raise ValueError(f"{text!r}: write two backslashes in {odd[0]}, to mean one")
            matchers.append(_matcher(item["key"], item["how"], _plain(item["text"])))
        return cls(whole["name"], tuple(matchers), text.strip())

    def also(self, labels: Mapping[str, str]) -> "Selector":
        """Return this selector with more *labels*, each of which must be equal."""
        more = tuple(Matcher(label, "=", text) for label, text in labels.items())
        shown = "".join(f" and {label}={text!r}" for label, text in labels.items())
        return Selector(self.name, self.matchers + more, self.text + shown)

    def fits(self, sample: "Sample") -> bool:
        """Whether *sample* counts."""
        return sample.name == self.name and all(m.fits(sample.labels) for m in self.matchers)


def _matcher(label: str, how: str, text: str) -> Matcher:
    if not how.endswith("~"):
        return Matcher(label, how, text)
    try:
        return Matcher(label, how, text, re.compile(text))
    except re.error as e:
        raise ValueError(f"{text!r} is no regular expression: {e}") from e


@dataclass(frozen=True, slots=True)
class Sample:
    """One line: a number under a name and labels."""

    name: str
    labels: Mapping[str, str]
    value: str
    dated: bool  # with a time of its own, so perhaps old

    def __str__(self) -> str:
        """Return name and labels, in the same order each time."""
        labels = ",".join(f'{key}="{text}"' for key, text in sorted(self.labels.items()))
        return f"{self.name}{{{labels}}}" if labels else self.name

    def count(self) -> int:
        """Return the value as a count of things. Raises ValueError for any other number."""
        number = float(self.value)
        if not math.isfinite(number) or number < 0 or not number.is_integer() or number >= _EXACT:
            raise ValueError(f"{self} is {self.value}, not a whole number of at least 0")
        return int(number)


@dataclass(frozen=True, slots=True)
class MetricsPage:
    """The samples of the names that were asked for, and what else shows whether all came."""

    samples: Sequence[Sample]
    kinds: Mapping[str, str]  # type by name, as the text declares it
    lines: int  # how many samples there are, wanted or not
    ended: bool  # by "# EOF", which ends a whole text of OpenMetrics

    def counts_up(self, name: str) -> bool:
        """Whether *name* is declared a counter, which never goes down."""
        return "counter" in (self.kinds.get(name), self.kinds.get(name.removesuffix("_total")))


def read_metrics(text: str, wanted: Container[str]) -> MetricsPage:
    """Return the samples in *text* of the names *wanted*. Raises NotMetricsError at an odd line."""
    samples: dict[tuple[str, frozenset[tuple[str, str]]], Sample] = {}
    kinds: dict[str, str] = {}
    lines, ended = 0, False
    if not text.endswith("\n"):
        raise NotMetricsError("the last line breaks off")
    for number, line in enumerate(text[:-1].split("\n"), 1):
        if ended:
            raise NotMetricsError(f"line {number} comes after the end")
        stripped = line.strip(" \t\r")
        if stripped.startswith("#"):
            _note(stripped, kinds)
            ended = stripped == "# EOF"
        elif stripped:
            lines += 1
            sample = _sample(stripped, number, wanted)
            if sample is None:
                continue
            key = (sample.name, frozenset(sample.labels.items()))
            if key in samples:
                raise NotMetricsError(f"{sample} stands there twice")
            samples[key] = sample
    return MetricsPage(tuple(samples.values()), kinds, lines, ended)


def _note(comment: str, kinds: dict[str, str]) -> None:
    match comment.split(None, 4):
        case ["#", "TYPE", name, kind]:
            kinds[name.strip('"')] = kind
        case _:
            return


def _sample(line: str, number: int, wanted: Container[str]) -> Sample | None:
    """Return the sample in *line*; None if its name is not *wanted*."""
    found = _LINE.fullmatch(line)
    if found is None or not (found["name"] or found["labels"]):
        raise NotMetricsError(f"line {number} is no sample: {excerpt(line)!r}")
    name = found["name"]
    if name is not None and name not in wanted:
        return None
    try:
        name, labels = _named(name, found["labels"] or "")
        float(found["value"])
    except ValueError as e:
        raise NotMetricsError(f"line {number} is no sample ({e}): {excerpt(line)!r}") from e
    sample = Sample(name, labels, found["value"], found["stamp"] is not None)
    return sample if name in wanted else None


def _named(name: str | None, written: str) -> tuple[str, Mapping[str, str]]:
    """Return name and labels; a name that needs quotes stands first among the labels."""
    labels: dict[str, str] = {}
    for item in _items(written):
        label = item["key"] if item["quoted"] is None else _plain(item["quoted"])
        if item["text"] is None and item["quoted"] is not None and name is None:
            name = label
        elif item["how"] != "=" or label in labels:
            raise ValueError(f"label {label}")
        else:
            labels[label] = _plain(item["text"])
    if name is None:
        raise ValueError("no name")
    return name, labels


def _items(labels: str) -> Sequence[re.Match[str]]:
    """Split what stands between the braces. Raises ValueError at anything else in it."""
    found, at = [], 0
    labels = labels.strip(" \t")
    while at < len(labels):
        item = _ITEM.match(labels, at)
        if item is None:
            raise ValueError(f"labels {labels[at : at + 40]!r}")
        found.append(item)
        at = item.end()
    return found


def _plain(quoted: str) -> str:
    return _ESCAPED.sub(lambda m: "\n" if m[1] == "n" else m[1], quoted[1:-1])
