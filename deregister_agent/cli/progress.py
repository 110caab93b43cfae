"""What a drain looks like to the person who waits for it."""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TextIO

Report = Mapping[str, Any]
"""The status of one instance, as the API gives it."""

_COLOURS = {
    "serving": 32,
    "drained": 32,
    "gone": 32,
    "expired": 31,
    "withdrawing": 33,
    "settling": 33,
    "draining": 33,
    "restoring": 33,
}
_BOLD_RED = "1;31"
_SECONDS = re.compile(r"\d+\.\d+")

Paint = Callable[[str, object], str]


class ProgressView(Protocol):
    """Where the progress of a drain is shown."""

    def show(self, report: Report) -> None:
        """Show how it stands now."""
        ...

    def say(self, sentence: str) -> None:
        """Tell something that is not in the report."""
        ...


class Silent:
    """Shows nothing: for ``--json``."""

    def show(self, report: Report) -> None:
        """Show nothing."""

    def say(self, sentence: str) -> None:
        """Say nothing."""


class Plain:
    """One line per change: for logs of pipelines."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._last = ""

    def show(self, report: Report) -> None:
        """Print a line if anything but the passing of time has changed."""
        text = f"{report['instance']['name']}: {summary(report)}"
        if _SECONDS.sub("", text) != self._last:
            self._print(text)
            self._last = _SECONDS.sub("", text)

    def say(self, sentence: str) -> None:
        """Print *sentence*, once until something else is printed, however its seconds pass."""
        kind = re.sub(r"\d+ s$", "", sentence)
        if kind != self._last:
            self._print(sentence)
            self._last = kind

    def _print(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {clean(text)}", file=self._out, flush=True)


class Live:
    """A few lines of a terminal, drawn again in place."""

    def __init__(self, out: TextIO, *, colour: bool) -> None:
        self._out, self._paint = out, painted if colour else unpainted
        self._drawn = 0
        self._lines: list[str] = []

    def show(self, report: Report) -> None:
        """Draw the report over the one before."""
        self._lines = describe(report, self._paint)
        self._draw(self._lines)

    def say(self, sentence: str) -> None:
        """Draw the sentence below the last report."""
        self._draw([*self._lines, f"  {clean(sentence)}"])

    def _draw(self, lines: list[str]) -> None:
        """
        Go up over what was drawn, clear, draw.

        Wrapping is off meanwhile: the terminal cuts long lines, so that the
        count of lines holds, whatever the width of a letter.
        """
        lines = lines[: shutil.get_terminal_size().lines - 1]
        up = f"\x1b[{self._drawn}F" if self._drawn else ""
        self._out.write(f"{up}\x1b[J\x1b[?7l" + "".join(f"{line}\n" for line in lines) + "\x1b[?7h")
        self._out.flush()
        self._drawn = len(lines)


def view_on(out: TextIO) -> ProgressView:
    """Return the view that fits where *out* leads: in place on a terminal, else line by line."""
    if out.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return Live(out, colour=wants_colour(out))
    return Plain(out)


def wants_colour(out: TextIO) -> bool:
    """Whether to use colours: on a terminal, and NO_COLOR (no-color.org) is not set."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def painted(text: str, colour: object) -> str:
    """Return *text* in an ANSI colour."""
    return f"\x1b[{colour}m{text}\x1b[0m"


def unpainted(text: str, colour: object) -> str:
    """Return *text* as it is."""
    del colour
    return text


def clean(text: str) -> str:
    """Return *text* without control characters: it comes from elsewhere and goes to a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def summary(report: Report) -> str:
    """Return one line: the phase, what each registry says, what is in flight and waited for."""
    parts = [str(report["phase"])]
    parts += [f"{one['name']} {_listing(one)}" for one in report.get("registries", [])]
    if in_hand := counted(report.get("in_flight") or {}):
        parts.append(f"in flight: {in_hand}")
    text = ", ".join(parts)
    if report.get("blocking"):
        text += f"; waits for: {'; '.join(report['blocking'])}"
    return text


def describe(report: Report, paint: Paint = unpainted) -> list[str]:
    """Return the whole report, in lines."""
    return [
        _head(report, paint),
        *(f"  registry  {_registry(one, paint)}" for one in report.get("registries", [])),
        *(f"  probe     {_probe(one, paint)}" for one in report.get("probes", [])),
        *_labelled("process ", _process(report.get("process") or {})),
        *_labelled("waits for", report.get("blocking", [])),
        *_labelled("note    ", report.get("notes", [])),
        *(
            paint(line, _BOLD_RED)
            for line in _labelled("TROUBLE ", filter(None, [report.get("error")]))
        ),
    ]


def counted(counts: Mapping[str, int]) -> str:
    """Return counts by kind as text, without those of zero: ``3 requests, 1 task``."""
    return ", ".join(
        f"{count} {kind.removesuffix('s') if count == 1 else kind}"
        for kind, count in counts.items()
        if count
    )


def _head(report: Report, paint: Paint) -> str:
    one, phase, drain = report["instance"], str(report["phase"]), report.get("drain") or {}
    where = f"{one['name']} ({one['service']}, {one['address']}:{one['port']})"
    text = f"{clean(where)}: {paint(phase, _COLOURS.get(phase, 0))}"
    if drain.get("outcome"):
        text += f", outcome {drain['outcome']}"
    if report.get("since"):
        text += f", since {report['since']}"
    if report.get("remaining") is not None:
        text += f", {max(0.0, report['remaining']):.0f} s to the deadline"
    return text


def _listing(registry: Report) -> str:
    match registry.get("listed"):
        case True:
            return "lists it"
        case False if registry.get("stragglers"):
            return "does not list it, but has stragglers"
        case False:
            return "does not list it"
        case _:
            return "has not told"


def _registry(registry: Report, paint: Paint) -> str:
    more = [_listing(registry)]
    if registry.get("acknowledged"):
        more.append("acknowledged")
    if registry.get("others") is not None:
        more.append(f"others: {registry['others']}")
    more += registry.get("stragglers") or []
    return _named(registry, more, paint)


def _probe(probe: Report, paint: Paint) -> str:
    counts = probe.get("in_flight")
    if counts is None:
        return _named(probe, ["has not told"], paint)
    return _named(probe, [counted(counts) or "nothing in flight"], paint)


def _named(one: Report, more: Iterable[str], paint: Paint) -> str:
    text = clean(f"{one['name']:<12} {', '.join(more)}")
    return f"{text}: {paint(clean(one['error']), _BOLD_RED)}" if one.get("error") else text


def _process(process: Report) -> list[str]:
    said = []
    if process.get("pids"):
        said.append("pid " + ", ".join(str(pid) for pid in process["pids"]))
    if process.get("exited"):
        said.append("the process that was drained has exited")
    return [*said, *filter(None, [process.get("note")])]


def _labelled(label: str, sentences: Iterable[str]) -> list[str]:
    return [f"  {label:<9} {clean(sentence)}" for sentence in sentences]
